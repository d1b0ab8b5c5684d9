"""Where a customer gives a code for promotional credit, and sees what there is of it."""

from __future__ import annotations

from uuid import uuid4

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import clock, funds, money, vouchers
from billing.forms import RedeemForm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def redeem(request: HttpRequest, membership: Membership) -> HttpResponse:
    now = clock.now()
    form = RedeemForm(request.POST or None, initial={"form_id": uuid4()})
    if form.is_valid():
        try:
            redemption = vouchers.redeem(
                account=membership.account,
                code=form.cleaned_data["code"],
                form_id=form.cleaned_data["form_id"],
                now=now,
                by=membership.user,
            )
        except vouchers.Refused as refusal:
            form.add_error("code", str(refusal))
        else:
            lot = redemption.transfer.lot
            until = f"It expires on {lot.expires_at:%Y-%m-%d %H:%M} UTC." if lot.expires_at else "It does not expire."
            messages.success(request, f"{money.display(lot.amount)} of promotional credit was added. {until}")
            return redirect("billing:redeem")
    wallet, lots = funds.wallet_of(membership.account), funds.promotional(membership.account, now=now)
    facts = {"form": form, "wallet": wallet, "lots": lots}
    return render(request, "billing/redeem.html", facts, status=400 if form.errors else 200)
