"""Adding funds: how much, then Stripe's page, then what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat as uuids
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import funds, payment_log
from billing.forms import FundsForm
from billing.models import Payment
from billing.payments import flags, fulfilment, stripe_api, topups


class _SeeOther(HttpResponseRedirect):
    status_code = 303
    allowed_schemes = ["https", "http"]


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def add(request: HttpRequest, membership: Membership) -> HttpResponse:
    is_on = stripe_api.is_on()
    form = FundsForm(request.POST or None, initial={"form_id": uuids.uuid7()})
    is_closed = not topups.takes_payments(membership.account)
    trouble = ""
    if is_on and not is_closed and form.is_valid():
        payment = topups.open_payment(
            form=form.cleaned_data["form_id"],
            account=membership.account,
            amount_cents=form.amount_cents,
            save_card=form.cleaned_data["save_card"],
            by=membership.user,
            now=datetime.now(UTC),
        )
        answer = _to_checkout(request, payment)
        if isinstance(answer, HttpResponse):
            return answer
        trouble = answer
    facts = {
        "form": form,
        "is_on": is_on,
        "trouble": trouble,
        "simulated": is_on and not settings.STRIPE_LIVEMODE,
        "is_closed": is_closed,
        "wallet": funds.wallet_of(membership.account),
        "pending": topups.pending(membership.account),
        "is_flagged": flags.is_flagged(membership.account.pk),
    }
    return render(request, "billing/funds.html", facts, status=503 if trouble else 200)


@require_safe
@never_cache
@requires(Permission.SEE_MONEY)
def payment(request: HttpRequest, membership: Membership, payment_id: UUID) -> HttpResponse:
    """Where Stripe sends the customer back to. It asks Stripe, so that it need not wait for a message."""
    found = get_object_or_404(Payment, pk=payment_id, account=membership.account)
    try:
        found = fulfilment.look(found, now=datetime.now(UTC))
    except (stripe_api.Unavailable, stripe_api.Refused, stripe_api.NotConfigured, fulfilment.UnknownPayment):
        found.refresh_from_db()
    facts = {
        "payment": found,
        "left": "left" in request.GET and found.kind == Payment.Kind.TOPUP,
        "since": payment_log.since_paid(found),
        "wallet": funds.wallet_of(membership.account),
    }
    partial = "HX-Request" in request.headers
    return render(request, "billing/_payment.html" if partial else "billing/payment.html", facts)


@require_POST
@never_cache
@requires(Permission.MANAGE_MONEY)
def pay(request: HttpRequest, membership: Membership, payment_id: UUID) -> HttpResponse:
    """Go on with a payment that was begun."""
    found = get_object_or_404(Payment, pk=payment_id, account=membership.account, kind=Payment.Kind.TOPUP)
    if not stripe_api.is_on() or not topups.takes_payments(membership.account):
        return redirect("billing:funds")
    answer = _to_checkout(request, found)
    if isinstance(answer, HttpResponse):
        return answer
    facts = {"payment": found, "wallet": funds.wallet_of(membership.account), "trouble": answer, "left": True}
    return render(request, "billing/payment.html", facts, status=503)


def _to_checkout(request: HttpRequest, payment: Payment) -> HttpResponse | str:
    """The way to Stripe's page, or why there is none, for the customer."""
    ours = reverse("billing:payment", args=[payment.pk])
    try:
        # The host at which the person is signed in.
        url = topups.checkout_url(payment, return_url=request.build_absolute_uri(ours))
    except stripe_api.Unavailable:
        return "The payment service does not answer. Nothing was charged. Please try again in a minute."
    except stripe_api.Refused:
        return "The payment could not be started. Nothing was charged. Please try again."
    return _SeeOther(url) if url else redirect(ours)
