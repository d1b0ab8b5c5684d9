"""Money of a paid payment that goes back to the customer, or comes back to us after it went.

Refunds and disputes are both returns: what differs is who decided. A payment may have been credited net of tax, so each
return is split: its net part leaves the wallet, its tax part what we owe the tax office. The split follows from all
that was returned of the payment so far, so parts add up to the cent, and the order in which they come makes no
difference to their sum.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction

from accounts.models import User
from billing import ledger, money
from billing.models import CreditLot, LedgerAccount, Payment, Transfer, TransferKind


class NotPaid(Exception):
    """Nothing was credited for this payment, so nothing of it can go back."""


def net_of(payment: Payment, cents: int) -> int:
    """How many of the next cents to be returned leave the wallet; the rest is tax."""
    return cents - _tax_step(payment, cents)


def move(
    payment: Payment,
    cents: int,
    *,
    kind: TransferKind,
    cause: str,
    now: datetime,
    hold: UUID | None = None,
    reason: str = "",
    by: User | None = None,
) -> Transfer | None:
    """Post `cents` that went back to the customer, or, where negative, that came back; ends the refund's `hold`.

    Returns what moved the wallet; None where all of it was tax. Never refuses for want of money: that becomes debt. The
    same cause again moves nothing. Raises NotPaid, and ledger.CauseReused where it moved another sum.
    """
    with transaction.atomic():
        paid = Payment.objects.select_for_update(of=("self",)).select_related("account", "transfer").get(pk=payment.pk)
        if paid.transfer is None:
            raise NotPaid(f"Payment {paid.pk} is {paid.state}.")
        done = Transfer.objects.filter(cause__in=(cause, _tax_cause(cause)))
        if found := list(done):
            _insist_on_same(found, cents, cause)
            if hold is not None:
                ledger.release_refund(id=hold)
            return next((transfer for transfer in found if transfer.cause == cause), None)
        tax = _tax_step(paid, cents)
        moved = _move_wallet(paid, cents - tax, kind=kind, cause=cause, now=now, hold=hold, reason=reason, by=by)
        _move_tax(paid, tax, cause=_tax_cause(cause), now=now)
        paid.returned_cents += cents
        paid.returned_tax_cents += tax
        paid.save(update_fields=["returned_cents", "returned_tax_cents", "updated_at"])
    return moved


def _tax_step(payment: Payment, cents: int) -> int:
    """By how much the tax of all that was returned grows with these cents, or falls."""
    total, tax = payment.total_cents or 0, payment.tax_cents or 0
    # A dispute may take what was refunded already; more tax than was paid is never given back.
    returned = min(payment.returned_cents + cents, total)
    return (tax * returned // total if total else 0) - payment.returned_tax_cents


def _move_wallet(
    payment: Payment,
    net: int,
    *,
    kind: TransferKind,
    cause: str,
    now: datetime,
    hold: UUID | None,
    reason: str,
    by: User | None,
) -> Transfer | None:
    clearing = LedgerAccount.clearing(livemode=payment.livemode)
    if net > 0:
        return ledger.pay_back(
            account=payment.account, amount=money.from_cents(net), kind=kind, target=clearing, cause=cause, now=now,
            credited=payment.transfer, hold=hold, reason=reason, by=by,
        )  # fmt: skip
    if hold is not None:
        ledger.release_refund(id=hold)
    if net == 0:
        return None
    return ledger.credit(
        account=payment.account, amount=money.from_cents(-net), kind=kind, source=clearing, cause=cause, now=now,
        lot=CreditLot.Kind.PAID, reason=reason, by=by,
    )  # fmt: skip


def _move_tax(payment: Payment, tax: int, *, cause: str, now: datetime) -> None:
    clearing = LedgerAccount.clearing(livemode=payment.livemode)
    owed = LedgerAccount.TAX_PAYABLE
    debit, credit = (owed, clearing) if tax > 0 else (clearing, owed)
    if tax:
        amount = money.from_cents(abs(tax))
        ledger.post(amount=amount, kind=TransferKind.TAX, debit=debit, credit=credit, cause=cause, now=now)


def _tax_cause(cause: str) -> str:
    return f"{cause}:tax"


def _insist_on_same(found: list[Transfer], cents: int, cause: str) -> None:
    moved = sum(transfer.amount for transfer in found)
    if moved != money.from_cents(abs(cents)):
        raise ledger.CauseReused(f"{cause!r} already moved {moved} pico-USD, not {cents} cents.")
