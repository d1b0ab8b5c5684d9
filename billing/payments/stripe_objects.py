"""What is read of Stripe's objects, as plain rows of ours, so that nobody else need know how Stripe writes them.

A StripeObject is no dict, leaves out what has no value in places, and is replaced by its id where it is not expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import stripe
from stripe.checkout import Session

PAYMENT = "payment"  # The key in Stripe's metadata under which our Payment's id is.
REFUND = "refund"  # And our Refund's.


@dataclass(frozen=True, slots=True)
class Card:
    payment_method: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What we read of a PaymentIntent. Amounts are cents, tax included."""

    id: str
    status: str
    livemode: bool
    currency: str
    amount_received: int
    customer: str | None
    payment: str  # Our Payment's id; empty for what is not ours.
    charge: str | None
    receipt_url: str
    failure_code: str
    card: Card | None


@dataclass(frozen=True, slots=True)
class Checkout:
    """What we read of a Checkout session. Amounts are cents."""

    id: str
    status: str  # open, complete, expired
    livemode: bool
    currency: str
    customer: str | None
    payment: str  # As above.
    payment_intent: str | None
    url: str | None
    net: int
    tax: int
    total: int


@dataclass(frozen=True, slots=True)
class SentRefund:
    """What we read of a Refund. The amount is cents, tax included."""

    id: str
    status: str  # pending, requires_action, succeeded, failed, canceled
    currency: str
    amount: int
    payment_intent: str | None
    refund: str  # Our Refund's id; empty where it was given on Stripe's dashboard.
    failure_reason: str


@dataclass(frozen=True, slots=True)
class FoundMovement:
    """A balance transaction: below zero it left our balance at Stripe, without the fee."""

    id: str
    amount: int
    currency: str
    created: datetime


@dataclass(frozen=True, slots=True)
class FoundDispute:
    """What we read of a Dispute. Amounts are cents, tax included."""

    id: str
    status: str
    reason: str
    amount: int
    payment_intent: str | None
    due_by: datetime | None
    created: datetime
    movements: list[FoundMovement]


@dataclass(frozen=True, slots=True)
class FraudWarning:
    """What we read of an early fraud warning."""

    id: str
    fraud_type: str
    payment_intent: str | None


def read_checkout(session: Session) -> Checkout:
    details = session.total_details
    return Checkout(
        id=session.id,
        status=session.status or "",
        livemode=session.livemode,
        currency=session.currency or "",
        customer=id_of(session.customer),
        payment=(session.client_reference_id or mark_of(session.metadata)) if mark_of(session.metadata) else "",
        payment_intent=id_of(session.payment_intent),
        url=session.url,
        net=session.amount_subtotal or 0,
        tax=details.amount_tax if details else 0,
        total=session.amount_total or 0,
    )


def read_intent(found: stripe.PaymentIntent) -> Intent:
    charge = found.latest_charge if isinstance(found.latest_charge, stripe.Charge) else None
    return Intent(
        id=found.id,
        status=found.status,
        livemode=found.livemode,
        currency=found.currency,
        amount_received=found.amount_received,
        customer=id_of(found.customer),
        payment=mark_of(found.metadata),
        charge=charge.id if charge else None,
        receipt_url=(charge.receipt_url or "") if charge else "",
        failure_code=_failure(found.last_payment_error) if found.last_payment_error else "",
        card=_card(found, charge) if charge else None,
    )


def mark_of(metadata: Any) -> str:
    """The id of our Payment in Stripe's metadata; empty for what is not ours. Other apps may use the same word."""
    mark = str(metadata[PAYMENT]) if metadata and PAYMENT in metadata else ""  # It is no dict.
    try:
        return mark if str(UUID(mark)) == mark else ""
    except ValueError:
        return ""


def read_refund(found: stripe.Refund) -> SentRefund:
    metadata = found.metadata
    return SentRefund(
        id=found.id,
        status=found.status or "",
        currency=found.currency,
        amount=found.amount,
        payment_intent=id_of(found.payment_intent),
        refund=metadata[REFUND] if metadata and REFUND in metadata else "",
        failure_reason=getattr(found, "failure_reason", None) or "",  # Stripe leaves it out unless it failed.
    )


def read_dispute(found: stripe.Dispute) -> FoundDispute:
    due_by = found.evidence_details.due_by  # 0 where the bank takes no answer.
    return FoundDispute(
        id=found.id,
        status=found.status,
        reason=found.reason,
        amount=found.amount,
        payment_intent=id_of(found.payment_intent),
        due_by=moment_of(due_by) if due_by else None,
        created=moment_of(found.created),
        movements=[
            FoundMovement(moved.id, moved.amount, moved.currency, moment_of(moved.created))
            for moved in found.balance_transactions
        ],
    )


def read_warning(found: stripe.radar.EarlyFraudWarning) -> FraudWarning:
    # Stripe leaves it out of a charge that no PaymentIntent made.
    return FraudWarning(found.id, found.fraud_type, id_of(getattr(found, "payment_intent", None)))


def moment_of(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _failure(error: stripe.StripeObject) -> str:
    """An error leaves out what it has no value for."""
    return str(getattr(error, "decline_code", None) or getattr(error, "code", None) or "declined")


def read_saved_card(found: stripe.PaymentMethod) -> Card | None:
    """None for another way to pay."""
    card = found.card
    return Card(found.id, card.brand, card.last4, card.exp_month, card.exp_year) if card else None


def _card(found: stripe.PaymentIntent, charge: stripe.Charge) -> Card | None:
    """None for what was paid in another way: its details are under the name of that way."""
    details, method = charge.payment_method_details, id_of(found.payment_method)
    card = details.card if details and "card" in details else None
    if method is None or card is None:
        return None
    return Card(method, card.brand or "", card.last4 or "", card.exp_month, card.exp_year)


def id_of(expandable: stripe.StripeObject | str | None) -> str | None:
    return expandable if isinstance(expandable, str) or expandable is None else str(expandable["id"])
