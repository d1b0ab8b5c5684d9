"""Refunds: every one that there was, the mails about them, and the pages on which staff give a payment back, or all
that is left of one account. Looking needs the permission to view refunds, giving money back that to add them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import uuid_utils.compat as uuids
from allauth.account.decorators import reauthentication_required
from django import forms
from django.contrib import admin, messages
from django.contrib.auth.decorators import permission_required
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.models import User
from billing import clock, money
from billing.admin.base import CustomerRowsAdmin, MailAdmin, dollars_of_cents, uuid_of
from billing.models import AccountClosing, Payment, Refund, RefundMail
from billing.payments import auto_recharge, fulfilment, refund_room, refunds, stripe_api

MAY_REFUND = "billing.add_refund"
_may_refund = permission_required(MAY_REFUND, raise_exception=True)
State = Refund.State


class ReasonForm(forms.Form):
    """Its id makes a form that is sent twice one refund."""

    reason = forms.CharField(
        max_length=300,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text="For us: it stays with the refund. The customer does not see it.",
    )
    sure = forms.BooleanField(label="I am sure: the money leaves, and cannot be called back.")
    form_id = forms.UUIDField(widget=forms.HiddenInput)


class RefundForm(ReasonForm):
    amount = forms.DecimalField(
        label="Amount in USD",
        decimal_places=2,
        max_digits=12,
        min_value=Decimal("0.01"),
        help_text="What goes back to the card: with its part of the tax.",
        widget=forms.NumberInput(attrs={"step": "0.01"}),
    )
    field_order = ["amount", "reason", "sure"]

    @property
    def cents(self) -> int:
        return int(self.cleaned_data["amount"] * 100)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@_may_refund
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def refund_payment(request: HttpRequest, payment_id: UUID) -> HttpResponse:
    payment = get_object_or_404(Payment.objects.select_related("account"), pk=payment_id)
    room = refund_room.room(payment, now=clock.now())
    suggested = Decimal(room.most).scaleb(-2)
    form = RefundForm(request.POST or None, initial={"form_id": uuids.uuid7(), "amount": f"{suggested:.2f}"})
    if form.is_valid():
        asked = form.cleaned_data
        try:
            refund = refunds.start(
                form=asked["form_id"], payment=payment, cents=form.cents, reason=asked["reason"], by=_staff(request)
            )
        except refunds.CannotRefund as refusal:
            form.add_error(None, str(refusal))
        else:
            _tell(request, refund)
            return redirect("admin:billing_refund_change", refund.pk)
    recharge = auto_recharge.of(payment.account)
    facts = {"title": "Refund a payment", "payment": payment, "room": room, "recharge": recharge, "form": form}
    return render(request, "billing/refund_payment.html", {**admin.site.each_context(request), **facts})


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@_may_refund
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def refund_account(request: HttpRequest, pk: int) -> HttpResponse:
    """All that is left of what a closed account paid."""
    closing = get_object_or_404(AccountClosing.objects.select_related("account"), pk=pk)
    now = clock.now()
    parts = refund_room.parts_of(closing.account, now=now)
    form = ReasonForm(request.POST or None, initial={"form_id": uuids.uuid7(), "reason": "Account closed"})
    if form.is_valid():
        asked = form.cleaned_data
        begun, obstacles = refunds.start_all(
            form=asked["form_id"], account=closing.account, reason=asked["reason"], by=_staff(request)
        )
        for refund in begun:
            _tell(request, refund)
        for obstacle in obstacles:
            messages.error(request, obstacle)
        return redirect("admin:billing_accountclosing_change", closing.pk)
    total = sum(part.cents for part in parts)
    facts = {
        "title": f"Refund what is left of {closing.account}",
        "closing": closing,
        "parts": parts,
        "total": total,
        "total_usd": money.display_cents(total),
        "remains": refund_room.remains(closing.account, parts, now=now),
        "form": form,
    }
    return render(request, "billing/refund_account.html", {**admin.site.each_context(request), **facts})


def _tell(request: HttpRequest, refund: Refund) -> None:
    amount = money.display_cents(refund.amount_cents)
    match refund.state:
        case State.HELD:
            words = f"Stripe has not answered. {amount} is held for the refund, which goes on by itself."
            messages.warning(request, words)
        case State.REFUSED:
            words = f"Stripe refused to refund {amount} ({refund.failure_reason}). Nothing went, and nothing is held."
            messages.error(request, words)
        case State.FAILED:
            messages.error(request, f"The refund of {amount} failed ({refund.failure_reason}): the money came back.")
        case _:
            messages.success(request, f"{amount} is on its way to the card.")


def link_of(payment: Payment, words: str = "Refund this payment") -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse("admin:billing_payment_refund", args=[payment.pk]), words)


def _staff(request: HttpRequest) -> User:
    return cast(User, request.user)


PAYMENT_URLS: list[URLPattern] = [
    path("<uuid:payment_id>/refund/", admin.site.admin_view(refund_payment), name="billing_payment_refund"),
]
CLOSING_URLS: list[URLPattern] = [
    path("<int:pk>/refund/", admin.site.admin_view(refund_account), name="billing_accountclosing_refund"),
]


@admin.register(Refund)
class RefundAdmin(CustomerRowsAdmin):
    owner = "payment__account"
    ordering = ["-created_at", "-pk"]
    search_help_text = "An id of ours or of Stripe's (re_, pi_), or the e-mail address of a customer."
    list_display = [
        "created_at", "account", "state", dollars_of_cents("amount_cents"), "source", "requested_by",
        "failure_reason", "error",
    ]  # fmt: skip
    list_filter = ["state", "source"]
    list_select_related = ["payment__account", "requested_by"]
    fields = [
        "id", "account", "payment", "state", "failure_reason", "error",
        dollars_of_cents("amount_cents"), dollars_of_cents("tax_cents"), "stripe_id", "hold", "transfer",
        "source", "requested_by", "reason", "created_at", "updated_at", "posted_at",
    ]  # fmt: skip
    actions = ["work_again"]

    def row_of(self, term: str) -> Q | None:
        if re.fullmatch(r"(re|pyr|pi)_\w+", term, re.ASCII):
            return Q(stripe_id=term) | Q(payment__payment_intent=term)
        found = uuid_of(term)
        return Q(pk=found) | Q(payment=found) if found else None

    @admin.display(description="account")
    def account(self, refund: Refund) -> str:
        return str(refund.payment.account)

    def has_work_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_refund")

    @admin.action(description="Work again: ask Stripe what became of the chosen refunds", permissions=["work"])
    def work_again(self, request: HttpRequest, chosen: QuerySet[Refund]) -> None:
        for refund in chosen.select_related("payment"):
            try:
                _tell(request, refunds.refresh(refund))
            except (
                fulfilment.UnknownPayment, refunds.NotCredited,
                stripe_api.NotConfigured, stripe_api.Refused, stripe_api.Unavailable,
            ) as trouble:  # fmt: skip
                words: Any = f"Stripe did not tell about {refund}: {type(trouble).__name__} {trouble}"
                messages.error(request, words)


@admin.register(RefundMail)
class RefundMailAdmin(MailAdmin):
    owner = "refund__payment__account"
    subject = ["account", "refund", "about"]
    list_filter = ["about", "state"]
    list_select_related = ["refund__payment__account"]

    @admin.display(description="account")
    def account(self, mail: RefundMail) -> str:
        return str(mail.refund.payment.account)
