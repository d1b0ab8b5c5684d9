"""Tables as CSV, sent while they are read: no export is ever whole in memory, and none keeps a transaction open.

Amounts are exact decimals in USD, times are UTC. A cell of text that a spreadsheet would take for a formula gets an
apostrophe in front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import date, datetime

from asgiref.sync import sync_to_async
from django.db import connection

from billing import call_log, money, periods, spending
from billing.call_log import Search
from billing.models import TransferKind, UsageRecord
from billing.spending import Scope
from billing.statements import Line, Statement

Cell = str | int | None
Row = Sequence[Cell]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens")


async def lines(header: Sequence[str], batches: Iterator[Iterable[Row]]) -> AsyncIterator[str]:
    """The header and then each batch, fetched in a thread when the reader is ready for it."""
    yield _text([header])
    while (rows := await sync_to_async(_next)(batches)) is not None:
        yield _text(rows)


def _next(batches: Iterator[Iterable[Row]]) -> Iterable[Row] | None:
    try:
        return next(batches, None)
    finally:
        if not connection.in_atomic_block:  # As in tests.
            connection.close_if_unusable_or_obsolete()  # A slow reader does not keep a connection of the pool.


def _text(rows: Iterable[Row]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z" if moment else ""


USAGE = ("from", "key", "key_id", "model", "calls", *_TOKENS, "cost_usd")


def usage(scope: Scope, *, now: datetime) -> Iterator[list[Row]]:
    """A row for each hour or day, key and model with calls; a day is a batch."""
    for day in scope.period.days(now):
        of_day = Scope(scope.account, periods.of_days(day, day), scope.key_id, scope.model_id)
        yield [
            (
                f"{row['step']:%Y-%m-%dT%H:%M}Z" if scope.period.step == periods.HOUR else f"{row['step']:%Y-%m-%d}",
                safe(str(row["api_key__name"])), str(row["api_key__display"]), safe(str(row["model__public_id"])),
                row["calls"], *(row[name] for name in _TOKENS), money.usd(row["charge"]),
            )
            for row in spending.details(of_day, step=scope.period.step)
        ]  # fmt: skip


CALLS = (
    "id", "time", "model", "key", "key_id", "outcome", "finish_reason", "streamed", *_TOKENS, "reasoning_tokens",
    "counted", "first_token_ms", "duration_ms", "cost_usd", "settled",
)  # fmt: skip


def calls(search: Search) -> Iterator[list[Row]]:
    """A row for each call, newest first."""
    for batch in call_log.batches(search):
        yield [_call(record) for record in batch]


def _call(record: UsageRecord) -> Row:
    return (
        str(record.pk), _moment(record.admitted_at), safe(record.model.public_id), safe(record.api_key.name),
        record.api_key.display, record.outcome, safe(record.finish_reason), "yes" if record.streamed else "no",
        record.input_tokens, record.cached_input_tokens, record.output_tokens, record.reasoning_tokens,
        record.source, record.first_token_ms, record.duration_ms, money.usd(record.charge),
        _moment(record.settled_at),
    )  # fmt: skip


STATEMENT = ("day", "posted", "what", "reason", "model", "calls", *_TOKENS, "amount_usd", "balance_usd")


def statement(of: Statement) -> Iterator[list[Row]]:
    """The opening balance, each transfer, the usage of each day and model, and the closing balance."""
    yield [_balance(of.month, "Opening balance", of.opening)]
    for line in of.lines:
        yield _line(line)
    last_day = periods.month_of(of.month).last_day
    yield [_balance(last_day, "Closing balance", of.closing)]


def _balance(day: date, what: str, balance: int) -> Row:
    return (str(day), "", what, "", "", "", "", "", "", "", money.usd(balance))


def _line(line: Line) -> list[Row]:
    if line.kind != TransferKind.USAGE:
        amounts = (money.usd(line.amount), money.usd(line.balance))
        return [(str(line.day), _moment(line.at), line.title, safe(line.reason), "", "", "", "", "", *amounts)]
    rows: list[Row] = []
    balance = line.balance - line.amount
    for part in line.parts:
        balance += part.amount
        rows.append((
            str(line.day), "", line.title, "", safe(part.model), part.calls,
            part.input_tokens, part.cached_input_tokens, part.output_tokens,
            money.usd(part.amount), money.usd(balance),
        ))  # fmt: skip
    return rows
