"""What the account used and spent: a chart, the same as a table, and as a file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import charts, exports, refusals, spending
from billing.forms import UsageFilter
from billing.spending import Scope
from billing.views.downloads import download


@require_safe
@never_cache
@requires(Permission.SEE_USAGE)
def usage(request: HttpRequest, membership: Membership) -> HttpResponse:
    now = datetime.now(UTC)
    form = UsageFilter(request.GET.dict(), account=membership.account, now=now)
    if not form.is_valid():
        return render(request, "billing/usage.html", {"form": form}, status=400)
    scope, period = _scope(form), form.chosen_period()
    group = form.cleaned_data["group"]
    series = spending.series(scope, group=group)
    return render(
        request,
        "billing/usage.html",
        {
            "form": form,
            "period": period,
            "now": now,
            "group": group,
            "series": series,
            "total": spending.total(series),
            "chart": _chart(scope, series, group, now) if series else None,
            "free": refusals.of(membership.account, since=period.since, until=period.until),
            "narrowed": scope.key_id is not None or scope.model_id is not None,
            "query": request.GET.urlencode(),
        },
    )


@require_GET
@never_cache
@requires(Permission.SEE_USAGE)
def usage_csv(request: HttpRequest, membership: Membership) -> HttpResponseBase:
    now = datetime.now(UTC)
    form = UsageFilter(request.GET.dict(), account=membership.account, now=now)
    if not form.is_valid():
        return render(request, "billing/usage.html", {"form": form}, status=400)
    period = form.chosen_period()
    name = f"usage-{period.since:%Y-%m-%d}-{period.last_day}"
    return download(membership, name, exports.USAGE, exports.usage(_scope(form), now=now))


def _scope(form: UsageFilter) -> Scope:
    return Scope(form.account, form.chosen_period(), form.cleaned_data["key"], form.model_id)


def _chart(scope: Scope, series: list[spending.Series], group: str, now: datetime) -> charts.Chart:
    """The dearest get a colour each, the others one together."""
    chosen = [] if group == "none" else series[: charts.SERIES]
    names: list[Any] = [one.name for one in chosen]
    if group == "none":
        names.append("All calls")
    elif len(series) > len(chosen):
        names.append("Other")
    amounts = spending.by_step(scope, group=group, chosen=chosen)
    return charts.stacked(
        names=names,
        moments=scope.period.steps(now),
        amounts={moment: charges[: len(names)] for moment, charges in amounts.items()},
        step=scope.period.step,
        now=now,
    )
