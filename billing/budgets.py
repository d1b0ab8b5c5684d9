"""What keys with a spend cap may still spend: for pages, and for programs that ask.

A **Budget** is the cap of a line of keys in the running period and what of it is used. `spent` is what its calls were
charged, `held` what the calls that run now can cost at most. The cap is kept by `apikeys.keys`, both figures by the
ledger. Amounts are pico-USD.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from apikeys.models import SpendPeriod
from billing import ledger_sql, periods


@dataclass(frozen=True, slots=True)
class Budget:
    cap: int
    period: SpendPeriod
    spent: int
    held: int
    resets_at: datetime | None

    @property
    def left(self) -> int:
        """Nothing, where the cap was lowered below what is used."""
        return max(0, self.cap - self.spent - self.held)


def resets_at(period: SpendPeriod, moment: datetime) -> datetime | None:
    """When the next period begins; None for a cap in total."""
    day = moment.astimezone(UTC).date()
    match period:
        case SpendPeriod.DAY:
            return periods.of_days(day, day).until
        case SpendPeriod.MONTH:
            return periods.month_of(day).until
        case SpendPeriod.TOTAL:
            return None


def of_keys(key_ids: Iterable[int], *, now: datetime) -> dict[int, Budget]:
    """The budgets of those keys that have a cap, by the id of the key."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, {"keys": list(key_ids), "moment": now})
        return {key_id: _budget(now, *columns) for key_id, *columns in cursor.fetchall()}


async def of_key(database: AsyncConnection[object], key_id: int, *, now: datetime) -> Budget | None:
    """The budget of a key, for the gateway; None if it has no cap."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_READ, {"keys": [key_id], "moment": now})
        rows = await cursor.fetchall()
    return _budget(now, *rows[0][1:]) if rows else None


def _budget(now: datetime, cap: int, word: str, spent: int, held: int) -> Budget:
    period = SpendPeriod(word)
    return Budget(cap, period, int(spent), held, resets_at(period, now))


# Before the first call of a period the budget is not open yet; then what it will begin with is told.
_READ = f"""
SELECT capped.id, cap, period, coalesce(budget.spent, ({ledger_sql.CHARGED})), coalesce(budget.held, 0)
  FROM ({ledger_sql.CAPPED_KEYS}) capped LEFT JOIN billing_keybudget budget USING (line_id, period, starts_at)
"""  # noqa: S608  # Composed of the ledger's constants.
