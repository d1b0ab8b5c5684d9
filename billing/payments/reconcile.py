"""What Stripe knows and we were never told, found by reading its lists.

A **reading** goes through one list, the newest first, back to where the one before began, with an overlap. A page is
worked on before the cursor moves behind it, so whoever is killed in between leaves a repeat, and repeats move nothing.
A run reads for a bounded time and the next goes on there. Events come back as if they had been delivered; Stripe keeps
them for 30 days only, so the objects themselves are listed, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import OperationalError, connection
from django.db.models import Count

from billing import clock
from billing.models import Dispute, Payment, Refund, StripeCursor
from billing.payments import clearing, disputes, fulfilment, inbox, movements, refunds, stripe_api, stripe_lists
from billing.payments.stripe_api import Page
from billing.payments.stripe_lists import ListedDispute, ListedIntent, ListedRefund, Span

Listing = StripeCursor.List

RUN_SECONDS = 120  # Then the next run goes on.
OVERLAP = timedelta(hours=2)  # Stripe may list an object a little later than it was made.
DEEP = timedelta(days=35)
BEGINNING = datetime(2011, 1, 1, tzinfo=UTC)  # There was no Stripe before.
# What becomes of a refund, by Stripe's word; by any other it is on its way.
STATES = {"succeeded": Refund.State.SUCCEEDED} | dict.fromkeys(refunds.CAME_BACK, Refund.State.FAILED)
RUNNING = 0x464C_5354  # An arbitrary number that keeps this lock apart from other advisory locks of this database.

logger = logging.getLogger(__name__)


class Busy(Exception):
    """Another reconciler is at work."""


@dataclass(frozen=True)
class Reading:
    listing: Listing
    ask: Callable[[Span], Page[Any]]
    work: Callable[[list[Any]], None]


@dataclass
class Outcome:
    """`errors` says of each list why it stopped; `is_complete` is whether there is nothing left to read."""

    errors: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True


def run(*, now: datetime, tell: Callable[[str], None], seconds: float = RUN_SECONDS) -> Outcome:
    """Read on in every list, post what came, and compare. Raises Busy.

    `tell` is given a line of progress for each page. A list that Stripe does not answer is left for the next run.
    """
    outcome = Outcome()
    if not stripe_api.is_on():
        return outcome
    with _alone():
        deadline = time.monotonic() + seconds
        for reading in READINGS:
            _guarded(reading.listing, outcome, partial(_read, reading, now, tell, deadline))
        if not _cursor(Listing.BALANCE_TRANSACTIONS, now).until:
            # Not before: the charge that a refund belongs to may be on a later page.
            _guarded("posting", outcome, partial(_post, tell, deadline))
        clearing.check(now=now)
    return outcome


def reach_back(*, to: datetime) -> None:
    """Let the next readings go back to this moment, whatever was read before; one that goes further back stays so."""
    for name in Listing:
        _cursor(name, to)
    mode = StripeCursor.objects.filter(livemode=settings.STRIPE_LIVEMODE)
    mode.filter(since__gte=to).update(since=to, until=None, after="")


def _guarded(name: str, outcome: Outcome, work: Callable[[], bool]) -> None:
    """What goes wrong in one list does not keep the others from being read."""
    changes: dict[str, str] = {}
    try:
        outcome.is_complete &= work()
        return
    except stripe_api.Unavailable as passing:
        changes["error"] = f"Unavailable: {passing}"
    except stripe_api.Refused as refused:
        changes |= {"error": f"Refused: {refused}", "after": ""}  # Where it would go on is gone; it begins again.
    except SoftTimeLimitExceeded:
        raise
    except Exception as fault:
        logger.exception("%s failed", name)
        changes["error"] = type(fault).__name__
    outcome.errors[name], outcome.is_complete = changes["error"], False
    logger.warning("%s: Stripe was not read to the end: %s", name, changes["error"])
    StripeCursor.objects.filter(list=name, livemode=settings.STRIPE_LIVEMODE).update(**changes)


@contextmanager
def _alone() -> Iterator[None]:
    """A lock of the connection: it ends with the process, however that ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [RUNNING])
        if not cursor.fetchone()[0]:
            raise Busy
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [RUNNING])


