"""What a call used, made durable.

A **Record** is the fact that the gateway writes before the customer gets the last bytes. The first record of a call
wins; one that comes after the sweeper's is kept as a late one, where a person can find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from billing.models import UsageRecord
from billing.pricing import Price, Usage

Outcome = UsageRecord.Outcome
Source = UsageRecord.Source


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One row of usage: the fields of `billing.models.UsageRecord` that the gateway knows."""

    id: UUID
    account_id: int
    api_key_id: int
    model_id: int
    price_version_id: int
    backend: str
    attempt: int
    streamed: bool
    outcome: Outcome
    source: Source
    finish_reason: str
    admitted_at: datetime
    first_token_ms: int | None
    duration_ms: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    held: int
    charge: int
    clamped: bool
    upstream_cost: int | None = None


def charge_within(held: int, price: Price, usage: Usage) -> tuple[int, bool]:
    """The charge in pico-USD, never more than was held, and whether it had to be clamped."""
    charge = price.charge(usage)
    return min(charge, held), charge > held


async def record(database: AsyncConnection[object], records: Sequence[Record]) -> None:
    """Make records durable. The first of a call stays; a repeat of ours is dropped, one after the sweeper's is late."""
    rows = msgspec.json.encode(records).decode()
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_RECORD, [rows])
        stored = {row[0] for row in await cursor.fetchall()}
        if len(stored) < len(records):
            late = [record for record in records if record.id not in stored]
            await cursor.execute(_KEEP_LATE, [msgspec.json.encode(late).decode()])


async def count_refusals(
    database: AsyncConnection[object], refusals: Mapping[tuple[int | None, int, str], int]
) -> None:
    """Add up calls that were never admitted: (account, status, code) -> how many."""
    if refusals:
        rows = [[account, status, code, calls] for (account, status, code), calls in refusals.items()]
        await database.execute(_COUNT_REFUSALS, [msgspec.json.encode(rows).decode()])


_COLUMNS = """id, account_id, api_key_id, model_id, price_version_id, backend, attempt, streamed, outcome, source,
    finish_reason, admitted_at, first_token_ms, duration_ms, input_tokens, cached_input_tokens, output_tokens,
    reasoning_tokens, held, charge, clamped, upstream_cost"""

_RECORD = f"""
INSERT INTO billing_usagerecord ({_COLUMNS})
SELECT {_COLUMNS}
  FROM jsonb_to_recordset(%s::jsonb) AS record(
       id uuid, account_id bigint, api_key_id bigint, model_id bigint, price_version_id bigint, backend text,
       attempt smallint, streamed boolean, outcome text, source text, finish_reason text, admitted_at timestamptz,
       first_token_ms int, duration_ms int, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
       reasoning_tokens bigint, held bigint, charge bigint, clamped boolean,
       upstream_cost bigint)
 ORDER BY id -- As the sweeper does, so that the two never wait for each other.
    ON CONFLICT (id) DO NOTHING
RETURNING id
"""  # noqa: S608  # The columns are the constant above.

_KEEP_LATE = """
INSERT INTO billing_lateusagerecord (id, account_id, record)
SELECT first.id, first.account_id, late.record
  FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS late(record, position)
  JOIN billing_usagerecord first ON first.id = (late.record ->> 'id')::uuid
 WHERE first.outcome IN ('swept', 'unresolved')
 ORDER BY first.id, late.position -- Two processes that keep the same ones never wait for each other.
    ON CONFLICT (id) DO NOTHING
"""

_COUNT_REFUSALS = """
INSERT INTO billing_refusedcalls AS total (account_id, hour, status, code, calls)
SELECT (row ->> 0)::bigint, date_trunc('hour', now(), 'UTC'), (row ->> 1)::smallint, row ->> 2, (row ->> 3)::bigint
  FROM jsonb_array_elements(%s::jsonb) AS row ORDER BY 1, 3, 4
    ON CONFLICT (account_id, hour, status, code) DO UPDATE SET calls = total.calls + excluded.calls
"""
