"""The monthly partitions of usage records.

A record's id is a UUIDv7, whose first 48 bits are the milliseconds of admission, so a month is a range of ids and the
primary key stays unique for ever. A DEFAULT partition catches what no month covers: nothing is lost, but rows in it
are an alarm, because maintenance has not run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from django.db import connection

MONTHS_AHEAD = 3


def first_id(moment: datetime) -> UUID:
    """The smallest UUID that a UUIDv7 of this moment can be compared with."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def ensure(*, now: datetime, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Create the missing partitions from this month on; returns the names of those created. Safe to repeat."""
    created = []
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    with connection.cursor() as cursor:
        for _ in range(months_ahead + 1):
            following = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
            name = f"billing_usagerecord_{month:%Y_%m}"
            cursor.execute("SELECT to_regclass(%s) IS NULL", [name])
            if cursor.fetchone()[0]:
                cursor.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF billing_usagerecord "
                    f"FOR VALUES FROM ('{first_id(month)}') TO ('{first_id(following)}')"
                )
                created.append(name)
            month = following
    return created


def stray_rows() -> int:
    """How many records lie in the DEFAULT partition; more than none is an alarm."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_usagerecord_default")
        return int(cursor.fetchone()[0])
