"""Where a customer agrees that the saved card is charged by itself, and turns that off again."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from allauth.account.decorators import reauthentication_required
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import clock, funds, money, payment_log
from billing.forms import RechargeForm
from billing.payments import auto_recharge, flags, stripe_api

NO_ANSWER = "The payment service does not answer. Please try again in a minute."


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def show(request: HttpRequest, membership: Membership) -> HttpResponse:
    account, now = membership.account, datetime.now(UTC)
    found = auto_recharge.of(account)
    form = RechargeForm(request.POST or None, recharge=found)
    if form.is_valid():
        try:
            _agree(request, membership, form.terms)
        except auto_recharge.CannotTurnOn as refusal:
            form.add_error(None, str(refusal))
        else:
            was_on = found is not None and found.enabled
            messages.success(request, "Auto-recharge is changed." if was_on else "Auto-recharge is on.")
            return redirect("billing:auto_recharge")
    notice = auto_recharge.notice(account)
    this_month = auto_recharge.charged_this_month(account.pk, now=now)
    facts = {
        "form": form,
        "recharge": found,
        "paused": flags.is_flagged(account.pk),
        "obstacle": auto_recharge.obstacle(account),
        "card": auto_recharge.card_of(account.pk),
        "notice": notice,
        "waiting_usd": money.usd(money.from_cents(notice.waiting_cents)) if notice and notice.waiting_cents else "",
        "this_month": this_month,
        "capped": found is not None and this_month + found.amount_cents > found.monthly_cap_cents,
        "most_failures": auto_recharge.MOST_FAILURES,
        "month": auto_recharge.month_of(now),
        "attempts": payment_log.lines(auto_recharge.attempts(account)),
        "wallet": funds.wallet_of(account),
        "form_id": uuid4(),
    }
    return render(request, "billing/auto_recharge.html", facts, status=400 if form.errors else 200)


@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def _agree(request: HttpRequest, membership: Membership, terms: auto_recharge.Terms) -> None:
    auto_recharge.turn_on(account=membership.account, terms=terms, by=membership, now=clock.now())


@require_POST
@never_cache
@requires(Permission.MANAGE_MONEY)
def turn_off(request: HttpRequest, membership: Membership) -> HttpResponse:
    auto_recharge.turn_off(account=membership.account, by=membership.user)
    messages.success(request, "Auto-recharge is off. Nothing is charged any more while you are away.")
    return redirect("billing:auto_recharge")


@require_POST
@never_cache
@requires(Permission.MANAGE_MONEY)
def remove_card(request: HttpRequest, membership: Membership) -> HttpResponse:
    try:
        auto_recharge.remove_card(account=membership.account, by=membership.user)
    except (stripe_api.Unavailable, stripe_api.NotConfigured):
        messages.error(request, f"The card is not removed yet. {NO_ANSWER}")
    else:
        messages.success(request, "The card is removed, here and at Stripe.")
    return redirect("billing:auto_recharge")
