"""What came in from Stripe, read-only: what became of a payment, and the messages about it."""

from __future__ import annotations

import re
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.admin import refunds
from billing.admin.base import CustomerRowsAdmin, ReadOnlyAdmin, dollars_of_cents, uuid_of
from billing.models import Payment, StripeCustomer, StripeEvent
from billing.payments import inbox, stripe_api


class _Needing(admin.SimpleListFilter):
    title = "needs a person"
    parameter_name = "needs"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("person", "Yes: it has an error")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.exclude(error="") if self.value() else queryset


class _State(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("given_up", "Given up"), ("done", "Done"), ("not_ours", "Done: not ours")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "waiting":
                return queryset.filter(processed_at=None, next_attempt_at__isnull=False)
            case "given_up":
                return queryset.filter(processed_at=None, next_attempt_at=None)
            case "done":
                return queryset.filter(processed_at__isnull=False)
            case "not_ours":
                return queryset.filter(outcome=StripeEvent.Outcome.NOT_OURS)
        return queryset


@admin.register(Payment)
class PaymentAdmin(CustomerRowsAdmin):
    search_help_text = "An id of ours or of Stripe's (pi_, cs_, ch_), or the e-mail address of a customer."
    list_display = ["created_at", "account", "kind", "state", dollars_of_cents("amount_cents"), "livemode", "error"]
    list_filter = ["state", _Needing, "livemode", "kind"]
    list_select_related = ["account"]
    fields = [
        "id", "account", "kind", "state", "error", "failure_code", "livemode",
        dollars_of_cents("amount_cents"), dollars_of_cents("tax_cents"), dollars_of_cents("total_cents"),
        dollars_of_cents("returned_cents"), "refunds",
        "checkout_session", "payment_intent", "charge", "at_stripe", "customer", "transfer", "save_card",
        "requested_by", "created_at", "updated_at", "paid_at",
    ]  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        return [*refunds.PAYMENT_URLS, *super().get_urls()]

    def get_fields(self, request: HttpRequest, obj: Payment | None = None) -> list[Any]:
        """Without the way to refund for those who may not."""
        fields = list(super().get_fields(request, obj))
        return fields if request.user.has_perm(refunds.MAY_REFUND) else [name for name in fields if name != "refunds"]

    def row_of(self, term: str) -> Q | None:
        if re.fullmatch(r"(pi|cs|ch|py)_\w+", term, re.ASCII):
            return Q(payment_intent=term) | Q(checkout_session=term) | Q(charge=term)
        found = uuid_of(term)
        return Q(pk=found) if found else None

    @admin.display(description="refunds")
    def refunds(self, payment: Payment) -> SafeString | str:
        return refunds.link_of(payment) if payment.state == Payment.State.PAID else "-"

    @admin.display(description="at Stripe")
    def at_stripe(self, payment: Payment) -> SafeString | str:
        """The simulator has no such page."""
        address = stripe_api.dashboard(payment.payment_intent, livemode=payment.livemode)
        return format_html('<a href="{}">{}</a>', address, payment.payment_intent) if address else "-"


@admin.register(StripeCustomer)
class StripeCustomerAdmin(CustomerRowsAdmin):
    list_display = ["account", "stripe_id", "livemode", "card_brand", "card_last4", "consented_at"]
    list_select_related = ["account"]
    fields = [
        "account", "stripe_id", "livemode", "payment_method", "card_brand", "card_last4", "card_exp_month",
        "card_exp_year", "consented_at", "consented_by", "created_at",
    ]  # fmt: skip


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    ordering = ["-received_at", "-id"]
    list_display = [
        "received_at",
        "id",
        "type",
        "livemode",
        "attempts",
        "processed_at",
        "outcome",
        "next_attempt_at",
        "error",
    ]
    list_filter = [_State, _Needing, "livemode"]
    search_fields = ["id__exact", "type__exact"]
    search_help_text = "The id or the type of an event."
    sortable_by = ()
    actions = ["work_again"]

    def has_work_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_stripeevent")

    @admin.action(description="Work again on the chosen events", permissions=["work"])
    def work_again(self, request: HttpRequest, chosen: QuerySet[StripeEvent]) -> None:
        for event in chosen:
            inbox.work_again(event.pk)
        self.message_user(
            request, "They are worked on again within seconds. Doing it twice moves no money.", messages.SUCCESS
        )
