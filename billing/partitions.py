"""The monthly partitions of usage records.

A record's id is a UUIDv7, whose first 48 bits are the milliseconds of admission, so a month is a range of ids and the
primary key stays unique for ever. A DEFAULT partition catches what no month covers: nothing is lost, but rows in it
are an alarm, because maintenance has not run.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from django.db import IntegrityError, OperationalError, connection, transaction

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3


def first_id(moment: datetime) -> UUID:
    """The smallest UUID that a UUIDv7 of this moment can be compared with."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def ensure(*, now: datetime, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Create the missing partitions from this month on; returns the names of those created. Safe to repeat.

    A month that already has rows in the DEFAULT partition cannot get its own; it is reported and left to an operator.
    One whose locks are not to be had within a second is reported too; the next run tries again.
    """
    created = []
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    for _ in range(months_ahead + 1):
        following = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
        name = f"billing_usagerecord_{month:%Y_%m}"
        try:
            if _create(name, first_id(month), first_id(following)):
                created.append(name)
        except (IntegrityError, OperationalError) as fault:
            logger.error("partition %s cannot be made now: %s", name, fault)
        month = following
    return created


def _create(name: str, start: UUID, end: UUID) -> bool:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NULL", [name])
        missing = bool(cursor.fetchone()[0])
        if missing:
            # Attached rather than created in place, and given up soon: creating would lock everybody out of the whole
            # table, behind whatever long query reads it just now. There is time to try again.
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            cursor.execute(f"CREATE TABLE {name} (LIKE billing_usagerecord INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
            cursor.execute(
                f"ALTER TABLE billing_usagerecord ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')"
            )
    return missing


def stray_rows() -> int:
    """How many records lie in the DEFAULT partition; more than none is an alarm."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_usagerecord_default")
        return int(cursor.fetchone()[0])
