"""What is put on paper.

**BillingDetails** say who a customer is on the documents about their money. A **Receipt** is our own, numbered, for one
payment, and never changes. **ReceiptNumbers** are the last number given in each series. A **DocumentMail** is the mail
of one receipt, or of the statement of one month. A **StatementMonth** says that those of a month were written, and
**NoStatementMails** that an account wants none.
"""

from __future__ import annotations

import pghistory
from django.db import models
from django.db.models import F, Q

from accounts.models import Account
from billing.models.mails import OutboxMail
from billing.models.payments import Payment


@pghistory.track(model_name="BillingDetailsHistory")
class BillingDetails(models.Model):
    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="billing_details")
    company = models.CharField(max_length=200, blank=True)
    name = models.CharField(max_length=200, blank=True)
    address = models.CharField(max_length=200)
    address_more = models.CharField(max_length=200, blank=True)
    postal_code = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100)
    region = models.CharField(max_length=100, blank=True)
    country = models.CharField(max_length=2, help_text="ISO 3166-1, two letters.")
    tax_id = models.CharField("tax id", max_length=40, blank=True)
    email = models.EmailField(
        "e-mail address", blank=True, help_text="Where documents are sent; empty: to who may add funds."
    )

    class Meta:
        verbose_name_plural = "billing details"
        constraints = [
            models.CheckConstraint(condition=~Q(company="", name=""), name="billing_details_name_somebody"),
        ]

    def __str__(self) -> str:
        return self.company or self.name


class ReceiptNumbers(models.Model):
    """Without a gap: the row is locked from the number to the end of the transaction, after everything else."""

    series = models.CharField(max_length=20, primary_key=True, help_text="A prefix and the year, such as F-2026.")
    last = models.PositiveIntegerField()

    class Meta:
        verbose_name_plural = "receipt numbers"

    def __str__(self) -> str:
        return f"{self.series} up to {self.last}"


class Receipt(models.Model):
    """Triggers refuse UPDATE, DELETE and TRUNCATE. Who sold and who bought is copied: both may move later."""

    number = models.CharField(max_length=30, unique=True)
    payment = models.OneToOneField(Payment, on_delete=models.PROTECT, related_name="receipt")
    issued_at = models.DateTimeField()
    seller = models.JSONField(help_text="Our lines: name, address, tax id, e-mail address.")
    buyer = models.JSONField(help_text="The account's name, and the customer's lines: address, tax id.")
    net_cents = models.BigIntegerField(help_text="What was credited.")
    tax_cents = models.BigIntegerField()
    total_cents = models.BigIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(net_cents__gt=0, tax_cents__gte=0, total_cents=F("net_cents") + F("tax_cents")),
                name="receipt_adds_up",
            ),
        ]

    def __str__(self) -> str:
        return self.number


class DocumentMail(OutboxMail):
    """To wherever documents are sent at that moment, so it has no recipients."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    receipt = models.OneToOneField(Receipt, null=True, on_delete=models.PROTECT, related_name="mail")
    month = models.DateField(null=True, help_text="The first day of the month of a statement.")

    class Meta(OutboxMail.Meta):
        constraints = (
            *OutboxMail.Meta.constraints,
            models.UniqueConstraint(fields=["account", "month"], name="document_mail_once_a_month"),
            models.CheckConstraint(
                condition=Q(receipt__isnull=False, month=None) | Q(receipt=None, month__isnull=False),
                name="document_mail_of_one_document",
            ),
        )


class NoStatementMails(models.Model):
    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        verbose_name_plural = "no statement mails"

    def __str__(self) -> str:
        return f"no statements for {self.account_id}"


class StatementMonth(models.Model):
    month = models.DateField(primary_key=True)

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
