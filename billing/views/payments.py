"""What the account paid, and what came of it."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import details, funds, payment_log


@require_safe
@never_cache
@requires(Permission.SEE_MONEY)
def payments(request: HttpRequest, membership: Membership) -> HttpResponse:
    before = _id(request.GET.get("before", ""))
    page = payment_log.page(membership.account, before=before)
    facts = {
        "page": page,
        "turned": before is not None,
        "older": f"?before={page.older}" if page.older else "",
        "wallet": funds.wallet_of(membership.account),
        "details": details.of(membership.account),
    }
    return render(request, "billing/payments.html", facts)


def _id(text: str) -> UUID | None:
    """What is no id shows the newest page."""
    try:
        return UUID(text)
    except ValueError:
        return None
