"""What the database says: its rows as they are, read with plain SQL in the caller's one snapshot.

Sums and balances that are stored there are read to be compared, never to be used.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from tests.chaos.judge.prices import PriceTable, Rate, Tokens, Version

Row = TypeVar("Row")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Record:
    id: UUID
    account_id: int
    api_key_id: int
    model_id: int
    price_version_id: int
    attempt: int
    outcome: str
    source: str
    recorded_at: datetime
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    held: int
    charge: int
    clamped: bool
    settled_at: datetime | None
    transfer_id: int | None

    @property
    def admitted_at(self) -> datetime:
        """The moment in its id, a UUIDv7."""
        return _EPOCH + timedelta(milliseconds=self.id.int >> 80)

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.input_tokens, self.cached_input_tokens, self.output_tokens)


@dataclass(frozen=True, slots=True)
class Hold:
    id: UUID
    account_id: int
    amount: int
    available_after: int
    budget_id: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Of a line of keys in one period. `cap` is that of the line now, if it is for such a period."""

    id: int
    account_id: int
    line_id: int
    period: str
    starts_at: datetime
    spent: int
    held: int
    cap: int | None


@dataclass(frozen=True, slots=True)
class LateRecord:
    id: UUID
    account_id: int


@dataclass(frozen=True, slots=True)
class Wallet:
    account_id: int
    posted: int
    held: int
    debt: int
    holds_opened: int


@dataclass(frozen=True, slots=True)
class Transfer:
    id: int
    wallet_id: int
    kind: str
    debit: str
    credit: str
    amount: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Lot:
    wallet_id: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Hour:
    """A roll-up."""

    account_id: int
    api_key_id: int
    model_id: int
    hour: datetime
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    charge: int


@dataclass(frozen=True, slots=True)
class Release:
    account_id: int
    reason: str
    calls: int


@dataclass(slots=True)
class Books:
    prices: PriceTable
    context_tokens: dict[int, int]  # Of each model: a prompt never has more.
    records: list[Record]
    holds: list[Hold]
    late: list[LateRecord]
    wallets: list[Wallet]
    transfers: list[Transfer]
    lots: list[Lot]
    hours: list[Hour]
    releases: list[Release]
    budgets: list[Budget]
    lines: dict[int, int]  # Of keys that replaced another: the first one of all.


def read(database: Connection[Any], accounts: Collection[int] | None) -> Books:
    """The books of these accounts, or of all."""
    asked = {"accounts": None if accounts is None else list(accounts)}

    def rows(kind: type[Row], query: str) -> list[Row]:
        with database.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(query, asked).fetchall()

    return Books(
        prices=PriceTable(rows(Version, _VERSIONS), rows(Rate, _RATES)),
        context_tokens=dict(database.execute("SELECT id, context_tokens FROM billing_languagemodel").fetchall()),
        records=rows(Record, _RECORDS),
        holds=rows(Hold, _HOLDS),
        late=rows(LateRecord, _LATE),
        wallets=rows(Wallet, _WALLETS),
        transfers=rows(Transfer, _TRANSFERS),
        lots=rows(Lot, _LOTS),
        hours=rows(Hour, _HOURS),
        releases=rows(Release, _RELEASES),
        budgets=rows(Budget, _BUDGETS),
        lines=dict(database.execute("SELECT id, first_id FROM apikeys_apikey WHERE first_id IS NOT NULL").fetchall()),
    )


_VERSIONS = "SELECT id, model_id, account_id, starts_at, ends_at FROM billing_priceversion"
_RATES = "SELECT version_id, meter, context_from, pico_per_token FROM billing_pricerate"

_RECORDS = """
SELECT id, account_id, api_key_id, model_id, price_version_id, attempt, outcome, source, recorded_at, input_tokens,
       cached_input_tokens, output_tokens, held, charge, clamped, settled_at, transfer_id
  FROM billing_usagerecord WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_HOLDS = """
SELECT id, account_id, amount, available_after, budget_id
  FROM billing_hold WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_LATE = """
SELECT id, account_id
  FROM billing_lateusagerecord WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_WALLETS = """
SELECT account_id, posted, held, debt, holds_opened
  FROM billing_wallet WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_TRANSFERS = """
SELECT id, wallet_id, kind, debit, credit, amount, created_at
  FROM billing_transfer
 WHERE wallet_id IS NOT NULL AND (%(accounts)s::bigint[] IS NULL OR wallet_id = ANY (%(accounts)s))
"""

_LOTS = """
SELECT wallet_id, remaining
  FROM billing_creditlot WHERE %(accounts)s::bigint[] IS NULL OR wallet_id = ANY (%(accounts)s)
"""

_HOURS = """
SELECT account_id, api_key_id, model_id, hour, calls, input_tokens, cached_input_tokens, output_tokens, charge
  FROM billing_usagehour WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_RELEASES = """
SELECT account_id, reason, calls
  FROM billing_releasedholds WHERE %(accounts)s::bigint[] IS NULL OR account_id = ANY (%(accounts)s)
"""

_BUDGETS = """
SELECT budget.id, key.account_id, line_id, period, starts_at, spent, held,
       CASE WHEN key.spend_period = period THEN key.spend_cap END AS cap
  FROM billing_keybudget budget JOIN apikeys_apikey key ON key.id = line_id
 WHERE %(accounts)s::bigint[] IS NULL OR key.account_id = ANY (%(accounts)s)
"""
