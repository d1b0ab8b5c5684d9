"""The mails about low balances: which were sent, and which the mail server did not take."""

from __future__ import annotations

from django.contrib import admin

from billing.admin.base import MailAdmin, dollars
from billing.models import LowBalanceMail


@admin.register(LowBalanceMail)
class LowBalanceMailAdmin(MailAdmin):
    subject = ["account", "recipient", dollars("threshold")]
    list_select_related = ["account", "recipient"]
