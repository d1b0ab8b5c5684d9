"""Stripe's balance beside that of the books, and why they differ.

Both sides are added up by **subject**: the id of a PaymentIntent, a refund, a dispute, a payout, or of a balance
transaction that has no such object. Every cent of the difference so belongs to a subject of which one side knows more
than the other. What was written down a while ago never changes, so it is added up once, behind a **seal**, and a run
reads what came after it and the subjects that differ. It is done in the background, and its result is kept.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction

from billing import clock, money
from billing.models import ClearingCheck, ClearingSeal, ClearingSubject, LedgerAccount
from billing.payments import clearing_sql, stripe_api

# Both sides move within seconds, and what one of them lacks is asked for in every run.
SETTLES_WITHIN = timedelta(hours=1)
EXAMPLES = 100
PARTS = ("foreign", "fresh", "unexplained")
# Longer than any transaction lasts: what was begun before a moment is there, or will never be, so long after it.
SEALED_AFTER = timedelta(minutes=10)
STEP = 50_000  # The most of each side that a run adds to what is sealed.
NEVER = datetime(2011, 1, 1, tzinfo=UTC)

Facts = dict[str, Any]


def check(*, now: datetime) -> list[ClearingCheck]:
    """Compare, for live money and for that of tests, and keep what was found."""
    return [_check(livemode=livemode, now=now) for livemode in (True, False)]


def begin_again() -> None:
    """Break all seals: the next check reads all that ever moved."""
    with transaction.atomic():
        ClearingSeal.objects.all().delete()
        ClearingSubject.objects.all().delete()


def _check(*, livemode: bool, now: datetime) -> ClearingCheck:
    clearing = LedgerAccount.clearing(livemode=livemode)
    with transaction.atomic():
        ClearingSeal.objects.get_or_create(clearing=clearing, defaults={"sealed_at": NEVER})
        seal = ClearingSeal.objects.select_for_update().get(clearing=clearing)
        asked: Facts = {
            "livemode": livemode, "clearing": clearing, "currency": stripe_api.CURRENCY, "cent": money.PICO_PER_CENT,
        }  # fmt: skip
        _seal(seal, asked)
        found = _compare(seal, asked | {"settled": now - SETTLES_WITHIN, "examples": EXAMPLES}) | {"checked_at": now}
        return ClearingCheck.objects.update_or_create(clearing=clearing, defaults=found)[0]


def _seal(seal: ClearingSeal, asked: Facts) -> None:
    """Add up for good what was there at the moment that an earlier run took down, a step of it; then take down another.

    Whatever had a lower number or an earlier moment then has been committed since, or was given up.
    """
    now = clock.now()
    if seal.next_at is not None and seal.next_at <= now - SEALED_AFTER:
        place: Facts = {"sealed_id": seal.sealed_id, "sealed_at": seal.sealed_at}
        step: Facts = {"next_id": seal.next_id, "next_at": seal.next_at, "step": STEP}
        until_id, until_at = _row(clearing_sql.NEXT_STEP, place | step)
        until: Facts = {"until_id": until_id or seal.sealed_id, "until_at": until_at or seal.sealed_at}
        _add(seal, _row(clearing_sql.SEAL, asked | place | until))
        seal.sealed_id, seal.sealed_at = until["until_id"], until["until_at"]
        if until_id is None and until_at is None:
            seal.next_at = None  # There is nothing left up to it.
    if seal.next_at is None:
        (seal.next_id,), seal.next_at = _row(clearing_sql.LAST_TRANSFER, {}), now
    seal.save()


def _add(seal: ClearingSeal, sums: tuple[Any, ...]) -> None:
    stripe, books, currencies, foreign_types = sums
    seal.stripe_cents += stripe
    seal.books_cents += books
    seal.currencies = _currencies(seal, currencies)
    seal.foreign_types = _foreign_types(seal, foreign_types)


def _compare(seal: ClearingSeal, asked: Facts) -> Facts:
    place = {"sealed_id": seal.sealed_id, "sealed_at": seal.sealed_at}
    stripe, books, currencies, foreign_types, parts, examples = _row(clearing_sql.COMPARE, asked | place)
    found: Facts = {
        "stripe_cents": seal.stripe_cents + stripe,
        "books_cents": seal.books_cents + books,
        "currencies": _currencies(seal, currencies),
        "foreign_types": _foreign_types(seal, foreign_types),
        "examples": json.loads(examples),
    }
    counts = json.loads(parts)
    for part in PARTS:
        found[f"{part}_count"], found[f"{part}_cents"] = counts.get(part, (0, 0))
    return found


def _currencies(seal: ClearingSeal, text: str) -> dict[str, int]:
    total: dict[str, int] = dict(seal.currencies)
    for currency, cents in json.loads(text).items():
        total[currency] = total.get(currency, 0) + cents
    return total


def _foreign_types(seal: ClearingSeal, text: str) -> dict[str, list[int]]:
    total: dict[str, list[int]] = dict(seal.foreign_types)
    for type_, (count, cents) in json.loads(text).items():
        before = total.get(type_, [0, 0])
        total[type_] = [before[0] + count, before[1] + cents]
    return total


def _row(statement: str, values: Facts) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        row: tuple[Any, ...] = cursor.fetchone()
    return row
