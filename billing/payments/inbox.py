"""Stripe's messages: stored as they come, and worked on afterwards.

The row is the queue. A message says only that something happened to an object; the object is asked for then, so the
order in which messages come, their repeats and their delay make no difference. A worker claims a message by moving its
next attempt into the future, and no transaction is open while Stripe is asked: one that dies leaves the message to the
next attempt, and doing it twice does nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from django.db import transaction
from django.db.models import F
from structlog.contextvars import bound_contextvars

from billing import clock
from billing.models import StripeEvent
from billing.payments import auto_recharge, disputes, fulfilment, refunds, returns, stripe_api
from billing.payments.stripe_lists import ListedEvent

LEASE = timedelta(seconds=120)  # Longer than a task may run.
FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(hours=6)
MOST_ATTEMPTS = 20  # About two days.
SWEPT = 100
ABOUT_SAVED_CARDS = (
    "customer.deleted",
    "customer.updated",
    "payment_method.automatically_updated",
    "payment_method.detached",
    "payment_method.updated",
)

# However often it is tried again, it will not be done: a person must look.
FINAL = (
    fulfilment.UnknownPayment, refunds.NotCredited, returns.NotPaid, disputes.ForeignMoney, stripe_api.Refused,
)  # fmt: skip

logger = logging.getLogger(__name__)


class Malformed(Exception):
    """The body is signed, but is no event."""


class WrongMode(Exception):
    """A message about test money where money is real, or the other way round."""


class _Object(msgspec.Struct):
    id: str = ""


class _Data(msgspec.Struct):
    object: _Object


class _Event(msgspec.Struct):
    """What is read of a message before it is stored."""

    id: str
    object: Literal["event"]
    type: str
    created: int
    livemode: bool
    data: _Data
    api_version: str | None = None


def receive(body: bytes, *, signature: str | None, livemode: bool, request_id: str, now: datetime) -> str:
    """Store a message that Stripe signed; a repeat is stored once. Returns its id.

    Raises stripe_api.Forged, Malformed, WrongMode.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise stripe_api.Forged from None  # Stripe signs text.
    stripe_api.verify(text, signature, now=int(now.timestamp()))
    try:
        event = msgspec.json.decode(body, type=_Event)
        created = datetime.fromtimestamp(event.created, UTC)
    except (msgspec.DecodeError, ValueError, OverflowError, OSError):
        raise Malformed from None
    if event.livemode != livemode:
        raise WrongMode
    row = StripeEvent(
        id=event.id, type=event.type[:100], api_version=(event.api_version or "")[:50], created=created,
        livemode=event.livemode, payload=text, source="webhook", request_id=request_id,
    )  # fmt: skip
    StripeEvent.objects.bulk_create([row], ignore_conflicts=True)
    return event.id


def keep(found: Sequence[ListedEvent]) -> None:
    """Store what Stripe lists; the sweep works on what was never delivered."""
    rows = [
        StripeEvent(
            id=event.id, type=event.type[:100], api_version=event.api_version[:50], created=event.created,
            livemode=event.livemode, payload=event.payload, source="reconciler",
        )
        for event in found
    ]  # fmt: skip
    StripeEvent.objects.bulk_create(rows, ignore_conflicts=True)


def work(event_id: str) -> None:
    """Do what the message asks for, unless that is done, or another does it now."""
    event = _claim(event_id)
    if event is None:
        return
    with bound_contextvars(stripe_event=event.pk, **({"request_id": event.request_id} if event.request_id else {})):
        try:
            came_of_it = _act(event)
        except FINAL as final:
            _fail(event, f"{type(final).__name__}: {final}", again=False)
        except (stripe_api.Unavailable, stripe_api.NotConfigured) as passing:
            _fail(event, f"{type(passing).__name__}: {passing}", again=True)
        except Exception as fault:
            logger.exception("event %s (%s) failed", event.pk, event.type)
            _fail(event, type(fault).__name__, again=True)
        else:
            outcome = StripeEvent.Outcome.NOT_OURS if came_of_it is None else ""
            StripeEvent.objects.filter(pk=event.pk).update(
                processed_at=clock.now(), next_attempt_at=None, error="", outcome=outcome
            )
            logger.info("event %s (%s) is done%s", event.pk, event.type, ": it is not ours" if outcome else "")


def sweep() -> None:
    """Work on what no doorbell rang for, or is to be tried again."""
    due = StripeEvent.objects.filter(processed_at=None, next_attempt_at__lte=clock.now())
    for event_id in due.order_by("next_attempt_at").values_list("pk", flat=True)[:SWEPT]:
        work(event_id)


def work_again(event_id: str) -> None:
    """An operator asks for it: begin anew with a message that failed or is done."""
    StripeEvent.objects.filter(pk=event_id).update(
        processed_at=None, attempts=0, next_attempt_at=clock.now(), error="", outcome=""
    )


def _claim(event_id: str) -> StripeEvent | None:
    now = clock.now()
    with transaction.atomic():
        due = StripeEvent.objects.filter(pk=event_id, processed_at=None, next_attempt_at__lte=now)
        event = due.select_for_update(skip_locked=True).first()
        if event is not None:
            due.update(attempts=F("attempts") + 1, next_attempt_at=now + LEASE)
            event.attempts += 1
    return event


def _fail(event: StripeEvent, reason: str, *, again: bool) -> None:
    delay = min(FIRST_DELAY * 2 ** (event.attempts - 1), LONGEST_DELAY)
    given_up = not again or event.attempts >= MOST_ATTEMPTS
    StripeEvent.objects.filter(pk=event.pk, processed_at=None).update(
        error=reason[:500], next_attempt_at=None if given_up else clock.now() + delay
    )
    logger.log(
        logging.ERROR if given_up else logging.WARNING,
        "event %s (%s): attempt %d failed: %s", event.pk, event.type, event.attempts, reason,
    )  # fmt: skip


def _act(event: StripeEvent) -> object:
    """What came of it; None where it is about nothing of ours.

    The object's state decides, so several messages about one object ask for the same.
    """
    about = msgspec.json.decode(event.payload, type=_Event).data.object.id
    if event.type.startswith("payment_intent."):
        return fulfilment.fulfil(about)
    if event.type.startswith("checkout.session."):
        return fulfilment.fulfil_session(about)
    if event.type.startswith(("refund.", "charge.refund.")):
        return refunds.apply(about)
    if event.type == "charge.refunded":
        return refunds.apply_all(charge=about) or None
    if event.type.startswith("charge.dispute."):
        return disputes.apply(about)
    if event.type.startswith("radar.early_fraud_warning."):
        return disputes.warn(about)
    if event.type in ABOUT_SAVED_CARDS:
        auto_recharge.mirror(about)
    return event  # That is all that is known: of cards that were removed nothing is kept here.
