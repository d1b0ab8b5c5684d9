"""Mails about a low balance.

A **BalanceWatch** says that an account has chosen its thresholds, or was given the first one. A **BalanceThreshold** is
an amount; it is armed while the balance is above. A **LowBalanceMail** is one mail to one person about one crossing.
**WatchedTransfers** remembers how far the transfers were read.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts.models import Account


class BalanceWatch(models.Model):
    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="balance_watch")

    def __str__(self) -> str:
        return f"watch of {self.account_id}"


class BalanceThreshold(models.Model):
    """Pico-USD. Armed: the balance was above since the last mail, so the next crossing is told."""

    watch = models.ForeignKey(BalanceWatch, on_delete=models.CASCADE, related_name="thresholds", db_index=False)
    amount = models.BigIntegerField()
    armed = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="threshold_positive"),
            models.UniqueConstraint(fields=["watch", "amount"], name="threshold_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.amount} of {self.watch_id}"


class LowBalanceMail(models.Model):
    """`next_attempt_at` is set while it waits: a worker that takes it moves it, so that no other takes it, too."""

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        DROPPED = "dropped", "not needed any more"
        FAILED = "failed", "given up"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    threshold = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    error = models.CharField(max_length=100, blank=True, db_default="", help_text="The kind of the last fault.")
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state="sent", sent_at__isnull=False) | (~Q(state="sent") & Q(sent_at=None)),
                name="low_balance_mail_sent_at",
            )
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="low_balance_mail_of_account"),
            models.Index(fields=["next_attempt_at"], name="low_balance_mail_waiting", condition=Q(state="waiting")),
        ]

    def __str__(self) -> str:
        return f"low balance mail {self.pk}"


class WatchedTransfers(models.Model):
    """One row: transfers up to this one need not be read again."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_id = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="watched_transfers_one_row")]

    def __str__(self) -> str:
        return f"transfers up to {self.last_id}"
