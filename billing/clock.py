"""The moment that counts wherever money is moved or priced: the database's, not that of the host that asks."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection


class InvalidMoment(ValueError):
    """The text is not a time."""


def read(text: str) -> datetime:
    """A moment that a person wrote, in ISO 8601, UTC unless a zone is given. Raises InvalidMoment."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidMoment(f"{text} is not a time; write it like 2026-12-01T00:00:00Z.") from None


def now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment
