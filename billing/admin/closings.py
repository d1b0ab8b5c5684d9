"""Accounts that are being closed: those with money left wait for a person who refunds it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import funds
from billing.admin import refunds
from billing.admin.base import CustomerRowsAdmin
from billing.models import AccountClosing
from billing.templatetags.money import usd


@admin.register(AccountClosing)
class AccountClosingAdmin(CustomerRowsAdmin):
    list_display = ["requested_at", "account", "state", "balance", "requested_by"]
    list_filter = ["state"]
    list_select_related = ["account__wallet", "requested_by"]
    fields = ["account", "state", "balance", "refund", "requested_at", "requested_by"]

    def get_urls(self) -> list[URLPattern]:
        return [*refunds.CLOSING_URLS, *super().get_urls()]

    def get_fields(self, request: HttpRequest, obj: AccountClosing | None = None) -> list[Any]:
        """Without the way to refund for those who may not."""
        fields = list(super().get_fields(request, obj))
        return fields if request.user.has_perm(refunds.MAY_REFUND) else [name for name in fields if name != "refund"]

    @admin.display(description="refund")
    def refund(self, closing: AccountClosing) -> SafeString | str:
        if closing.state != AccountClosing.State.MONEY_LEFT:
            return "-"
        address = reverse("admin:billing_accountclosing_refund", args=[closing.pk])
        return format_html('<a href="{}">Refund what is left</a>', address)

    @admin.display(description="balance")
    def balance(self, closing: AccountClosing) -> SafeString:
        return usd(funds.wallet_of(closing.account).posted)
