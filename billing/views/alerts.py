"""At which balances an account is mailed, and which mails there were."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import balance_mails, balance_watch, funds, money
from billing.forms import AlertsForm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def alerts(request: HttpRequest, membership: Membership) -> HttpResponse:
    account = membership.account
    shown = ", ".join(money.usd(amount) for amount in balance_watch.thresholds_of(account))
    form = AlertsForm(request.POST or None, initial={"amounts": shown})
    if form.is_valid():
        try:
            balance_watch.set_thresholds(account=account, amounts=form.cleaned_data["amounts"], by=membership.user)
        except balance_watch.InvalidThresholds as refusal:
            form.add_error("amounts", str(refusal))
        else:
            messages.success(request, "Saved.")
            return redirect("billing:alerts")
    facts = {"form": form, "wallet": funds.wallet_of(account), "mails": balance_mails.recent(account)}
    return render(request, "billing/alerts.html", facts, status=400 if form.errors else 200)
