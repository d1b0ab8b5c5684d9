"""The first page: what is for sale, and for a customer what the account has and did."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import access
from accounts.access import Permission, requires
from accounts.models import Account, Membership
from apikeys.models import ApiKey
from billing import call_log, charts, first_steps, funds, periods, price_list, spending
from billing.models import AccountClosing, CreditLot
from billing.payments import auto_recharge
from billing.spending import Day

RECENT_CALLS = 10
SHOWN_KEYS = 5
CHART_DAYS = 30
PACE_DAYS = 7


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    now = datetime.now(UTC)
    membership = access.current(request)
    account = membership.account if membership else None
    offers = price_list.offers(now=now, account=account)
    if account is None:
        return render(request, "home.html", {"offers": offers})
    wallet = funds.wallet_of(account)
    lots = funds.promotional(account, now=now)
    calls = call_log.recent(account, limit=RECENT_CALLS)
    # One more than is shown tells that there are more.
    keys = list(ApiKey.objects.of_account(account).usable(now).order_by("-id")[: SHOWN_KEYS + 1])
    facts: dict[str, Any] = {
        "account": account,
        "closing": AccountClosing.objects.filter(account=account).first() if account.disabled_at else None,
        "wallet": wallet,
        "lots": lots,
        "calls": calls,
        "keys": keys[:SHOWN_KEYS],
        "more_keys": len(keys) > SHOWN_KEYS,
        "offers": offers,
        "model": _model_of(offers),
    }
    if access.may(membership, Permission.MANAGE_MONEY):
        facts["recharge"] = auto_recharge.notice(account)
    if calls:
        facts |= _spending(account, wallet.available, lots, now)
    else:
        facts["steps"] = first_steps.of(account, has_key=bool(keys), now=now)
    return render(request, "billing/overview.html", facts)


@require_safe
@never_cache
@requires(Permission.SEE_USAGE)
def steps(request: HttpRequest, membership: Membership) -> HttpResponse:
    """What the first page of a new account asks every two seconds; 204 as long as nothing has changed."""
    now = datetime.now(UTC)
    account = membership.account
    calls = call_log.recent(account, limit=1)
    has_key = ApiKey.objects.of_account(account).usable(now).exists()
    steps = first_steps.of(account, has_key=has_key, now=now)
    if not calls and request.GET.get("shown") == steps.version:
        return HttpResponse(status=204)
    facts = {
        "steps": steps,
        "arrived": bool(calls),
        "call": calls[0] if calls else None,
        "wallet": funds.wallet_of(account),
        "lots": funds.promotional(account, now=now),
        "model": _model_of(price_list.offers(now=now, account=account)),
    }
    return render(request, "billing/_first_steps.html", facts)


def _model_of(offers: list[price_list.Offer]) -> str:
    return offers[0].model.public_id if offers else ""


def _spending(account: Account, available: int, lots: list[CreditLot], now: datetime) -> dict[str, Any]:
    today = now.date()
    this_month, last_month = periods.month_of(today), periods.month_before(today)
    shown = periods.last_days(CHART_DAYS, now=now)
    since = min(last_month.since, shown.since)
    days = spending.by_day(account, periods.Period(since, periods.start_of(today) + periods.DAY))
    return {
        "today": _between(days, today, today),
        "yesterday": _between(days, today - periods.DAY, today - periods.DAY),
        "this_month": _between(days, this_month.since.date(), today),
        "last_month": _between(days, last_month.since.date(), last_month.last_day),
        "last_month_name": last_month.since,
        "chart": charts.stacked(
            names=["Spend"],
            moments=shown.steps(now),
            amounts={periods.start_of(day): [found.charge] for day, found in days.items()},
            step=periods.DAY,
            now=now,
        ),
        "runway": _runway(available, lots, days, now),
    }


def _runway(available: int, lots: list[CreditLot], days: dict[date, Day], now: datetime) -> funds.Runway:
    """The pace is that of the last days, or of the time since the first call."""
    pace = periods.last_days(PACE_DAYS, now=now)
    first = min((found.first_hour for found in days.values()), default=now)
    spent = _between(days, pace.since.date(), pace.last_day)
    return funds.runway(available=available, lots=lots, spent=spent, over=now - max(pace.since, first), now=now)


def _between(days: dict[date, Day], first: date, last: date) -> int:
    return sum(found.charge for day, found in days.items() if first <= day <= last)
