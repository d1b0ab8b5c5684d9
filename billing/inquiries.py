"""What a program asks about its account over /v1: one of its calls, the balance, what was used.

Plain SQL for the gateway's connections. Each question is answered by an index from a bounded number of rows, however
long the history is: a call by its id, the usage by the hours of its period. Amounts are pico-USD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from billing import periods
from billing.periods import Period

Grouping = Literal["day", "model", "key"]


@dataclass(frozen=True, slots=True)
class Generation:
    """A call. While it runs there is no outcome and nothing is counted."""

    id: UUID
    model: str
    model_type: str
    api_key_id: int
    api_key_name: str
    api_key_display: str
    streamed: bool
    admitted_at: datetime
    outcome: str | None
    source: str | None
    finish_reason: str
    first_token_ms: int | None
    duration_ms: int | None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    charge: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Balance:
    posted: int
    held: int

    @property
    def available(self) -> int:
        """Below zero where calls cost more than was there: that much is owed."""
        return self.posted - self.held


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list of usage goes on. What it is not grouped by is zero, or the first of all days."""

    day: date = date.min
    model_id: int = -1
    api_key_id: int = -1


@dataclass(frozen=True, slots=True)
class Used:
    """What was used on one day, of one model, by one key. The names of what it is not grouped by are None."""

    day: date
    model_id: int
    api_key_id: int
    model: str | None
    api_key_name: str | None
    api_key_display: str | None
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    charge: int

    @property
    def place(self) -> Place:
        return Place(self.day, self.model_id, self.api_key_id)


async def generation(database: AsyncConnection[object], *, account_id: int, call_id: UUID) -> Generation | None:
    """The call, once it is admitted; None where the account has none of this id that is running or was charged."""
    async with database.cursor(row_factory=class_row(Generation)) as cursor:
        await cursor.execute(_GENERATION, {"account": account_id, "id": call_id})
        return await cursor.fetchone()


async def balance(database: AsyncConnection[object], *, account_id: int) -> Balance:
    async with database.cursor(row_factory=class_row(Balance)) as cursor:
        await cursor.execute("SELECT posted, held FROM billing_wallet WHERE account_id = %s", [account_id])
        return await cursor.fetchone() or Balance(0, 0)  # There is a wallet from the first credit on.


async def usage(
    database: AsyncConnection[object],
    *,
    account_id: int,
    period: Period,
    by: Sequence[Grouping],
    limit: int,
    after: Place | None = None,
    model: str | None = None,
    api_key_id: int | None = None,
) -> list[Used]:
    """The settled usage of the period in the order of day, model and key, at most `limit` rows behind `after`.

    It is read from the hourly roll-ups, as the pages are.
    """
    after = after or Place()
    parameters = {
        "account": account_id,
        "since": max(period.since, periods.start_of(after.day)),
        "until": period.until,
        "by_day": "day" in by,
        "by_model": "model" in by,
        "by_key": "key" in by,
        "after_day": after.day,
        "after_model": after.model_id,
        "after_key": after.api_key_id,
        "model": model,
        "key": api_key_id,
        "limit": limit,
    }
    async with database.cursor(row_factory=class_row(Used)) as cursor:
        await cursor.execute(_USAGE, parameters)
        return await cursor.fetchall()


# A call that has ended keeps its hold until it is settled, so the record is asked first, and both in one snapshot.
_GENERATION = """
SELECT call.id, model.public_id AS model, model.type AS model_type, key.id AS api_key_id, key.name AS api_key_name,
       key.display AS api_key_display, call.streamed, call.admitted_at, call.outcome, call.source, call.finish_reason,
       call.first_token_ms, call.duration_ms, call.input_tokens, call.cached_input_tokens, call.output_tokens,
       call.reasoning_tokens, call.charge, call.settled
  FROM (SELECT id, account_id, model_id, api_key_id, streamed, admitted_at, outcome, source, finish_reason,
               first_token_ms, duration_ms, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, charge,
               settled_at IS NOT NULL AS settled, 1 AS rank
          FROM billing_usagerecord WHERE id = %(id)s
         UNION ALL
        SELECT id, account_id, model_id, api_key_id, streamed, admitted_at, NULL, NULL, '', NULL, NULL, 0, 0, 0, 0, 0,
               false, 2
          FROM billing_hold WHERE id = %(id)s) call
  JOIN billing_languagemodel model ON model.id = call.model_id
  JOIN apikeys_apikey key ON key.id = call.api_key_id
 WHERE call.account_id = %(account)s ORDER BY call.rank LIMIT 1
"""

_USAGE = """
SELECT used.day, used.model_id, used.api_key_id, model.public_id AS model, key.name AS api_key_name,
       key.display AS api_key_display, used.calls, used.input_tokens, used.cached_input_tokens, used.output_tokens,
       used.charge
  FROM (SELECT day, model_id, api_key_id, sum(calls)::bigint AS calls, sum(input_tokens)::bigint AS input_tokens,
               sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
               sum(charge)::bigint AS charge
          FROM (SELECT CASE WHEN %(by_day)s THEN (hour AT TIME ZONE 'UTC')::date ELSE DATE '0001-01-01' END AS day,
                       CASE WHEN %(by_model)s THEN model_id ELSE 0 END AS model_id,
                       CASE WHEN %(by_key)s THEN api_key_id ELSE 0 END AS api_key_id,
                       calls, input_tokens, cached_input_tokens, output_tokens, charge
                  FROM billing_usagehour
                 WHERE account_id = %(account)s AND hour >= %(since)s AND hour < %(until)s
                   AND (%(key)s::bigint IS NULL OR api_key_id = %(key)s::bigint)
                   AND (%(model)s::text IS NULL
                        OR model_id = (SELECT id FROM billing_languagemodel WHERE public_id = %(model)s::text))) hours
         WHERE (day, model_id, api_key_id) > (%(after_day)s::date, %(after_model)s::bigint, %(after_key)s::bigint)
         GROUP BY day, model_id, api_key_id
         ORDER BY day, model_id, api_key_id
         LIMIT %(limit)s) used
  LEFT JOIN billing_languagemodel model ON model.id = used.model_id
  LEFT JOIN apikeys_apikey key ON key.id = used.api_key_id
 ORDER BY used.day, used.model_id, used.api_key_id
"""
