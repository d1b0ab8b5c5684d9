"""The mails of receipts and statements: which were sent, and which the mail server did not take."""

from __future__ import annotations

from django.contrib import admin

from billing.admin.base import CustomerRowsAdmin
from billing.models import DocumentMail


@admin.register(DocumentMail)
class DocumentMailAdmin(CustomerRowsAdmin):
    list_display = [
        "created_at", "account", "receipt", "month", "state", "attempts", "error", "next_attempt_at", "sent_at",
    ]  # fmt: skip
    list_filter = ["state"]
    list_select_related = ["account", "receipt"]
    fields = [
        "account", "receipt", "month", "state", "attempts", "error", "next_attempt_at", "created_at", "sent_at",
    ]  # fmt: skip
