"""Accounts that are being closed: those with money left wait for a person who refunds it."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from billing import funds
from billing.admin.base import CustomerRowsAdmin
from billing.models import AccountClosing
from billing.templatetags.money import usd


@admin.register(AccountClosing)
class AccountClosingAdmin(CustomerRowsAdmin):
    list_display = ["requested_at", "account", "state", "balance", "requested_by"]
    list_filter = ["state"]
    list_select_related = ["account__wallet", "requested_by"]
    fields = ["account", "state", "balance", "requested_at", "requested_by"]

    @admin.display(description="balance")
    def balance(self, closing: AccountClosing) -> SafeString:
        return usd(funds.wallet_of(closing.account).posted)
