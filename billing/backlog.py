"""How far the background work is behind: what an operator looks at first when something is slow.

Nothing is lost while the worker is away, since the rows are the queue; but it must be seen. Ages are by the database's
clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

# Settlement takes a second or so, and a sweep every five seconds finds what no doorbell rang for.
BEHIND_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Backlog:
    unsettled_calls: int
    settlement_lag_seconds: float  # The age of the oldest recorded call that is not charged; 0 without one.
    open_holds: int
    overdue_holds: int  # Past their time: the sweeper does not run.
    silent_processes: int  # Gateway processes without a heartbeat that are not swept yet.
    late_records: int  # Came after the sweeper had closed their call; wait for a person.
    stray_records: int  # In the DEFAULT partition: make_partitions did not run in time.

    @property
    def is_behind(self) -> bool:
        return self.settlement_lag_seconds > BEHIND_SECONDS or self.overdue_holds > 0 or self.stray_records > 0


def measure() -> Backlog:
    """What waits now. Reads what is open, never what is done."""
    with connection.cursor() as cursor:
        cursor.execute(_MEASURE)
        return Backlog(*cursor.fetchone())


async def read(database: AsyncConnection[object]) -> Backlog:
    """The same, for the gateway."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_MEASURE)
        (row,) = await cursor.fetchall()
    return Backlog(*row)


_LAG = """coalesce((SELECT extract(epoch FROM clock_timestamp() - min(recorded_at))
             FROM billing_usagerecord WHERE settled_at IS NULL), 0)::float"""

_MEASURE = f"""
SELECT (SELECT count(*) FROM billing_usagerecord WHERE settled_at IS NULL),
       {_LAG},
       (SELECT count(*) FROM billing_hold),
       (SELECT count(*) FROM billing_hold WHERE expires_at < now()),
       (SELECT count(*) FROM billing_gatewayprocess WHERE beat_at < now() - interval '15 seconds'),
       (SELECT count(*) FROM billing_lateusagerecord),
       (SELECT count(*) FROM billing_usagerecord_default)
"""  # noqa: S608  # Composed of the constant above.
