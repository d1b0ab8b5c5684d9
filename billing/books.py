"""Proof that the books hold: the promises P1 to P9, each a query that finds what breaks it.

All of them run in one REPEATABLE READ snapshot. The full run reads all history. The incremental run starts each wallet
where its last proof ended (`BooksCheck`), so it costs what happened since, not what ever happened; what is open now
(wallets, holds, lots) is always read whole.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from billing import books_sql as sql
from billing import chores

SHOWN = 20  # Broken rows listed for each promise.
MEMORY = "128MB"  # For each sort and hash of the check. With PostgreSQL's usual 4 MB a full run takes twice as long.


@dataclass(frozen=True, slots=True)
class Promise:
    name: str
    text: str
    full: str
    incremental: str


@dataclass(slots=True)
class Finding:
    """What the check of one promise found: how many rows break it, the first of them, and whose wallets they are."""

    promise: Promise
    broken: int
    seconds: float
    examples: list[dict[str, Any]] = field(default_factory=list)
    accounts: set[int] = field(default_factory=set)


PROMISES = (
    Promise(
        "P1", "wallet.posted = sum of its transfers = last balance_after, wallet_seq without gap",
        sql.P1_FULL, sql.P1_INCREMENTAL,
    ),
    Promise("P2", "wallet.held = sum of its open holds, of calls and of refunds", sql.P2, sql.P2),
    Promise("P3", "usage transfer = sum of its records, of the same UTC day", sql.P3_FULL, sql.P3_INCREMENTAL),
    Promise("P4", "wallet.posted = what its lots have left - debt", sql.P4, sql.P4),
    Promise("P5", "one record per call, for ever", sql.P5, sql.P5),
    Promise("P6", "no admission left available, or a spend cap, below zero", sql.P6, sql.P6),
    Promise("P7", "every hold ended in one record or a reasoned release", sql.P7_FULL, sql.P7_INCREMENTAL),
    Promise("P8", "roll-ups = sum of their records", sql.P8_FULL, sql.P8_INCREMENTAL),
    Promise(
        "P9", "key budget: held = sum of its open holds, spent = sum of the charges of its period",
        sql.P9_FULL, sql.P9_INCREMENTAL,
    ),
)  # fmt: skip


def check(*, full: bool) -> list[Finding]:
    """Check every promise in one snapshot, and remember how far each sound wallet was proved."""
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL work_mem = %s", [MEMORY])
        findings = look(full=full)
        proved = _proved_wallets(findings)
    with connection.cursor() as cursor:
        cursor.execute(sql.REMEMBER, proved)
    chores.note_proof([(finding.promise.name, finding.broken) for finding in findings])
    return findings


def look(*, full: bool) -> list[Finding]:
    """Check every promise as this connection's transaction sees it, and remember nothing."""
    return [_check_one(promise, promise.full if full else promise.incremental) for promise in PROMISES]


def _check_one(promise: Promise, query: str) -> Finding:
    started = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(query)
        names = [column.name for column in cursor.description]
        rows = cursor.fetchall()
    examples = [dict(zip(names, row, strict=True)) for row in rows[:SHOWN]]
    owner = names.index("account_id") if "account_id" in names else None
    accounts = {row[owner] for row in rows} if owner is not None else set()
    return Finding(promise, len(rows), time.perf_counter() - started, examples, accounts)


def _proved_wallets(findings: list[Finding]) -> dict[str, list[int]]:
    """Wallets with transfers since their last proof, except those that break a promise: the next run must see them."""
    broken = set().union(*(finding.accounts for finding in findings))
    with connection.cursor() as cursor:
        cursor.execute(sql.MOVED)
        moved = [row for row in cursor.fetchall() if row[0] not in broken]
    accounts, seqs, balances = zip(*moved, strict=True) if moved else ((), (), ())
    return {"accounts": list(accounts), "seqs": list(seqs), "balances": list(balances)}
