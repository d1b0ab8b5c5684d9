"""Which mails about its money an account gets, and which about a low balance there were."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import balance_mails, balance_watch, details, document_mails, funds, money
from billing.forms import AlertsForm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def alerts(request: HttpRequest, membership: Membership) -> HttpResponse:
    account = membership.account
    shown = ", ".join(money.usd(amount) for amount in balance_watch.thresholds_of(account))
    mailed = document_mails.statements_are_mailed(account)
    form = AlertsForm(request.POST or None, initial={"amounts": shown, "statements": mailed})
    if form.is_valid():
        try:
            balance_watch.set_thresholds(account=account, amounts=form.cleaned_data["amounts"], by=membership.user)
        except balance_watch.InvalidThresholds as refusal:
            form.add_error("amounts", str(refusal))
        else:
            wanted = form.cleaned_data["statements"]
            document_mails.mail_statements(account=account, wanted=wanted, by=membership.user)
            messages.success(request, "Saved.")
            return redirect("billing:alerts")
    facts = {
        "form": form,
        "wallet": funds.wallet_of(account),
        "mails": balance_mails.recent(account),
        "contacts": details.contacts(account),
    }
    return render(request, "billing/alerts.html", facts, status=400 if form.errors else 200)
