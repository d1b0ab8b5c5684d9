"""The mails about low balances: which were sent, and which the mail server did not take."""

from __future__ import annotations

from django.contrib import admin

from billing.admin.base import CustomerRowsAdmin, dollars
from billing.models import LowBalanceMail


@admin.register(LowBalanceMail)
class LowBalanceMailAdmin(CustomerRowsAdmin):
    list_display = [
        "created_at", "account", "recipient", dollars("threshold"), "state", "attempts", "error", "next_attempt_at",
        "sent_at",
    ]  # fmt: skip
    list_filter = ["state"]
    list_select_related = ["account", "recipient"]
    fields = [
        "account", "recipient", dollars("threshold"), "state", "attempts", "error", "next_attempt_at", "created_at",
        "sent_at",
    ]  # fmt: skip
