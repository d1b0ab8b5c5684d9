"""When the background work was last done, for who must hear that it was not.

A worker that is gone, a beat that is gone and a queue that is too long have one thing in common: what the schedule
sends every few seconds is not done. Ages are by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Any

from django.conf import settings
from django.db import connection
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import tuple_row


@dataclass(frozen=True, slots=True)
class Clearing:
    """What Stripe has more than this account of the books, and how much of that is explained; in cents."""

    account: str
    parts: dict[str, int]  # What is not ours, what moved just now, and what needs an explanation;
    unexplained: int  # of how many objects of Stripe's that is,
    age: float  # and how long ago they were compared.


@dataclass(frozen=True, slots=True)
class Chores:
    """Ages are infinite where nothing was ever done."""

    task_ages: dict[str, float]  # Since each periodic task last did its work.
    task_intervals: dict[str, float]
    queue_age: float  # Since the last message was sent that a worker has worked on.
    broken_promises: dict[str, int]  # As the last proof of the books found them,
    proof_age: float  # and how long ago that was.
    clearings: list[Clearing]  # Of the mode that Stripe's key has, as the last comparison found it.


def note_done(*, name: str, every_seconds: int, sent_at: datetime) -> None:
    """A periodic task has done its work."""
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_DONE, [name, every_seconds, sent_at])


def note_proof(broken: Sequence[tuple[str, int]]) -> None:
    """What a proof of the books found of each promise."""
    with connection.cursor() as cursor:
        cursor.executemany(_NOTE_PROOF, broken)


async def read(database: AsyncConnection[object]) -> Chores:
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_TASKS)
        tasks = await cursor.fetchall()
        await cursor.execute(_PROMISES)
        promises = await cursor.fetchall()
        clearings = await _clearings(cursor) if settings.STRIPE_SECRET_KEY else []
    return Chores(
        task_ages={name: done for name, _, done, _ in tasks},
        task_intervals={name: every for name, every, _, _ in tasks},
        queue_age=min((sent for *_, sent in tasks), default=inf),
        broken_promises={promise: broken for promise, broken, _ in promises},
        proof_age=max((age for *_, age in promises), default=inf),
        clearings=clearings,
    )


async def _clearings(cursor: AsyncCursor[tuple[Any, ...]]) -> list[Clearing]:
    # The schedule imports this module before there are models, so it says by itself what LedgerAccount.clearing says.
    account = "stripe_clearing" if settings.STRIPE_LIVEMODE else "simulated_clearing"
    await cursor.execute(_CLEARING, [account])
    row = await cursor.fetchone()
    if row is None:
        return [Clearing(account, {}, 0, inf)]
    foreign, fresh, cents, count, age = row
    return [Clearing(account, {"foreign": foreign, "fresh": fresh, "unexplained": cents}, count, age)]


_NOTE_DONE = """
INSERT INTO billing_periodictask (name, every_seconds, sent_at) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE
   SET every_seconds = excluded.every_seconds, sent_at = excluded.sent_at, done_at = clock_timestamp()
"""

_NOTE_PROOF = """
INSERT INTO billing_promisecheck (promise, broken) VALUES (%s, %s)
ON CONFLICT (promise) DO UPDATE SET broken = excluded.broken, checked_at = clock_timestamp()
"""

_TASKS = """
SELECT name, every_seconds, extract(epoch FROM clock_timestamp() - done_at)::float,
       extract(epoch FROM clock_timestamp() - sent_at)::float
  FROM billing_periodictask
"""

_PROMISES = """
SELECT promise, broken, extract(epoch FROM clock_timestamp() - checked_at)::float FROM billing_promisecheck
"""

_CLEARING = """
SELECT foreign_cents, fresh_cents, unexplained_cents, unexplained_count,
       extract(epoch FROM clock_timestamp() - checked_at)::float
  FROM billing_clearingcheck WHERE clearing = %s
"""
