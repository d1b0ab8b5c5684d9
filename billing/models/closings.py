"""Accounts that their owner closes, until no money of theirs is left with us."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account


class AccountClosing(models.Model):
    """Its row stays for ever. Money that is left is for a person: it is refunded, never forfeited."""

    class State(models.TextChoices):
        CLOSING = "closing", "waits for the last calls"
        MONEY_LEFT = "money_left", "money left: to be refunded by a person"
        CLOSED = "closed"

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="closing")
    state = models.CharField(max_length=12, choices=State.choices, default=State.CLOSING)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(db_default=Now())
    looked_at = models.DateTimeField(null=True, help_text="When the sweep looked last whether it can be finished.")

    class Meta:
        indexes = [
            # Those that wait longest, first those at which nobody has looked yet.
            models.Index(
                F("looked_at").asc(nulls_first=True), F("account"), name="closing_open", condition=~Q(state="closed")
            ),
        ]

    def __str__(self) -> str:
        return f"closing of {self.account}"
