"""Money of a payment that goes back to its card.

A **Refund** is one attempt to give some of a payment back: begun by our staff, or found at Stripe because somebody gave
it back there. A **RefundMail** tells the customer of it. Amounts are US cents, tax included, as Stripe counts them; the
ledger holds pico-USD.
"""

from __future__ import annotations

import uuid_utils.compat as uuids
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from billing import money
from billing.models.mails import OutboxMail
from billing.models.payments import Payment
from billing.models.wallets import RefundHold, Transfer


class Refund(models.Model):
    """Its id is our idempotency key at Stripe, so it is there before Stripe is asked."""

    class State(models.TextChoices):
        HELD = "held", "held: Stripe has not answered yet"
        SENT = "sent", "on its way"
        SUCCEEDED = "succeeded"
        FAILED = "failed", "failed: it came back"
        REFUSED = "refused", "refused by Stripe: nothing went"

    class Source(models.TextChoices):
        ADMIN = "admin", "our admin"
        STRIPE = "stripe", "Stripe's dashboard"

    POSTED = (State.SENT, State.SUCCEEDED, State.FAILED)
    GONE = (State.SENT, State.SUCCEEDED)  # The money has left, and has not come back.

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    amount_cents = models.BigIntegerField(help_text="What goes back to the card: tax included.")
    tax_cents = models.BigIntegerField(null=True, help_text="How much of it is tax; known when it is posted.")
    stripe_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    state = models.CharField(max_length=20, choices=State.choices)
    hold = models.OneToOneField(
        RefundHold, null=True, on_delete=models.PROTECT, related_name="refund", help_text="Until it is posted or ends."
    )
    transfer = models.OneToOneField(
        Transfer, null=True, on_delete=models.PROTECT, related_name="refund", help_text="None: all of it was tax."
    )
    failure_reason = models.CharField(max_length=100, blank=True, help_text="Stripe's word for why.")
    error = models.CharField(max_length=500, blank=True, help_text="Why the last attempt to go on failed.")
    source = models.CharField(max_length=20, choices=Source.choices)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=300, blank=True, help_text="For us; customers do not see it.")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)
    posted_at = models.DateTimeField(null=True, help_text="When we took it from the balance.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="refund_amount_positive"),
            models.CheckConstraint(
                condition=Q(state="held", hold__isnull=False) | (~Q(state="held") & Q(hold=None)),
                name="refund_held_has_a_hold",
            ),
            models.CheckConstraint(
                condition=Q(
                    state__in=["sent", "succeeded", "failed"], posted_at__isnull=False,
                    stripe_id__isnull=False, tax_cents__isnull=False,
                )
                | Q(state__in=["held", "refused"], posted_at=None, stripe_id=None, tax_cents=None, transfer=None),
                name="refund_posted_is_at_stripe",
            ),
            models.CheckConstraint(
                condition=Q(tax_cents=None) | Q(tax_cents__gte=0, tax_cents__lte=models.F("amount_cents")),
                name="refund_tax_within_amount",
            ),
            models.CheckConstraint(
                condition=(Q(source="admin", requested_by__isnull=False) & ~Q(reason=""))
                | (Q(source="stripe", requested_by=None, reason="") & ~Q(state__in=["held", "refused"])),
                name="refund_of_ours_says_who_and_why",
            ),
            # The shares of a payment's tax add up because one is decided after the other.
            models.UniqueConstraint(fields=["payment"], condition=Q(state="held"), name="refund_one_held"),
        ]  # fmt: skip
        indexes = [
            models.Index(fields=["updated_at"], name="refund_held", condition=Q(state="held")),
            models.Index(fields=["-created_at"], name="refund_newest"),
        ]

    def __str__(self) -> str:
        return f"refund of {money.display_cents(self.amount_cents)}"


class RefundMail(OutboxMail):
    """Once that it is on its way, and once where it came back."""

    class About(models.TextChoices):
        SENT = "sent", "on its way"
        FAILED = "failed", "it came back"

    refund = models.ForeignKey(Refund, on_delete=models.PROTECT, related_name="mails", db_index=False)
    about = models.CharField(max_length=10, choices=About.choices)

    class Meta(OutboxMail.Meta):
        constraints = (
            *OutboxMail.Meta.constraints,
            models.UniqueConstraint(fields=["refund", "about"], name="refund_mail_once"),
        )
