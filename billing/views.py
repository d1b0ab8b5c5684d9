"""The first page: what is for sale, and for a customer what the account has and did."""

from __future__ import annotations

from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import access
from accounts.access import Permission, requires
from accounts.models import Membership
from apikeys import keys
from apikeys.models import ApiKey
from billing import price_list, statements

RECENT_CALLS = 10


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    now = datetime.now(UTC)
    membership = access.current(request)
    account = membership.account if membership else None
    offers = price_list.offers(now=now, account=account)
    if account is None:
        return render(request, "home.html", {"offers": offers})
    return render(
        request,
        "billing/overview.html",
        {
            "account": account,
            "wallet": statements.wallet_of(account),
            "keys": ApiKey.objects.of_account(account).usable(now).order_by("-id")[: keys.KEYS_PER_ACCOUNT],
            "calls": statements.recent_calls(account, limit=RECENT_CALLS),
            "offers": offers,
        },
    )


@require_safe
@requires(Permission.SEE_USAGE)
def usage(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "billing/usage.html")


@require_safe
@requires(Permission.SEE_USAGE)
def requests(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "billing/requests.html")


@require_safe
@requires(Permission.SEE_MONEY)
def statement(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "billing/statement.html")
