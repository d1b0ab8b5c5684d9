"""What Stripe says of its side, kept so that it can be compared with the books.

A **StripeCursor** is how far one of Stripe's lists was read. A **BalanceTransaction** is one movement of our balance
there. A **ClearingCheck** is what the last comparison of one clearing account found; a **ClearingSeal** and its
**ClearingSubject** rows are what was added up before, so that no comparison reads all again. Amounts are cents, as
Stripe counts them.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from billing.models.wallets import LedgerAccount, Transfer


class StripeCursor(models.Model):
    """Stripe lists the newest first. A reading goes from `until` back to `since`; it has got as far as `after`."""

    class List(models.TextChoices):
        EVENTS = "events"
        PAYMENT_INTENTS = "payment_intents"
        REFUNDS = "refunds"
        DISPUTES = "disputes"
        BALANCE_TRANSACTIONS = "balance_transactions"

    list = models.CharField(max_length=30, choices=List.choices)
    livemode = models.BooleanField()
    since = models.DateTimeField(help_text="What is older was read.")
    until = models.DateTimeField(null=True, help_text="Where the reading under way began; none without one.")
    after = models.CharField(max_length=255, blank=True, help_text="The last object that was worked on in it.")
    read_at = models.DateTimeField(null=True, help_text="When a reading ended last.")
    error = models.CharField(max_length=500, blank=True, help_text="Why the last attempt stopped.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["list", "livemode"], name="stripe_cursor_of_list"),
            models.CheckConstraint(
                condition=Q(until__isnull=False) | Q(after=""), name="stripe_cursor_after_is_of_a_reading"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.list} ({'live' if self.livemode else 'test'})"


class BalanceTransaction(models.Model):
    """Never changes at Stripe. `posted_at` is set in the transaction of what it posted."""

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=100)
    reporting_category = models.CharField(max_length=100)
    amount_cents = models.BigIntegerField()
    fee_cents = models.BigIntegerField()
    net_cents = models.BigIntegerField()
    currency = models.CharField(max_length=10)
    kind = models.CharField(max_length=100, blank=True, help_text="What caused it: charge, refund, payout and so on.")
    source = models.CharField(max_length=255, blank=True, help_text="The id of that.")
    subject = models.CharField(max_length=255, help_text="The id under which the books have it.")
    payment_intent = models.CharField(max_length=255, blank=True)
    payment = models.CharField(max_length=255, blank=True, help_text="Our payment, as the charge names it.")
    created = models.DateTimeField(help_text="By Stripe's clock.")
    available_on = models.DateTimeField()
    livemode = models.BooleanField()
    foreign = models.BooleanField(default=False, help_text="Nothing of ours: of another app in this Stripe account.")
    transfer = models.OneToOneField(Transfer, null=True, on_delete=models.PROTECT, related_name="stripe_movement")
    fee_transfer = models.OneToOneField(Transfer, null=True, on_delete=models.PROTECT, related_name="stripe_fee")
    stored_at = models.DateTimeField(db_default=Now())
    posted_at = models.DateTimeField(null=True, help_text="When it was looked at, and posted what it asks for.")
    error = models.CharField(max_length=500, blank=True, help_text="Why it is not posted.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(net_cents=F("amount_cents") - F("fee_cents")), name="balance_transaction_net"
            ),
            models.CheckConstraint(
                condition=Q(posted_at__isnull=False) | Q(transfer=None, fee_transfer=None),
                name="balance_transaction_posted_has_a_time",
            ),
        ]
        indexes = [
            models.Index(fields=["-created", "-id"], name="balance_transaction_newest"),
            models.Index(fields=["payment_intent"], name="balance_transaction_of_payment"),
            models.Index(fields=["created", "id"], name="balance_transaction_unposted", condition=Q(posted_at=None)),
            models.Index(fields=["posted_at"], name="balance_transaction_posted"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class ClearingSeal(models.Model):
    """How far one clearing account was added up for good: transfers by number, balance transactions by `posted_at`.

    The next seal goes as far as a run looked some time ago.
    """

    clearing = models.CharField(max_length=20, primary_key=True, choices=LedgerAccount.choices)
    sealed_id = models.BigIntegerField(default=0)
    sealed_at = models.DateTimeField()
    next_id = models.BigIntegerField(default=0)
    next_at = models.DateTimeField(null=True)
    stripe_cents = models.BigIntegerField(default=0)
    books_cents = models.BigIntegerField(default=0)
    currencies = models.JSONField(default=dict)
    foreign_types = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.clearing


class ClearingSubject(models.Model):
    """What both sides say of one subject, up to the seal."""

    clearing = models.CharField(max_length=20, choices=LedgerAccount.choices)
    subject = models.CharField(max_length=255)
    stripe_cents = models.BigIntegerField()
    books_cents = models.BigIntegerField()
    moved_at = models.DateTimeField()
    foreign = models.BooleanField()
    what = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["subject", "clearing"], name="clearing_subject_once")]
        indexes = [
            models.Index(
                fields=["clearing"], name="clearing_subject_differs", condition=~Q(stripe_cents=F("books_cents"))
            )
        ]

    def __str__(self) -> str:
        return self.subject


class ClearingCheck(models.Model):
    """The difference is Stripe's balance less that of the books. It has three parts: what is not ours, what moved just
    now and may not have reached the other side, and what needs an explanation."""

    clearing = models.CharField(max_length=20, primary_key=True, choices=LedgerAccount.choices)
    stripe_cents = models.BigIntegerField()
    books_cents = models.BigIntegerField()
    foreign_cents = models.BigIntegerField()
    foreign_count = models.PositiveIntegerField()
    fresh_cents = models.BigIntegerField()
    fresh_count = models.PositiveIntegerField()
    unexplained_cents = models.BigIntegerField()
    unexplained_count = models.PositiveIntegerField()
    currencies = models.JSONField(help_text="Stripe's balance in currencies that are never posted, by currency.")
    foreign_types = models.JSONField(help_text="What is not ours by type: how many, and cents.")
    examples = models.JSONField(help_text="What differs, the oldest first, and no more than a page shows.")
    checked_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    stripe_cents=F("books_cents") + F("foreign_cents") + F("fresh_cents") + F("unexplained_cents")
                ),
                name="clearing_check_difference_has_parts",
            ),
        ]

    def __str__(self) -> str:
        return self.clearing

    @property
    def difference_cents(self) -> int:
        return self.stripe_cents - self.books_cents
