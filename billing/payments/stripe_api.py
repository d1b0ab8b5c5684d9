"""All that knows Stripe's client: how it is asked, what of its objects is read, and what its errors mean.

An error means one of two things. **Refused**: Stripe did not do it and will not, however often it is asked.
**Unavailable**: nobody knows whether it was done, so it is asked again with the same idempotency key, or looked up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import UUID

import stripe
from django.conf import settings
from stripe.checkout import Session
from stripe.params import (
    CustomerCreateParams,
    PaymentIntentCreateParams,
    PaymentIntentListParams,
    RefundCreateParams,
    RefundListParams,
)
from stripe.params.checkout import SessionCreateParams

API_VERSION = "2026-10-28.endive"  # That of the client's types. The webhook endpoint at Stripe is made with the same.
CURRENCY = "usd"
PAYMENT = "payment"  # The key in Stripe's metadata under which our Payment's id is.
REFUND = "refund"  # And our Refund's.
TIMEOUT_SECONDS = (3.0, 10.0)  # To connect, and of silence.
TOLERANCE_SECONDS = 300
RETRIES = 1  # A person waits for some of the answers.

Found = TypeVar("Found")

logger = logging.getLogger(__name__)


class NotConfigured(Exception):
    """There is no key of Stripe: payments are off here."""


class Refused(Exception):
    """Stripe did not do it. `code` is Stripe's, such as card_declined or resource_missing."""

    def __init__(self, code: str, param: str) -> None:
        super().__init__(code)
        self.code = code
        self.param = param


class Declined(Refused):
    """The bank did not pay. `code` is the bank's reason, such as insufficient_funds; `intent` what was not paid."""

    def __init__(self, code: str, intent: str | None) -> None:
        super().__init__(code, "")
        self.intent = intent


class Unavailable(Exception):
    """Whether Stripe did it is unknown: no answer, an error of its own, too many requests, a key it does not take."""


class Forged(Exception):
    """A message that Stripe did not sign, or not just now."""


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


@dataclass(frozen=True, slots=True)
class Page(Generic[Found]):
    """A part of a list; `last` is the id of its last object, empty where the list ends."""

    found: list[Found]
    last: str


def is_on() -> bool:
    return bool(settings.STRIPE_SECRET_KEY)


def dashboard(payment_intent: str | None, *, livemode: bool) -> str:
    """The page at Stripe on which staff see a payment and its disputes; empty where the simulator has none."""
    if payment_intent is None or (settings.STRIPE_API_BASE and not livemode):
        return ""
    return f"https://dashboard.stripe.com/{'' if livemode else 'test/'}payments/{payment_intent}"


def create_customer(params: CustomerCreateParams, *, key: str) -> str:
    """The id of the customer. Raises Refused, Unavailable, NotConfigured, as all that ask Stripe."""
    with _asking() as client:
        return client.v1.customers.create(params, {"idempotency_key": key}).id


def create_checkout(params: SessionCreateParams, *, key: str) -> Checkout:
    with _asking() as client:
        return _checkout(client.v1.checkout.sessions.create(params, {"idempotency_key": key}))


def checkout(session_id: str) -> Checkout:
    with _asking() as client:
        return _checkout(client.v1.checkout.sessions.retrieve(session_id))


def checkout_of(intent_id: str) -> Checkout | None:
    """The session in which this PaymentIntent was made."""
    with _asking() as client:
        found = client.v1.checkout.sessions.list({"payment_intent": intent_id, "limit": 1}).data
        return _checkout(found[0]) if found else None


def intent(intent_id: str) -> Intent:
    with _asking() as client:
        return _intent(client.v1.payment_intents.retrieve(intent_id, {"expand": ["latest_charge"]}))


def create_refund(params: RefundCreateParams, *, key: str) -> SentRefund:
    with _asking() as client:
        return _refund(client.v1.refunds.create(params, {"idempotency_key": key}))


def refund(refund_id: str) -> SentRefund:
    with _asking() as client:
        return _refund(client.v1.refunds.retrieve(refund_id))


def refunds(of: RefundListParams) -> list[SentRefund]:
    """All refunds of a PaymentIntent or of a charge, whatever became of them."""
    with _asking() as client:
        return [_refund(found) for found in client.v1.refunds.list({"limit": 100, **of}).auto_paging_iter()]


def dispute(dispute_id: str) -> FoundDispute:
    with _asking() as client:
        return _dispute(client.v1.disputes.retrieve(dispute_id))


def fraud_warning(warning_id: str) -> FraudWarning:
    with _asking() as client:
        found = client.v1.radar.early_fraud_warnings.retrieve(warning_id)
        # Stripe leaves it out of a charge that no PaymentIntent made.
        return FraudWarning(found.id, found.fraud_type, _id(getattr(found, "payment_intent", None)))


def page(ask: Callable[[stripe.StripeClient], stripe.ListObject[Any]], read: Callable[[Any], Found]) -> Page[Found]:
    """A part of one of Stripe's lists, each object as it is read."""
    with _asking() as client:
        listed = ask(client)
    return Page([read(each) for each in listed.data], listed.data[-1].id if listed.has_more and listed.data else "")


def charge_saved_card(params: PaymentIntentCreateParams, *, key: str) -> str:
    """Charge while the customer is away; the id of the PaymentIntent. Raises Declined, too."""
    with _asking() as client:
        return client.v1.payment_intents.create(params, {"idempotency_key": key}).id


def intent_of_payment(payment: str, *, customer: str, since: int) -> str | None:
    """The id of the PaymentIntent that is for this payment of ours, made since then; anybody's, without a customer."""
    asked: PaymentIntentListParams = {"created": {"gte": since}, "limit": 100}
    if customer:
        asked["customer"] = customer
    with _asking() as client:
        found = client.v1.payment_intents.list(asked)
        ours = (one.id for one in found.auto_paging_iter() if mark_of(one.metadata) == payment)
        return next(ours, None)


