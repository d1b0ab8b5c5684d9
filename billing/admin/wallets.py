"""The money, read-only: balances move only through `billing.ledger`."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q

from billing.admin.base import CustomerRowsAdmin, ReadOnlyAdmin, dollars
from billing.models import (
    BooksCheck,
    CreditLot,
    PeriodicTask,
    PromiseCheck,
    Transfer,
    Wallet,
)


@admin.register(Wallet)
class WalletAdmin(CustomerRowsAdmin):
    list_display = ["account", dollars("available"), dollars("posted"), dollars("held"), dollars("debt"), "seq"]
    list_select_related = ["account"]
    fields = [
        "account", dollars("available"), dollars("posted"), dollars("held"), dollars("debt"),
        "seq", "holds_opened", "holds_recorded", "holds_released",
    ]  # fmt: skip


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
