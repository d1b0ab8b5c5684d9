"""The mails of receipts and statements: which were sent, and which the mail server did not take."""

from __future__ import annotations

from django.contrib import admin

from billing.admin.base import MailAdmin
from billing.models import DocumentMail


@admin.register(DocumentMail)
class DocumentMailAdmin(MailAdmin):
    subject = ["account", "receipt", "month"]
    list_select_related = ["account", "receipt"]