def cancel_intent(intent_id: str) -> None:
    """Nobody can pay it any more. Raises Refused where it is paid, is with the bank, or was canceled before."""
    with _asking() as client:
        client.v1.payment_intents.cancel(intent_id, {"cancellation_reason": "abandoned"})


def saved_card(payment_method: str, *, customer: str) -> Card | None:
    """The card as Stripe has it now; None where it is saved for this customer no more."""
    with _asking() as client:
        try:
            found = client.v1.payment_methods.retrieve(payment_method)
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return None
            raise
    card = found.card
    if _id(found.customer) != customer or card is None:
        return None
    return Card(found.id, card.brand, card.last4, card.exp_month, card.exp_year)


def forget_card(payment_method: str) -> None:
    """Stripe charges it no more. Raises Refused where it was not saved any more."""
    with _asking() as client:
        client.v1.payment_methods.detach(payment_method)


def has_customer(customer: str) -> bool:
    """Whether it is there: a deleted one is known to Stripe, and can pay nothing."""
    with _asking() as client:
        try:
            return "deleted" not in client.v1.customers.retrieve(customer)
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return False
            raise


def verify(body: str, signature: str | None, *, now: int) -> None:
    """Raise Forged unless one of our secrets signed this body within TOLERANCE_SECONDS of now."""
    if not (signature or "").isascii():
        raise Forged  # Stripe's client cannot compare such a signature, and fails.
    for secret in settings.STRIPE_WEBHOOK_SECRETS:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
        except stripe.SignatureVerificationError:
            continue
        # Stripe's own check lets the future pass, in which a stolen message could be kept.
        signed_at = re.search(r"(?:^|,)t=(\d{1,12})(?:,|$)", signature or "", re.ASCII)
        if signed_at and int(signed_at[1]) - now <= TOLERANCE_SECONDS:
            return
    raise Forged


@contextmanager
def _asking() -> Iterator[stripe.StripeClient]:
    if not is_on():
        raise NotConfigured
    try:
        yield _client(settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE)
    except stripe.CardError as error:
        said = error.error
        code = (said.decline_code if said else None) or error.code or "declined"
        logger.warning("a bank declined: %s (request %s)", code, error.request_id)
        raise Declined(code, _id(said.payment_intent) if said else None) from error
    except stripe.InvalidRequestError as error:
        logger.warning("Stripe refused: %s (request %s)", error.code, error.request_id)
        raise Refused(error.code or "invalid_request", error.param or "") from error
    except stripe.StripeError as error:
        # Its text may quote a part of the key.
        logger.error("Stripe gave no answer to rely on: %s (request %s)", type(error).__name__, error.request_id)
        raise Unavailable(type(error).__name__) from error


@lru_cache(maxsize=1)
def _client(key: str, base: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        stripe_version=API_VERSION,
        base_addresses={"api": base} if base else {},
        max_network_retries=RETRIES,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
    )


def _checkout(session: Session) -> Checkout:
    details = session.total_details
    return Checkout(
        id=session.id,
        status=session.status or "",
        livemode=session.livemode,
        currency=session.currency or "",
        customer=_id(session.customer),
        payment=(session.client_reference_id or mark_of(session.metadata)) if mark_of(session.metadata) else "",
        payment_intent=_id(session.payment_intent),
        url=session.url,
        net=session.amount_subtotal or 0,
        tax=details.amount_tax if details else 0,
        total=session.amount_total or 0,
    )


def _intent(found: stripe.PaymentIntent) -> Intent:
    charge = found.latest_charge if isinstance(found.latest_charge, stripe.Charge) else None
    return Intent(
        id=found.id,
        status=found.status,
        livemode=found.livemode,
        currency=found.currency,
        amount_received=found.amount_received,
        customer=_id(found.customer),
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


def _refund(found: stripe.Refund) -> SentRefund:
    metadata = found.metadata
    return SentRefund(
        id=found.id,
        status=found.status or "",
        currency=found.currency,
        amount=found.amount,
        payment_intent=_id(found.payment_intent),
        refund=metadata[REFUND] if metadata and REFUND in metadata else "",
        failure_reason=getattr(found, "failure_reason", None) or "",  # Stripe leaves it out unless it failed.
    )


def _dispute(found: stripe.Dispute) -> FoundDispute:
    due_by = found.evidence_details.due_by  # 0 where the bank takes no answer.
    return FoundDispute(
        id=found.id,
        status=found.status,
        reason=found.reason,
        amount=found.amount,
        payment_intent=_id(found.payment_intent),
        due_by=_moment(due_by) if due_by else None,
        created=_moment(found.created),
        movements=[
            FoundMovement(moved.id, moved.amount, moved.currency, _moment(moved.created))
            for moved in found.balance_transactions
        ],
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _failure(error: stripe.StripeObject) -> str:
    """An error leaves out what it has no value for."""
    return str(getattr(error, "decline_code", None) or getattr(error, "code", None) or "declined")


def _card(found: stripe.PaymentIntent, charge: stripe.Charge) -> Card | None:
    """None for what was paid in another way: its details are under the name of that way."""
    details, method = charge.payment_method_details, _id(found.payment_method)
    card = details.card if details and "card" in details else None
    if method is None or card is None:
        return None
    return Card(method, card.brand or "", card.last4 or "", card.exp_month, card.exp_year)


def _id(expandable: stripe.StripeObject | str | None) -> str | None:
    return expandable if isinstance(expandable, str) or expandable is None else str(expandable["id"])
