"""Holds whose call is over, and how that is known.

A gateway process writes a heartbeat under its **boot**, a UUID made at each start, and checkpoints what its running
streams have produced. It gives back holds of its own that it does not know as running. The **sweep** closes the holds
of dead processes and those past their time, each with exactly one usage record: charged by its last checkpoint, or
zero and unresolved. Only the database's clock counts here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from billing.models import GatewayProcess, Hold, UsageRecord
from billing.pricing import Price, Usage, price_of
from billing.usage import Outcome, Source, charge_within

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2
# A process that could not beat for this long stops admitting, well before a sweeper may call it dead.
SILENT_SECONDS = 10
DEAD_AFTER = timedelta(seconds=15)
SWEEP_BATCH = 500


class Checkpoint(msgspec.Struct, frozen=True):
    """What an accepted call has used so far."""

    id: UUID
    backend: str
    attempt: int
    input_tokens: int
    output_tokens: int


async def beat(database: AsyncConnection[object], *, boot: UUID, host: str, pid: int) -> datetime:
    """Say that the process is alive; the database's clock. Must be done once before its first admission."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_BEAT, [boot, host, pid])
        rows: list[tuple[datetime]] = await cursor.fetchall()
    return rows[0][0]


async def checkpoint(database: AsyncConnection[object], checkpoints: Sequence[Checkpoint]) -> None:
    """Note what running calls have used so far, in one statement."""
    if checkpoints:
        await database.execute(_CHECKPOINT, [msgspec.json.encode(checkpoints).decode()])


async def forgotten(database: AsyncConnection[object], *, boot: UUID, known: Callable[[], Set[UUID]]) -> list[UUID]:
    """Holds of this process that it does not know: their reserve was cancelled, or its commit's answer was lost.

    `known` is asked once more after the answer: a call that began meanwhile is in it.
    """
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FORGOTTEN, [boot, list(known())])
        found = [row[0] for row in await cursor.fetchall()]
    return [call_id for call_id in found if call_id not in known()]


async def leave(database: AsyncConnection[object], *, boot: UUID) -> None:
    """Say goodbye. A process with open holds stays listed, so that they are swept in good order."""
    await database.execute(_LEAVE, [boot])


def sweep() -> set[int]:
    """Close the holds of dead processes and those past their time; returns the accounts that have calls to settle."""
    dead = _dead_processes()
    accounts: set[int] = set()
    while swept := _sweep_batch(dead):
        accounts |= swept
    # A dead process is forgotten once nothing of it is open, unless it has come back.
    owns_holds = Exists(Hold.objects.filter(owner=OuterRef("boot")))
    GatewayProcess.objects.filter(~owns_holds, boot__in=dead, beat=F("seen_beat")).delete()
    return accounts


def _dead_processes() -> list[UUID]:
    """Processes whose beat has not changed between two sweeps that lie far enough apart.

    The watch must have had no gap: while we could not reach the database, they could not beat either.
    """
    processes = GatewayProcess.objects
    changed = ~Q(beat=F("seen_beat")) | Q(swept_at__lt=Now() - DEAD_AFTER)
    processes.filter(changed).update(seen_beat=F("beat"), seen_at=Now())
    processes.update(swept_at=Now())
    return list(processes.filter(beat=F("seen_beat"), seen_at__lt=Now() - DEAD_AFTER).values_list("boot", flat=True))


def _sweep_batch(dead: Sequence[UUID]) -> set[int]:
    unowned = ~Exists(GatewayProcess.objects.filter(boot=OuterRef("owner")))
    recorded = Exists(UsageRecord.objects.filter(pk=OuterRef("pk")))
    over = Q(owner__in=dead) | Q(unowned) | Q(expires_at__lt=Now())
    with transaction.atomic():
        holds = list(
            Hold.objects.filter(over, ~Q(recorded), resolved_at=None)
            .order_by("id")
            .select_for_update(skip_locked=True, of=("self",))[:SWEEP_BATCH]
        )
        records = [_closing_record(hold) for hold in holds]
        UsageRecord.objects.bulk_create(records, ignore_conflicts=True)
        Hold.objects.filter(pk__in=[hold.pk for hold in holds]).update(resolved_at=Now())
    for record in records:
        logger.warning("swept call %s of account %s: %s", record.pk, record.account_id, record.outcome)
    return {hold.account_id for hold in holds}


def _closing_record(hold: Hold) -> UsageRecord:
    """The one record of a call whose process is gone: charged by its checkpoint, or zero and unresolved."""
    known = hold.checkpoint_output_tokens is not None
    usage = Usage(hold.checkpoint_input_tokens or 0, hold.checkpoint_output_tokens or 0)
    charge, clamped = charge_within(hold.amount, _price(hold.price_version_id), usage) if known else (0, False)
    return UsageRecord(
        id=hold.pk,
        account_id=hold.account_id,
        api_key_id=hold.api_key_id,
        model_id=hold.model_id,
        price_version_id=hold.price_version_id,
        backend=hold.backend,
        attempt=hold.attempt,
        streamed=hold.streamed,
        outcome=Outcome.SWEPT if known else Outcome.UNRESOLVED,
        source=Source.CHECKPOINT if known else Source.NONE,
        admitted_at=hold.admitted_at,
        input_tokens=usage.input_tokens,
        cached_input_tokens=0,
        output_tokens=usage.output_tokens,
        reasoning_tokens=0,
        held=hold.amount,
        charge=charge,
        clamped=clamped,
    )


@lru_cache(maxsize=1000)
def _price(version_id: int) -> Price:
    """Prices never change, so they may be kept."""
    return price_of(version_id)


_BEAT = """
INSERT INTO billing_gatewayprocess (boot, host, pid, beat, seen_beat) VALUES (%s, %s, %s, 0, -1)
ON CONFLICT (boot) DO UPDATE SET beat = billing_gatewayprocess.beat + 1, beat_at = now()
RETURNING clock_timestamp()
"""

# A locked hold is just being ended, and needs no checkpoint any more; waiting for it could become a deadlock.
_CHECKPOINT = """
UPDATE billing_hold hold
   SET backend = point.backend, attempt = point.attempt,
       checkpoint_input_tokens = point.input_tokens, checkpoint_output_tokens = point.output_tokens
  FROM (SELECT point.* FROM jsonb_to_recordset(%s::jsonb) AS point(
               id uuid, backend text, attempt smallint, input_tokens bigint, output_tokens bigint)
          JOIN billing_hold running ON running.id = point.id
           FOR NO KEY UPDATE OF running SKIP LOCKED) point
 WHERE hold.id = point.id AND hold.resolved_at IS NULL
"""

# Most calls are younger than this, and need not be compared. What keeps a running call is that it is in the list.
_FORGOTTEN = """
SELECT id FROM billing_hold
 WHERE owner = %s AND id <> ALL(%s) AND admitted_at < now() - interval '5 seconds' AND resolved_at IS NULL
   AND NOT EXISTS (SELECT FROM billing_usagerecord WHERE billing_usagerecord.id = billing_hold.id)
"""

_LEAVE = """
DELETE FROM billing_gatewayprocess
 WHERE boot = %s AND NOT EXISTS (SELECT FROM billing_hold WHERE owner = boot)
"""
