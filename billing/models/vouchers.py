"""Credit that is given away against a code.

A **Voucher** is one code: what it gives, to whom and how long. A **VoucherRedemption** is one time that an account took
it. **CodeTries** counts how often somebody tried codes lately, against guessing.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account
from billing.models.wallets import Transfer


class Voucher(models.Model):
    """Never edited, only switched off: what was promised stays what it was. Amounts are pico-USD."""

    written = models.CharField("code", max_length=40, help_text="As it is printed.")
    code = models.CharField(max_length=40, unique=True, editable=False, help_text="What is compared.")
    amount = models.BigIntegerField()
    credit_days = models.PositiveIntegerField(null=True, help_text="The credit expires so many days after redemption,")
    credit_expires_at = models.DateTimeField(null=True, help_text="or at this moment; with neither never.")
    valid_from = models.DateTimeField(null=True)
    valid_until = models.DateTimeField(null=True)
    total_limit = models.PositiveIntegerField(null=True, help_text="How often it can be redeemed by all together.")
    account_limit = models.PositiveIntegerField(default=1, help_text="How often by one account.")
    redeemed = models.PositiveIntegerField(default=0)
    enabled = models.BooleanField(default=True)
    note = models.CharField(max_length=300, blank=True, help_text="What it is for; customers do not see it.")
    batch_id = models.UUIDField(null=True, editable=False, help_text="Of codes that were made together.")
    batch_number = models.PositiveIntegerField(null=True, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="voucher_amount_positive"),
            models.CheckConstraint(
                condition=Q(credit_days=None) | Q(credit_expires_at=None), name="voucher_credit_expires_in_one_way"
            ),
            models.CheckConstraint(
                condition=Q(total_limit=None) | Q(redeemed__lte=F("total_limit")), name="voucher_within_total_limit"
            ),
            models.CheckConstraint(condition=Q(account_limit__gte=1), name="voucher_account_limit_positive"),
            models.UniqueConstraint(fields=["batch_id", "batch_number"], name="voucher_batch_made_once"),
        ]

    def __str__(self) -> str:
        """A code of a batch belongs to who was given it: staff who may look cannot redeem it."""
        return f"…{self.written[-4:]}" if self.batch_id else self.written


class VoucherRedemption(models.Model):
    """The `number`th time that the account redeemed the voucher, with the transfer that credited it."""

    voucher = models.ForeignKey(Voucher, on_delete=models.PROTECT, related_name="redemptions", db_index=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    number = models.PositiveIntegerField()
    form_id = models.UUIDField(help_text="Of the form; a form redeems once.")
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="redemption")
    redeemed_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    redeemed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["voucher", "account", "number"], name="redemption_counted_once"),
            models.UniqueConstraint(fields=["account", "form_id"], name="redemption_of_a_form"),
            models.CheckConstraint(condition=Q(number__gte=1), name="redemption_number_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.voucher} by {self.account_id}"


class CodeTries(models.Model):
    """How many codes an account, or an address, has tried since then, without those that worked."""

    who = models.CharField(max_length=60, primary_key=True)
    since = models.DateTimeField()
    tries = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.tries} tries of {self.who}"
