"""Auto-recharge: what an account agreed to, and the mails about what came of it.

An **AutoRecharge** says below which balance how much is charged to the saved card, how often and how much in a month
at most. Each attempt is a **Payment** of the kind recharge. A **RechargeMail** is one mail to one person about one of
them, or about the end of all. Amounts are US cents.
"""

from __future__ import annotations

import pghistory
from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account
from billing.models.mails import OutboxMail
from billing.models.payments import Payment

TERMS = [
    "enabled", "threshold_cents", "amount_cents", "monthly_cap_cents", "interval_minutes", "consented_by",
    "consented_at", "stopped_reason", "stopped_at",
]  # fmt: skip


@pghistory.track(fields=["account", *TERMS], model_name="AutoRechargeHistory")
class AutoRecharge(models.Model):
    """Its row is locked by whoever opens an attempt or counts one, so that each is opened and counted once."""

    class Stop(models.TextChoices):
        CUSTOMER = "customer", "turned off"
        STAFF = "staff", "turned off by our staff"
        FAILURES = "failures", "too many failures in a row"
        DECLINED = "declined", "the bank declines this card for good"
        REFUSED = "refused", "the payment service refused the card"
        CARD_GONE = "card_gone", "no card is saved any more"
        CLOSING = "closing", "the account is being closed"

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="auto_recharge")
    enabled = models.BooleanField(default=False)
    threshold_cents = models.BigIntegerField(help_text="Charged when less than this can be spent.")
    amount_cents = models.BigIntegerField()
    monthly_cap_cents = models.BigIntegerField(help_text="The most in a calendar month of UTC.")
    interval_minutes = models.PositiveIntegerField(help_text="From one attempt to the next, at least.")
    consented_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    consented_at = models.DateTimeField()
    attempt = models.OneToOneField(
        Payment, null=True, on_delete=models.PROTECT, related_name="+",
        help_text="Whose outcome is not known or not counted yet.",
    )  # fmt: skip
    attempt_due_at = models.DateTimeField(null=True, help_text="When Stripe is asked about the attempt again.")
    last_attempt_at = models.DateTimeField(null=True)
    not_before = models.DateTimeField(db_default=Now(), help_text="No new attempt until then.")
    failures = models.PositiveSmallIntegerField(default=0, help_text="In a row.")
    stopped_reason = models.CharField(max_length=10, choices=Stop.choices, blank=True)
    stopped_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(threshold_cents__gt=0, amount_cents__gt=0, monthly_cap_cents__gte=F("amount_cents")),
                name="auto_recharge_terms_sane",
            ),
            models.CheckConstraint(
                condition=Q(enabled=True, stopped_reason="", stopped_at=None)
                | (Q(enabled=False, stopped_at__isnull=False) & ~Q(stopped_reason="")),
                name="auto_recharge_on_or_stopped",
            ),
            models.CheckConstraint(
                condition=Q(attempt=None, attempt_due_at=None) | Q(attempt__isnull=False, attempt_due_at__isnull=False),
                name="auto_recharge_attempt_is_due",
            ),
        ]
        indexes = [
            models.Index(fields=["not_before"], name="auto_recharge_on", condition=Q(enabled=True)),
        ]

    def __str__(self) -> str:
        return f"auto-recharge of {self.account}"


class RechargeMail(OutboxMail):
    """What was charged is told by its receipt."""

    class About(models.TextChoices):
        DECLINED = "declined", "declined, is tried again"
        CONFIRM = "confirm", "the bank wants a confirmation"
        STOPPED = "stopped"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    about = models.CharField(max_length=10, choices=About.choices)
    payment = models.ForeignKey(Payment, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    reason = models.CharField(max_length=10, choices=AutoRecharge.Stop.choices, blank=True, help_text="Of the end.")

    class Meta(OutboxMail.Meta):
        constraints = (
            *OutboxMail.Meta.constraints,
            models.UniqueConstraint(fields=["payment", "recipient"], name="recharge_mail_once"),
        )
        indexes = (
            *OutboxMail.Meta.indexes,
            models.Index(fields=["account", "-id"], name="recharge_mail_of_account"),
        )
