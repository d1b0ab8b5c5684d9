"""How much of what was paid can go back to cards now, of one payment or of a whole account, and what became of it.

Whoever refunds asks again behind the lock: what is read here may be spent a moment later. Money is cents where cards
are meant, and pico-USD where the balance is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Sum

from accounts.models import Account
from billing import ledger, money
from billing.models import CreditLot, Payment, Refund, Wallet
from billing.payments import returns

State = Refund.State


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a payment can be refunded now, and what became of the rest. Cents, tax included."""

    paid: int
    refunded: int  # At Stripe, and not come back.
    under_way: int  # Held by a refund of which Stripe has not said anything yet.
    disputed: int  # Taken back by disputes.
    spent: int
    held: int  # Not spent yet, but held for calls that run and for refunds of other payments.
    most: int


@dataclass(frozen=True, slots=True)
class Part:
    """What is given back of one payment, in cents, when all of an account is."""

    payment: Payment
    cents: int


def room(payment: Payment, *, now: datetime) -> Room:
    paid = payment.total_cents or 0
    gone = payment.refunds.filter(state__in=Refund.GONE).aggregate(cents=Sum("amount_cents", default=0))["cents"]
    under_way = payment.refunds.filter(state=State.HELD).aggregate(cents=Sum("amount_cents", default=0))["cents"]
    rest = max(0, paid - payment.returned_cents - under_way)  # A dispute may take what was refunded already.
    lots = CreditLot.objects.filter(wallet=payment.account_id, kind=CreditLot.Kind.PAID, remaining__gt=0)
    unspent = _within(payment, rest, lots.aggregate(left=Sum("remaining", default=0))["left"])
    most = _within(payment, rest, ledger.refundable(account_id=payment.account_id, now=now))
    return Room(
        paid=paid,
        refunded=gone,
        under_way=under_way,
        disputed=payment.returned_cents - gone,
        spent=rest - unspent,
        held=unspent - most,
        most=0 if under_way else most,
    )


def parts_of(account: Account, *, now: datetime) -> list[Part]:
    """How all that is left of paid money can go back to cards: of the newest payment first, what each still has."""
    left = ledger.refundable(account_id=account.pk, now=now)
    mode = Payment.objects.filter(account=account, state=Payment.State.PAID, livemode=settings.STRIPE_LIVEMODE)
    parts = []
    for payment in mode.exclude(refunds__state=State.HELD).order_by("-paid_at", "-pk"):
        cents = _within(payment, (payment.total_cents or 0) - payment.returned_cents, left)
        if cents:
            parts.append(Part(payment, cents))
            left -= credit_of(payment, cents)
    return parts


def remains(account: Account, parts: list[Part], *, now: datetime) -> list[str]:
    """What of the account's money no refund of these parts gives back, and why: sentences for staff."""
    wallet = Wallet.objects.get(pk=account.pk)
    left = {
        kind: wallet.lots.filter(kind=kind).aggregate(left=Sum("remaining", default=0))["left"]
        for kind in CreditLot.Kind
    }
    given_back = sum(credit_of(part.payment, part.cents) for part in parts)
    other = ledger.refundable(account_id=account.pk, now=now) - given_back
    paid = Payment.objects.filter(account=account, state=Payment.State.PAID)
    disputed = sum(room(payment, now=now).disputed for payment in paid.filter(returned_cents__gt=0))
    amounts = [
        (wallet.held, "is held: for calls that run, or for refunds of which Stripe has not said anything yet."),
        (left[CreditLot.Kind.PROMOTIONAL], "is promotional credit, of a code or from us: nobody paid for it."),
        (money.from_cents(disputed), "was taken back by disputes, and went to the card by them."),
        (wallet.debt, "is owed to us: more was used or taken back than was paid."),
        (
            other if other >= money.PICO_PER_CENT else 0,
            "was paid in another way than by payments here: pay it back so.",
        ),
        (other if other < money.PICO_PER_CENT else 0, "is less than a cent, and is written off."),
    ]
    return [f"{money.display(amount)} {why}" for amount, why in amounts if amount > 0]


def credit_of(payment: Payment, cents: int) -> int:
    """What so many cents more were credited as, in pico-USD: without their share of the tax."""
    return money.from_cents(returns.net_of(payment, cents))


def _within(payment: Payment, rest: int, limit: int) -> int:
    """The most of `rest` cents that were credited as no more than `limit` pico-USD."""
    return bisect_right(range(1, rest + 1), limit, key=lambda cents: credit_of(payment, cents))
