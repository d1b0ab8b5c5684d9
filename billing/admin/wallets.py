"""The money, read-only: balances move only through `billing.ledger`."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.admin.base import CustomerRowsAdmin, ReadOnlyAdmin, dollars
from billing.models import (
    BooksCheck,
    CreditLot,
    PaymentFlag,
    PeriodicTask,
    PromiseCheck,
    Transfer,
    Wallet,
)

_FLAGS = PaymentFlag.objects.filter(account=OuterRef("account"), cleared_at=None)


class _Flagged(admin.SimpleListFilter):
    title = "flagged"
    parameter_name = "flagged"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Yes: a payment was disputed, or fraud is feared")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(is_flagged=True) if self.value() else queryset


@admin.register(Wallet)
class WalletAdmin(CustomerRowsAdmin):
    list_display = [
        "account",
        "flagged",
        dollars("available"),
        dollars("posted"),
        dollars("held"),
        dollars("debt"),
        "seq",
    ]
    list_filter = [_Flagged]
    list_select_related = ["account"]
    fields = [
        "account", "flagged", dollars("available"), dollars("posted"), dollars("held"), dollars("debt"),
        "seq", "holds_opened", "holds_recorded", "holds_released",
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Wallet]:
        wallets: QuerySet[Wallet] = super().get_queryset(request)
        return wallets.annotate(is_flagged=Exists(_FLAGS))

    @admin.display(description="flagged")
    def flagged(self, wallet: Any) -> SafeString | str:
        """A way to the flags of the account, where one stands."""
        if not wallet.is_flagged:
            return "-"
        address = reverse("admin:billing_paymentflag_changelist")
        return format_html(
            '<a class="flagged" href="{}?standing=yes&account__id__exact={}">Flagged</a>', address, wallet.pk
        )


@admin.register(Transfer)
class TransferAdmin(CustomerRowsAdmin):
    owner = "wallet"
    search_help_text = "The cause, or the e-mail address of a customer."
    list_display = [
        "created_at", "kind", "account", dollars("amount"), "debit", "credit", dollars("balance_after"),
        "cause", "created_by",
    ]  # fmt: skip
    list_filter = ["kind"]
    list_select_related = ["wallet__account", "created_by"]
    fields = [
        "kind", "account", dollars("amount"), "debit", "credit", "wallet_seq", dollars("balance_after"),
        "cause", "reason", "day", "created_at", "created_by",
    ]  # fmt: skip

    def row_of(self, term: str) -> Q | None:
        return Q(cause=term) if ":" in term else None

    @admin.display(description="account")
    def account(self, transfer: Transfer) -> str | None:
        return str(transfer.wallet.account) if transfer.wallet else None


@admin.register(CreditLot)
class CreditLotAdmin(CustomerRowsAdmin):
    owner = "wallet"
    list_display = ["created_at", "account", "kind", dollars("amount"), dollars("remaining"), "expires_at"]
    list_filter = ["kind"]
    list_select_related = ["wallet__account"]
    fields = ["account", "kind", dollars("amount"), dollars("remaining"), "expires_at", "transfer", "created_at"]

    @admin.display(description="account")
    def account(self, lot: CreditLot) -> str:
        return str(lot.wallet.account)


@admin.register(BooksCheck)
class BooksCheckAdmin(ReadOnlyAdmin):
    list_display = ["account", "seq", dollars("balance"), "checked_at"]
    list_select_related = ["wallet__account"]
    fields = ["account", "seq", dollars("balance"), "checked_at"]

    @admin.display(description="account")
    def account(self, check: BooksCheck) -> str:
        return str(check.wallet.account)


@admin.register(PromiseCheck)
class PromiseCheckAdmin(ReadOnlyAdmin):
    list_display = ["promise", "broken", "checked_at"]


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(ReadOnlyAdmin):
    list_display = ["name", "every_seconds", "sent_at", "done_at"]