def _cursor(name: Listing, now: datetime) -> StripeCursor:
    return StripeCursor.objects.get_or_create(
        list=name, livemode=settings.STRIPE_LIVEMODE, defaults={"since": BEGINNING}
    )[0]


def _read(reading: Reading, now: datetime, tell: Callable[[str], None], deadline: float) -> bool:
    """Whether the list was read to its end."""
    at = _cursor(reading.listing, now)
    while True:
        until = at.until or now
        page = reading.ask(Span(at.since, until, at.after))
        reading.work(page.found)
        tell(f"{reading.listing}: {len(page.found)} from {at.since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}")
        was = {"pk": at.pk, "since": at.since, "until": at.until, "after": at.after}
        if page.last:
            at.until, at.after = until, page.last
        else:
            at.since, at.until, at.after, at.read_at = max(at.since, until - OVERLAP), None, "", clock.now()
        moved = {"since": at.since, "until": at.until, "after": at.after, "read_at": at.read_at, "error": ""}
        if not StripeCursor.objects.filter(**was).update(**moved):
            return False  # Somebody wants to begin again further back.
        if not page.last or time.monotonic() > deadline:
            return not page.last


def _post(tell: Callable[[str], None], deadline: float) -> bool:
    count = 0
    for movement_id in movements.unposted():
        movements.post(movement_id)
        count += 1
        if time.monotonic() > deadline:
            return False
    tell(f"posted: {count} balance transactions")
    return True


def _work_intents(found: list[ListedIntent]) -> None:
    """As with all objects, ask only about those of which Stripe may know more than we."""
    marks = {UUID(intent.payment): intent for intent in found if intent.payment}
    known = {payment.pk: payment.state for payment in Payment.objects.filter(pk__in=marks)}
    for mark, intent in marks.items():
        state = known.get(mark)
        if state in Payment.PENDING or (intent.status == "succeeded" and state != Payment.State.PAID):
            _repair(fulfilment.fulfil, intent.id)


def _work_refunds(found: list[ListedRefund]) -> None:
    ours = _ours([refund.payment_intent for refund in found])
    known = dict(Refund.objects.filter(stripe_id__in=[each.id for each in found]).values_list("stripe_id", "state"))
    for refund in found:
        state = STATES.get(refund.status, Refund.State.SENT)
        if refund.payment_intent in ours and known.get(refund.id) != state:
            _repair(refunds.apply, refund.id)


def _work_disputes(found: list[ListedDispute]) -> None:
    ours = _ours([dispute.payment_intent for dispute in found])
    rows = Dispute.objects.filter(stripe_id__in=[dispute.id for dispute in found]).annotate(moved=Count("movements"))
    known = {row.stripe_id: (row.status, row.moved) for row in rows}
    for dispute in found:
        if dispute.payment_intent in ours and known.get(dispute.id) != (dispute.status, dispute.movements):
            _repair(disputes.apply, dispute.id)


def _ours(intents: list[str]) -> set[str | None]:
    """Payments come first in a run, so those of ours are known by now; the rest shows itself as it moves money."""
    return set(Payment.objects.filter(payment_intent__in=intents).values_list("payment_intent", flat=True))


def _repair(apply: Callable[[str], object], object_id: str) -> None:
    """One object that fits nothing must not keep the others from being read."""
    try:
        apply(object_id)
    except inbox.FINAL as final:
        logger.error("%s was found at Stripe and cannot be worked on: %s: %s", object_id, type(final).__name__, final)
    except (stripe_api.Unavailable, stripe_api.NotConfigured, SoftTimeLimitExceeded, OperationalError):
        raise  # That passes: the page is read again.
    except Exception:
        logger.exception("%s was found at Stripe and cannot be written down", object_id)


READINGS = (
    Reading(Listing.EVENTS, stripe_lists.events, inbox.keep),
    Reading(Listing.PAYMENT_INTENTS, stripe_lists.intents, _work_intents),
    Reading(Listing.REFUNDS, stripe_lists.refunds, _work_refunds),
    Reading(Listing.DISPUTES, stripe_lists.disputes, _work_disputes),
    Reading(Listing.BALANCE_TRANSACTIONS, stripe_lists.movements, movements.store),
)
