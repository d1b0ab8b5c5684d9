"""The statement of an account: month by month what came in, what was used, and the balance after each line.

A **Line** is a transfer that is not usage, or all usage of one day: its **parts** are the models (and on the day that
is opened also the keys) that made it. A month has the lines whose day lies in it: a call belongs to the day on which
it began, even where it was charged after midnight. Amounts are pico-USD, negative where they left the wallet.

The usage of a day is read from the roll-ups: `check_books` proves them equal to the records (P8), and those to the
transfers (P3), of which a wallet may have a million in a month.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby
from typing import Any

from django.db import connection

from accounts.models import Account
from billing import periods
from billing import statements_sql as sql
from billing.models import TransferKind

TITLES = {
    TransferKind.TOPUP: "Top-up",
    TransferKind.USAGE: "Usage",
    TransferKind.PROMOTION: "Promotional credit",
    TransferKind.EXPIRY: "Promotional credit expired",
    TransferKind.REFUND: "Refund",
    TransferKind.DISPUTE: "Disputed payment",
    TransferKind.ADJUSTMENT: "Adjustment",
    TransferKind.WRITE_OFF: "Debt written off",
}


@dataclass(frozen=True, slots=True)
class Part:
    model: str
    key: str
    key_display: str
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    amount: int


@dataclass(frozen=True, slots=True)
class Line:
    day: date
    at: datetime | None  # When it was posted; usage is of the whole day.
    kind: str
    reason: str
    amount: int
    balance: int
    parts: list[Part] = field(default_factory=list)

    @property
    def title(self) -> str:
        if self.kind == TransferKind.ADJUSTMENT and self.amount > 0:
            return "Credit from us"
        if self.kind == TransferKind.REFUND and self.amount > 0:
            return "Refund that came back"
        if self.kind == TransferKind.DISPUTE and self.amount > 0:
            return "Disputed payment that came back"
        return TITLES[TransferKind(self.kind)]

    @property
    def calls(self) -> int:
        return sum(part.calls for part in self.parts)


@dataclass(frozen=True, slots=True)
class Statement:
    """`posted` is the balance of the wallet at the same moment; that of the current month closes with it."""

    month: date
    opening: int
    lines: list[Line]
    closing: int
    posted: int

    @property
    def added(self) -> int:
        return sum(line.amount for line in self.lines if line.amount > 0)

    @property
    def taken(self) -> int:
        return sum(line.amount for line in self.lines if line.amount < 0)


def months(account: Account) -> list[date]:
    """The first day of each month with a line, the newest first."""
    with connection.cursor() as cursor:
        cursor.execute(sql.MONTHS, {"account": account.pk})
        return [row[0] for row in cursor.fetchall()]


def of_month(account: Account, month: date, *, opened: date | None = None) -> Statement:
    """The statement of the month that begins on `month`; the usage of the day `opened` is split by key, too."""
    period = periods.month_of(month)
    parameters: dict[str, int | date | datetime | None] = {
        "account": account.pk,
        "first": period.since.date(),
        "next": period.until.date(),
        "since": period.since,
        "until": period.until,
        "open": opened,
    }
    with connection.cursor() as cursor:
        cursor.execute(sql.STATEMENT, parameters)
        rows = cursor.fetchall()
    opening = sum(int(row[-1]) for row in rows if row[0] == "opening")
    lines = _lines(rows, balance=opening)
    return Statement(
        month=period.since.date(),
        opening=opening,
        lines=lines,
        closing=lines[-1].balance if lines else opening,
        posted=sum(int(row[-1]) for row in rows if row[0] == "wallet"),
    )


def _lines(rows: list[tuple[Any, ...]], *, balance: int) -> list[Line]:
    """In the order of days, within a day transfers as they were posted and then the usage."""
    entries: list[tuple[date, Any, str, str, int, list[Part]]] = [
        (day, at, kind, reason, int(amount), [])
        for part, day, at, kind, reason, *_, amount in rows
        if part == "transfer"
    ]
    usage = (row for row in rows if row[0] == "usage")
    for day, of_day in groupby(usage, key=lambda row: row[1]):
        parts = [Part(*row[5:8], *map(int, row[8:])) for row in of_day]
        amount = sum(part.amount for part in parts)
        if amount:
            entries.append((day, None, TransferKind.USAGE, "", amount, parts))
    lines = []
    for day, at, kind, reason, amount, parts in sorted(entries, key=lambda entry: (entry[0], entry[1] is None)):
        balance += amount
        lines.append(Line(day, at, kind, reason, amount, balance, parts))
    return lines
