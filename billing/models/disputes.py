"""Payments that a bank wants back.

A **Dispute** is a bank that takes the money of a payment back, or, as an inquiry, only asks about it. A
**DisputeMovement** is money that left or came back because of it. A **DisputeMail** tells the operator of it. A
**PaymentFlag** says that a person must look at an account before it is charged by itself again. Amounts are US cents.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts.models import Account
from billing.models.mails import OutboxMail
from billing.models.payments import Payment
from billing.models.wallets import Transfer


class Dispute(models.Model):
    """As Stripe last told of it. What it did to our money is in its movements."""

    class Status(models.TextChoices):
        WARNING_NEEDS_RESPONSE = "warning_needs_response", "Inquiry: needs an answer"
        WARNING_UNDER_REVIEW = "warning_under_review", "Inquiry: the bank reads our answer"
        WARNING_CLOSED = "warning_closed", "Inquiry: closed, no money moved"
        NEEDS_RESPONSE = "needs_response", "Needs an answer"
        UNDER_REVIEW = "under_review", "The bank reads our answer"
        WON = "won"
        LOST = "lost"
        PREVENTED = "prevented"

    INQUIRIES = (Status.WARNING_NEEDS_RESPONSE, Status.WARNING_UNDER_REVIEW, Status.WARNING_CLOSED)
    UNANSWERED = (Status.WARNING_NEEDS_RESPONSE, Status.NEEDS_RESPONSE)
    CLOSED = (Status.WARNING_CLOSED, Status.WON, Status.LOST, Status.PREVENTED)

    stripe_id = models.CharField(max_length=255, unique=True)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="disputes")
    amount_cents = models.BigIntegerField(help_text="What is disputed, tax included.")
    status = models.CharField(max_length=50, choices=Status.choices)
    reason = models.CharField(max_length=100, help_text="In the words of the bank.")
    due_by = models.DateTimeField(null=True, help_text="Until when our evidence must be at Stripe.")
    opened_at = models.DateTimeField(help_text="By Stripe's clock.")
    closed_at = models.DateTimeField(null=True, help_text="When we heard of its end.")
    asked_at = models.DateTimeField(help_text="When Stripe was asked for what stands here.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="dispute_amount_positive"),
            models.CheckConstraint(
                condition=Q(
                    status__in=["warning_closed", "won", "lost", "prevented"],
                    closed_at__isnull=False,
                )
                | (~Q(status__in=["warning_closed", "won", "lost", "prevented"]) & Q(closed_at=None)),
                name="dispute_closed_at",
            ),
        ]
        indexes = [models.Index(fields=["due_by"], name="dispute_open", condition=Q(closed_at=None))]

    def __str__(self) -> str:
        return self.stripe_id

    @property
    def is_inquiry(self) -> bool:
        """The bank only asks; no money has moved."""
        return self.status in self.INQUIRIES

    @property
    def is_unanswered(self) -> bool:
        return self.status in self.UNANSWERED

    def days_left(self, now: datetime) -> int | None:
        """Whole days until our evidence is due, 0 on the last; None where no answer is awaited."""
        if not self.is_unanswered or self.due_by is None:
            return None
        return max(0, (self.due_by - now) // timedelta(days=1))


class DisputeMovement(models.Model):
    """One balance transaction of Stripe's: below zero it was taken from us, above it came back."""

    dispute = models.ForeignKey(Dispute, on_delete=models.PROTECT, related_name="movements")
    stripe_id = models.CharField(max_length=255, unique=True)
    cents = models.BigIntegerField()
    moved_at = models.DateTimeField(help_text="By Stripe's clock.")
    transfer = models.OneToOneField(
        Transfer, null=True, on_delete=models.PROTECT, related_name="dispute_movement",
        help_text="Of the wallet; none where all of it was tax.",
    )  # fmt: skip

    class Meta:
        constraints = [models.CheckConstraint(condition=~Q(cents=0), name="dispute_movement_moves")]

    def __str__(self) -> str:
        return self.stripe_id


class DisputeMail(OutboxMail):
    """To the operator: once about an inquiry, and once where it becomes a dispute."""

    class About(models.TextChoices):
        INQUIRY = "inquiry"
        DISPUTE = "dispute"

    dispute = models.ForeignKey(Dispute, on_delete=models.PROTECT, related_name="mails", db_index=False)
    about = models.CharField(max_length=10, choices=About.choices)

    class Meta(OutboxMail.Meta):
        constraints = (
            *OutboxMail.Meta.constraints,
            models.UniqueConstraint(fields=["dispute", "about"], name="dispute_mail_once"),
        )


class PaymentFlag(models.Model):
    """Its account is flagged until staff have cleared every one. A cause flags once: what was cleared stays cleared."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="payment_flags", db_index=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="flags")
    cause = models.CharField(max_length=255, unique=True, help_text="The dispute or warning, by its id at Stripe.")
    reason = models.CharField(max_length=300)
    flagged_at = models.DateTimeField(db_default=Now())
    cleared_at = models.DateTimeField(null=True)
    cleared_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(cleared_at=None, cleared_by=None) | Q(cleared_at__isnull=False, cleared_by__isnull=False),
                name="payment_flag_cleared_by_somebody",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="payment_flag_of_account"),
            models.Index(fields=["account"], name="payment_flag_standing", condition=Q(cleared_at=None)),
        ]

    def __str__(self) -> str:
        return f"flag of {self.account}: {self.reason}"
