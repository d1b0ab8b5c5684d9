"""Mails about a low balance.

A **BalanceWatch** says that an account has chosen its thresholds, or was given the first one. A **BalanceThreshold** is
an amount; it is armed while the balance is above. A **LowBalanceMail** is one mail to one person about one crossing.
**WatchedTransfers** remembers how far the transfers were read.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from accounts.models import Account
from billing.models.mails import OutboxMail


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


class LowBalanceMail(OutboxMail):
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    threshold = models.BigIntegerField()

    class Meta(OutboxMail.Meta):
        indexes = (
            *OutboxMail.Meta.indexes,
            models.Index(fields=["account", "-id"], name="lowbalancemail_of_account"),
        )


class WatchedTransfers(models.Model):
    """One row: transfers up to this one need not be read again."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_id = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="watched_transfers_one_row")]

    def __str__(self) -> str:
        return f"transfers up to {self.last_id}"
