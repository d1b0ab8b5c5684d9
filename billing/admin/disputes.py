"""What banks want back: disputes with the day until which they must be answered, and the accounts that are flagged."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.models import User
from billing import clock
from billing.admin.base import CustomerRowsAdmin, MailAdmin, dollars_of_cents
from billing.models import Dispute, DisputeMail, Payment, PaymentFlag
from billing.payments import flags, stripe_api
from billing.templatetags.money import cents


class _Stage(admin.SimpleListFilter):
    title = "stage"
    parameter_name = "stage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unanswered", "Needs an answer"), ("open", "Open"), ("closed", "Closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "unanswered":
                return queryset.filter(status__in=Dispute.UNANSWERED)
            case "open":
                return queryset.filter(closed_at=None)
            case "closed":
                return queryset.filter(closed_at__isnull=False)
        return queryset


class _Standing(admin.SimpleListFilter):
    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "Cleared")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(cleared_at__isnull=self.value() == "yes") if self.value() else queryset


@admin.register(Dispute)
class DisputeAdmin(CustomerRowsAdmin):
    owner = "payment__account"
    search_help_text = "An id of Stripe's (dp_, du_, pi_, ch_), or the e-mail address of a customer."
    list_display = [
        "opened_at", "account", dollars_of_cents("amount_cents"), "status", "answer_due", "reason", "closed_at",
        "stripe_id",
    ]  # fmt: skip
    list_filter = [_Stage, "status"]
    list_select_related = ["payment__account"]
    fields = [
        "stripe_id", "account", "payment_of_ours", "at_stripe", dollars_of_cents("amount_cents"), "status", "reason",
        "answer_due", "moved", "flag", "mailed", "opened_at", "closed_at", "asked_at",
    ]  # fmt: skip

    def row_of(self, term: str) -> Q | None:
        if re.fullmatch(r"(dp|du)_\w+", term, re.ASCII):
            return Q(stripe_id=term)
        if re.fullmatch(r"(pi|ch|py)_\w+", term, re.ASCII):
            return Q(payment__payment_intent=term) | Q(payment__charge=term)
        return None

    @admin.display(description="account")
    def account(self, dispute: Dispute) -> str:
        return str(dispute.payment.account)

    @admin.display(description="answer due")
    def answer_due(self, dispute: Dispute) -> str:
        """With the days that are left; nothing where no answer is awaited."""
        left = dispute.days_left(datetime.now(UTC))
        if left is None or dispute.due_by is None:
            return "-"
        return f"{dispute.due_by:%Y-%m-%d %H:%M} UTC, {left} day{'' if left == 1 else 's'} left"

    @admin.display(description="payment")
    def payment_of_ours(self, dispute: Dispute) -> SafeString:
        return _link(dispute.payment)

    @admin.display(description="at Stripe")
    def at_stripe(self, dispute: Dispute) -> SafeString | str:
        payment = dispute.payment
        address = stripe_api.dashboard(payment.payment_intent, livemode=payment.livemode)
        return format_html('<a href="{}">Answer it there</a>', address) if address else "-"

    @admin.display(description="what moved")
    def moved(self, dispute: Dispute) -> SafeString | str:
        """Each movement of Stripe's balance, with the transfer of the wallet that it caused."""
        found = dispute.movements.select_related("transfer").order_by("moved_at", "id")
        lines = format_html_join(
            SafeString("<br>"),
            "{} {} <code>{}</code>{}",
            (
                (
                    f"{movement.moved_at:%Y-%m-%d %H:%M}",
                    cents(movement.cents),
                    movement.stripe_id,
                    _transfer(movement.transfer_id),
                )
                for movement in found
            ),
        )
        return lines or "Nothing"

    @admin.display(description="flag")
    def flag(self, dispute: Dispute) -> SafeString | str:
        """An inquiry has none."""
        found = PaymentFlag.objects.filter(cause=dispute.stripe_id).first()
        if found is None:
            return "-"
        address = f"{reverse('admin:billing_paymentflag_changelist')}?q={found.cause}"
        return format_html('<a href="{}">{}</a>', address, "Cleared" if found.cleared_at else "Stands: clear it there")

    @admin.display(description="told us by mail")
    def mailed(self, dispute: Dispute) -> str:
        mails = dispute.mails.order_by("pk")
        return ", ".join(f"{mail.about}: {mail.get_state_display()} {mail.error}".strip() for mail in mails) or "-"


@admin.register(PaymentFlag)
class PaymentFlagAdmin(CustomerRowsAdmin):
    search_help_text = "The dispute or warning (dp_, du_, issfr_), or the e-mail address of a customer."
    list_display = ["flagged_at", "account", "reason", "payment_of_ours", "cleared_at", "cleared_by", "cause"]
    list_filter = [_Standing]
    list_select_related = ["account", "payment", "cleared_by"]
    fields = ["account", "reason", "cause", "payment_of_ours", "flagged_at", "cleared_at", "cleared_by"]
    actions = ["clear"]

    def row_of(self, term: str) -> Q | None:
        return Q(cause=term) if re.fullmatch(r"(dp|du|issfr)_\w+", term, re.ASCII) else None

    def has_clear_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_paymentflag")

    @admin.action(description="Clear: somebody has looked, the account may be charged by itself", permissions=["clear"])
    def clear(self, request: HttpRequest, chosen: QuerySet[PaymentFlag]) -> None:
        cleared = flags.clear(chosen.select_related("account"), now=clock.now(), by=cast(User, request.user))
        self.message_user(request, f"Cleared: {cleared}.", messages.SUCCESS)

    @admin.display(description="payment")
    def payment_of_ours(self, flag: PaymentFlag) -> SafeString:
        return _link(flag.payment)


@admin.register(DisputeMail)
class DisputeMailAdmin(MailAdmin):
    owner = "dispute__payment__account"
    subject = ["dispute", "about"]
    list_select_related = ["dispute"]


def _link(payment: Payment) -> SafeString:
    address = reverse("admin:billing_payment_change", args=[payment.pk])
    return format_html('<a href="{}">{}</a>', address, payment)


def _transfer(transfer_id: int | None) -> SafeString | str:
    if transfer_id is None:
        return ""  # All of it was tax.
    address = reverse("admin:billing_transfer_change", args=[transfer_id])
    return format_html(' <a href="{}">transfer {}</a>', address, transfer_id)
