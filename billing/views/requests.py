"""The calls of the account, and one call in full."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import call_log, exports
from billing.call_log import Search
from billing.forms import CallFilter
from billing.views.downloads import download


@require_safe
@never_cache
@requires(Permission.SEE_USAGE)
def requests(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = CallFilter(request.GET.dict(), account=membership.account, now=datetime.now(UTC))
    if not form.is_valid():
        return render(request, "billing/requests.html", {"form": form}, status=400)
    page = call_log.page(_search(form), before=form.cleaned_data["before"], after=form.cleaned_data["after"])
    turned = form.cleaned_data["before"] is not None or form.cleaned_data["after"] is not None
    facts: dict[str, Any] = {
        "form": form,
        "page": page,
        "newer": _turned(request.GET, after=page.newer),
        "older": _turned(request.GET, before=page.older),
        "newest": _turned(request.GET) if turned else None,
        "filtered": any(value for name, value in request.GET.items() if name not in ("before", "after")),
        "query": _turned(request.GET),
    }
    return render(request, "billing/requests.html", facts)


@require_GET
@never_cache
@requires(Permission.SEE_USAGE)
def requests_csv(request: HttpRequest, membership: Membership) -> HttpResponseBase:
    now = datetime.now(UTC)
    form = CallFilter(request.GET.dict(), account=membership.account, now=now)
    if not form.is_valid():
        return render(request, "billing/requests.html", {"form": form}, status=400)
    period = None if form.any_time else form.chosen_period()
    name = f"requests-{period.since:%Y-%m-%d}-{period.last_day}" if period else f"requests-until-{now:%Y-%m-%d}"
    return download(membership, name, exports.CALLS, exports.calls(_search(form)))


@require_safe
@never_cache
@requires(Permission.SEE_USAGE)
def call(request: HttpRequest, membership: Membership, call_id: UUID) -> HttpResponse:
    found = call_log.find(membership.account, call_id)
    if found is not None:
        return render(request, "billing/request.html", {"call": found, "record": found.record})
    hold = call_log.running(membership.account, call_id)
    if hold is not None:
        return render(request, "billing/request_running.html", {"hold": hold})
    raise Http404


def _search(form: CallFilter) -> Search:
    period = None if form.any_time else form.chosen_period()
    return Search(
        account=form.account,
        since=period.since if period else None,
        until=period.until if period else None,
        key_id=form.cleaned_data["key"],
        model_id=form.model_id,
        outcome=form.cleaned_data["outcome"],
    )


def _turned(query: QueryDict, **cursor: UUID | None) -> str:
    """The same search on another page, as a query; empty where there is no such page."""
    if None in cursor.values():
        return ""
    turned = query.copy()
    for name in ("before", "after"):
        turned.pop(name, None)
    for name, call_id in cursor.items():
        turned[name] = str(call_id)
    return f"?{turned.urlencode()}"
