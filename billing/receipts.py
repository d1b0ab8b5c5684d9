"""Our own receipts: one for each payment, without a gap in their numbers, made in the transaction of the credit.

Money that is not real has a series of its own, so the numbers that a tax office asks about are those of real money.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection, transaction

from accounts.models import Account
from billing import details, money
from billing.models import DocumentMail, Payment, Receipt
from billing.paper import Paper, Table

REAL, SIMULATED = "F", "SIMULATED"
WATERMARK = "Simulated, no real money"


class NotPaid(Exception):
    """Nothing was credited for this payment, so there is nothing to confirm."""


class NotInCents(Exception):
    """What was credited is not what was paid for: a fault of ours, which no paper may hide."""


def issue(payment: Payment, now: datetime) -> Receipt:
    """The receipt of a payment whose credit is posted, to be mailed; again it is the same one.

    Raises NotPaid, NotInCents.

    To be called last in the transaction that posts the credit: nobody else gets a number until that has ended.
    """
    with transaction.atomic():
        paid = Payment.objects.select_for_update(no_key=True, of=("self",)).select_related("transfer", "account")
        found = paid.get(pk=payment.pk)
        issued = Receipt.objects.filter(payment=found).first()
        if issued is not None:
            return issued
        if found.transfer is None or found.tax_cents is None or found.total_cents is None:
            raise NotPaid(f"Payment {found.pk} is {found.state}.")
        if found.transfer.amount != money.from_cents(found.amount_cents):
            raise NotInCents(f"Payment {found.pk} is of {found.amount_cents} cents; {found.transfer} was credited.")
        receipt = Receipt.objects.create(
            payment=found,
            issued_at=now,
            seller=details.seller(),
            buyer=details.buyer(found.account),
            net_cents=found.amount_cents,
            tax_cents=found.tax_cents,
            total_cents=found.total_cents,
            number=_next_number(REAL if found.livemode else SIMULATED, now),
        )
        DocumentMail.objects.create(account=found.account, receipt=receipt)
        return receipt


def find(account: Account, number: str) -> Receipt | None:
    found = Receipt.objects.filter(payment__account=account, number=number)
    return found.select_related("payment").first()


def paper(receipt: Receipt) -> Paper:
    """What the receipt says, for a page and for a PDF."""
    credit = ("Prepaid credit for the use of the API", _dollars(receipt.net_cents))
    return Paper(
        title="Receipt",
        number=receipt.number,
        seller=receipt.seller["lines"],
        buyer=receipt.buyer["lines"],
        facts=[
            ("Date", f"{receipt.issued_at.astimezone(UTC):%Y-%m-%d}"),
            ("Paid", f"{receipt.payment.paid_at or receipt.issued_at:%Y-%m-%d}, in full"),
            ("Account", receipt.buyer["account"]),
            ("Payment", str(receipt.payment.payment_intent or receipt.payment.pk)),
        ],
        table=Table(header=("What", "Amount in USD"), rows=[credit], numbers=1),
        totals=[
            ("Net", _dollars(receipt.net_cents)),
            ("Tax", _dollars(receipt.tax_cents)),
            ("Total paid", _dollars(receipt.total_cents)),
        ],
        notes=[],
        watermark="" if receipt.payment.livemode else WATERMARK,
    )


def _next_number(prefix: str, now: datetime) -> str:
    series = f"{prefix}-{now.astimezone(UTC).year}"
    with connection.cursor() as cursor:
        cursor.execute(_NEXT_NUMBER, [series])
        return f"{series}-{cursor.fetchone()[0]:06d}"


def _dollars(cents: int) -> str:
    return money.exactly(money.from_cents(cents))


_NEXT_NUMBER = """
INSERT INTO billing_receiptnumbers AS numbers (series, last) VALUES (%s, 1)
ON CONFLICT (series) DO UPDATE SET last = numbers.last + 1 RETURNING last
"""
