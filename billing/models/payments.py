"""What came in from Stripe.

A **Payment** is one attempt of an account to add funds, from before Stripe is asked to its end. A **StripeCustomer** is
who the account is at Stripe, and the card it agreed to have saved; a **ReplacedCard** is the one before, which Stripe
is still to forget. A **StripeEvent** is a message of Stripe's, stored as it came and worked on afterwards. Amounts are
US cents, as Stripe counts them; the ledger holds pico-USD.
"""

from __future__ import annotations

import pghistory
import uuid_utils.compat as uuids
from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account
from billing import money
from billing.models.wallets import Transfer


@pghistory.track(model_name="StripeCustomerHistory")
class StripeCustomer(models.Model):
    """The row comes first and is locked while Stripe makes the customer, so an account never has two."""

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="stripe_customer")
    stripe_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    livemode = models.BooleanField()
    payment_method = models.CharField(max_length=255, blank=True, help_text="The saved card; empty without one.")
    card_brand = models.CharField(max_length=30, blank=True)
    card_last4 = models.CharField(max_length=4, blank=True)
    card_exp_month = models.PositiveSmallIntegerField(null=True)
    card_exp_year = models.PositiveSmallIntegerField(null=True)
    consented_at = models.DateTimeField(null=True, help_text="When somebody agreed that the card is saved.")
    consented_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(payment_method="") | Q(consented_at__isnull=False),
                name="stripe_customer_card_with_consent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} ({self.stripe_id or 'not made yet'})"


class ReplacedCard(models.Model):
    """A saved card that another took the place of, until Stripe has forgotten it, too. The row is the queue."""

    payment_method = models.CharField(max_length=255, primary_key=True)
    livemode = models.BooleanField()
    replaced_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.payment_method


@pghistory.track(exclude=["updated_at", "asked_at"], model_name="PaymentHistory")
class Payment(models.Model):
    """Its id is our idempotency key at Stripe, so it is there before Stripe is asked."""

    class Kind(models.TextChoices):
        TOPUP = "topup"
        RECHARGE = "recharge"

    class State(models.TextChoices):
        OPEN = "open"
        PROCESSING = "processing"
        REQUIRES_ACTION = "requires_action"
        PAID = "paid"
        FAILED = "failed"
        CANCELED = "canceled"

    PENDING = (State.OPEN, State.PROCESSING, State.REQUIRES_ACTION)

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="payments")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    livemode = models.BooleanField(help_text="Real money. Else it came from a test key or the simulator.")
    amount_cents = models.BigIntegerField(help_text="What is credited: net of tax.")
    tax_cents = models.BigIntegerField(null=True, help_text="Known when it is paid.")
    total_cents = models.BigIntegerField(null=True, help_text="What the customer paid.")
    state = models.CharField(max_length=20, choices=State.choices, default=State.OPEN)
    checkout_session = models.CharField(max_length=255, unique=True, null=True, blank=True)
    payment_intent = models.CharField(max_length=255, unique=True, null=True, blank=True)
    charge = models.CharField(max_length=255, unique=True, null=True, blank=True)
    # Processes of the version before this column still write payments.
    customer = models.CharField(
        max_length=255, blank=True, default="", db_default="", help_text="Whom a recharge charges at Stripe."
    )
    payment_method = models.CharField(max_length=255, blank=True, help_text="The saved card that a recharge charges.")
    save_card = models.BooleanField(default=False, help_text="The customer agreed to have the card saved.")
    returned_cents = models.BigIntegerField(default=0, help_text="Of the total: refunded, or taken by disputes.")
    returned_tax_cents = models.BigIntegerField(default=0, help_text="How much of that was tax.")
    failure_code = models.CharField(max_length=100, blank=True)
    error = models.CharField(max_length=500, blank=True, help_text="Why a person must look at it: nothing is credited.")
    transfer = models.OneToOneField(Transfer, null=True, on_delete=models.PROTECT, related_name="payment")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    receipt_url = models.URLField(max_length=1000, blank=True, help_text="Stripe's own receipt.")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)
    asked_at = models.DateTimeField(null=True, help_text="When its page asked Stripe last.")
    paid_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="payment_amount_positive"),
            models.CheckConstraint(
                condition=Q(tax_cents=None, total_cents=None)
                | Q(
                    # NULL would make the comparison unknown, which a check lets pass.
                    tax_cents__isnull=False,
                    total_cents__isnull=False,
                    tax_cents__gte=0,
                    total_cents=F("amount_cents") + F("tax_cents"),
                ),
                name="payment_total_is_amount_and_tax",
            ),
            models.CheckConstraint(
                condition=Q(
                    state="paid", transfer__isnull=False, paid_at__isnull=False,
                    payment_intent__isnull=False, total_cents__isnull=False,
                )
                | (~Q(state="paid") & Q(transfer=None, paid_at=None)),
                name="payment_paid_has_a_transfer",
            ),
            models.CheckConstraint(
                condition=Q(returned_cents=0, returned_tax_cents=0)
                | Q(
                    state="paid", returned_cents__gte=0, tax_cents__isnull=False,
                    returned_tax_cents__gte=0, returned_tax_cents__lte=F("tax_cents"),
                ),
                name="payment_returns_what_was_paid",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "processing", "requires_action", "paid", "failed", "canceled"]),
                name="payment_state_known",
            ),
            models.CheckConstraint(condition=Q(kind__in=["topup", "recharge"]), name="payment_kind_known"),
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(kind="recharge", state__in=["open", "processing", "requires_action"]),
                name="payment_one_open_recharge",
            ),
        ]  # fmt: skip
        indexes = [
            models.Index(fields=["account", "-id"], name="payment_of_account"),
            # What the reconciler asks Stripe about.
            models.Index(
                fields=["created_at"],
                name="payment_pending",
                condition=Q(state__in=["open", "processing", "requires_action"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {money.display_cents(self.amount_cents)}"

    @property
    def is_unanswered(self) -> bool:
        """Its page asked Stripe, and nothing was written down since."""
        return self.asked_at is not None and self.updated_at < self.asked_at


class StripeEvent(models.Model):
    """The row is the queue: `processed_at` is set in the transaction of what the event did."""

    class Outcome(models.TextChoices):
        NOT_OURS = "not_ours", "not ours"

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=100)
    api_version = models.CharField(max_length=50, blank=True)
    created = models.DateTimeField(help_text="By Stripe's clock.")
    livemode = models.BooleanField()
    payload = models.TextField()
    source = models.CharField(max_length=20, help_text="How it came: webhook, or found by the reconciler.")
    request_id = models.CharField(max_length=100, blank=True, help_text="Of the request that brought it; for the log.")
    received_at = models.DateTimeField(db_default=Now())
    processed_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, db_default=Now(), help_text="None: done, or given up.")
    error = models.CharField(max_length=500, blank=True, help_text="Why the last attempt failed.")
    outcome = models.CharField(
        max_length=10, choices=Outcome.choices, blank=True, default="", db_default="",  # As above.
        help_text="Not ours: it is done, and is about an object of another app in the same Stripe account.",
    )  # fmt: skip

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(processed_at=None) | Q(next_attempt_at=None), name="stripe_event_done_is_not_tried_again"
            ),
        ]
        indexes = [
            models.Index(fields=["-received_at", "-id"], name="stripe_event_newest"),
            models.Index(fields=["next_attempt_at"], name="stripe_event_waiting", condition=Q(processed_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"
