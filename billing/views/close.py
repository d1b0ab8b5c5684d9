"""Where an owner closes the account, and is told before what that does."""

from __future__ import annotations

from allauth.account.decorators import reauthentication_required
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import clock, closing
from billing.models import AccountClosing


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.CLOSE_ACCOUNT)
def close(request: HttpRequest, membership: Membership) -> HttpResponse:
    account = membership.account
    if request.method == "POST" and request.POST.get("sure") == "yes":
        try:
            _ask(request, membership)
        except closing.CannotClose as refusal:
            messages.error(request, str(refusal))
        return redirect("billing:close")
    begun = AccountClosing.objects.filter(account=account).first() if account.disabled_at else None
    facts = {
        "account": account,
        "begun": begun,
        "outlook": closing.outlook(account),
        "unsure": request.method == "POST",
    }
    return render(request, "billing/close.html", facts, status=400 if request.method == "POST" else 200)


@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def _ask(request: HttpRequest, membership: Membership) -> None:
    closing.ask(account=membership.account, by=membership, now=clock.now())
