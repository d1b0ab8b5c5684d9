"""All that asks Stripe: its client, each question as a function, and what its errors mean.

An error means one of two things. **Refused**: Stripe did not do it and will not, however often it is asked.
**Unavailable**: nobody knows whether it was done, so it is asked again with the same idempotency key, or looked up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import stripe
from django.conf import settings
from stripe.params import (
    CustomerCreateParams,
    PaymentIntentCreateParams,
    PaymentIntentListParams,
    RefundCreateParams,
    RefundListParams,
)
from stripe.params.checkout import SessionCreateParams

from billing.payments import stripe_objects
from billing.payments.stripe_objects import Card, Checkout, FoundDispute, FraudWarning, Intent, SentRefund

API_VERSION = "2026-10-28.endive"  # That of the client's types. The webhook endpoint at Stripe is made with the same.
CURRENCY = "usd"
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
        return stripe_objects.read_checkout(client.v1.checkout.sessions.create(params, {"idempotency_key": key}))


def checkout(session_id: str) -> Checkout:
    with _asking() as client:
        return stripe_objects.read_checkout(client.v1.checkout.sessions.retrieve(session_id))


def checkout_of(intent_id: str) -> Checkout | None:
    """The session in which this PaymentIntent was made."""
    with _asking() as client:
        found = client.v1.checkout.sessions.list({"payment_intent": intent_id, "limit": 1}).data
        return stripe_objects.read_checkout(found[0]) if found else None


def intent(intent_id: str) -> Intent:
    with _asking() as client:
        return stripe_objects.read_intent(client.v1.payment_intents.retrieve(intent_id, {"expand": ["latest_charge"]}))


def create_refund(params: RefundCreateParams, *, key: str) -> SentRefund:
    with _asking() as client:
        return stripe_objects.read_refund(client.v1.refunds.create(params, {"idempotency_key": key}))


def refund(refund_id: str) -> SentRefund:
    with _asking() as client:
        return stripe_objects.read_refund(client.v1.refunds.retrieve(refund_id))


def refunds(of: RefundListParams) -> list[SentRefund]:
    """All refunds of a PaymentIntent or of a charge, whatever became of them."""
    with _asking() as client:
        return [
            stripe_objects.read_refund(found)
            for found in client.v1.refunds.list({"limit": 100, **of}).auto_paging_iter()
        ]


def dispute(dispute_id: str) -> FoundDispute:
    with _asking() as client:
        return stripe_objects.read_dispute(client.v1.disputes.retrieve(dispute_id))


def fraud_warning(warning_id: str) -> FraudWarning:
    with _asking() as client:
        return stripe_objects.read_warning(client.v1.radar.early_fraud_warnings.retrieve(warning_id))


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
        ours = (one.id for one in found.auto_paging_iter() if stripe_objects.mark_of(one.metadata) == payment)
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
    return stripe_objects.read_saved_card(found) if stripe_objects.id_of(found.customer) == customer else None


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
        raise Declined(code, stripe_objects.id_of(said.payment_intent) if said else None) from error
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
