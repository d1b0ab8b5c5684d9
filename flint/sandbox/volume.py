"""A database as full as that of a busy year: customers, keys, calls and money, for benchmarks and plans of queries.

`billing.ledger` is bypassed on purpose, since it would take days: everything is planned and stored by statements over
whole tables (`volume_sql`). What judges the result is `manage.py check_books --full`, which must find nothing. A
**Shape** says how much there is to be; the same shape makes the same rows, id by id.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from apikeys import secret
from apikeys.keys import KEYS_PER_ACCOUNT
from billing import partitions
from flint.sandbox import seed as sandbox
from flint.sandbox import volume_sql as sql

# Written by the load, in the order in which other work locks them.
TABLES = (
    "accounts_user", "accounts_account", "accounts_membership", "apikeys_apikey", "billing_usagerecord",
    "billing_transfer", "billing_creditlot", "billing_usagehour", "billing_releasedholds", "billing_refusedcalls",
    "billing_wallet",
)  # fmt: skip
NUMBERED = ("accounts_user", "accounts_account", "apikeys_apikey", "billing_transfer")  # Their ids are given out here.
LARGE = ("billing_usagerecord", "billing_transfer", "billing_usagehour")  # Their indexes are built after the load.


class Refused(Exception):
    """The database or the shape is not one that can be filled."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How much: rows of usage, transfers, accounts and keys, over the `days` before `until`."""

    usage: int
    transfers: int
    accounts: int
    keys: int
    days: int
    until: datetime
    seed: int


def secret_of(seed: int, number: int) -> str:
    """The secret of the key with this number, from 1 on: a benchmark knows them all without asking."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest())
    characters = []
    for _ in range(secret.RANDOM_LENGTH):
        value, place = divmod(value, len(secret.ALPHABET))
        characters.append(secret.ALPHABET[place])
    random = "".join(characters)
    return secret.PREFIX + random + secret._checksum(random)


def generate(shape: Shape, *, tell: Callable[[str], None]) -> None:
    """Fill the database, telling each step with its rows and seconds. All or nothing. Raises Refused."""
    _insist_on_possible(shape)
    since = shape.until - timedelta(days=shape.days)
    months = (shape.until.year - since.year) * 12 + shape.until.month - since.month
    partitions.ensure(now=since, months_ahead=months)
    with transaction.atomic(durable=True):
        _Load(shape, tell).run()
    began = time.perf_counter()
    with connection.cursor() as cursor:
        # Else whoever reads first would pay for it, or autovacuum would come in the middle of a benchmark.
        cursor.execute(f"VACUUM (ANALYZE) {', '.join(TABLES)}")
    tell(_line("vacuum and statistics", 0, time.perf_counter() - began))


def _insist_on_possible(shape: Shape) -> None:
    if min(shape.usage, shape.transfers, shape.accounts) < 1 or shape.seed < 0:
        raise Refused("There must be at least one of everything, and the seed is not negative.")
    if not shape.accounts <= shape.keys <= shape.accounts * KEYS_PER_ACCOUNT:
        raise Refused(f"Each account has 1 to {KEYS_PER_ACCOUNT} keys.")
    if shape.days < 2:
        raise Refused("The usage takes at least two days.")
    with connection.cursor() as cursor:
        cursor.execute(sql.USED)
        (used,) = cursor.fetchone()
        cursor.execute(sql.STRANGERS, [sandbox.CUSTOMER])
        (strangers,) = cursor.fetchone()
    if used and strangers:
        raise Refused("This database has customers with usage already, and is not touched. Take an empty one.")


class _Load:
    """The steps of one load, inside of its transaction."""

    def __init__(self, shape: Shape, tell: Callable[[str], None]) -> None:
        self.shape = shape
        self.tell = tell
        self.cursor = connection.cursor()
        until = int(shape.until.timestamp() * 1000)
        self.parameters: dict[str, Any] = {
            "usage": shape.usage, "accounts": shape.accounts, "keys": shape.keys, "seed": shape.seed,
            "since": until - shape.days * sql.DAY, "until": until, "day": sql.DAY, "spread": sql.BATCH_SPREAD,
            "settled_after": sql.SETTLED_AFTER, "top_up": sql.TOP_UP, "cent": sql.CENT, "promotion": sql.PROMOTION,
        }  # fmt: skip

    def run(self) -> None:
        self.cursor.execute(sql.BEGIN.format(tables=", ".join(TABLES)))
        self.cursor.execute(sql.FUNCTIONS, self.parameters)
        for name, table in zip(("user", "account", "key", "transfer"), NUMBERED, strict=True):
            self.parameters[f"{name}_base"] = self.figure(sql.HIGHEST_ID.format(table=table))
        self.step("prices", lambda: self.rows(sql.PRICES))
        self.step("plan", self.plan)
        rebuild = self.drop_indexes()
        for name, statement in (("users", sql.USERS), ("accounts", sql.ACCOUNTS), ("members", sql.MEMBERSHIPS)):
            self.step(name, partial(self.rows, statement))
        self.step("keys", self.keys)
        self.step("usage records and roll-ups", self.usage)
        for name, statement in (
            ("transfers", sql.TRANSFERS), ("credit lots", sql.LOTS), ("released holds", sql.RELEASED),
            ("refused calls", sql.REFUSED), ("wallets", sql.WALLETS),
        ):  # fmt: skip
            self.step(name, partial(self.rows, statement))
        for table in NUMBERED:
            self.cursor.execute(sql.NEXT_ID.format(table=table))
        self.step("indexes", lambda: self.build(rebuild))

    def step(self, name: str, work: Callable[[], int]) -> None:
        began = time.perf_counter()
        rows = work()
        self.tell(_line(name, rows, time.perf_counter() - began))

    def rows(self, statement: str) -> int:
        """Run statements; how many rows the last of them wrote."""
        self.cursor.execute(statement, self.parameters)
        return int(self.cursor.rowcount)

    def figure(self, statement: str) -> int:
        self.cursor.execute(statement, self.parameters)
        return int(self.cursor.fetchone()[0])

    def plan(self) -> int:
        """Which customer makes which calls when, and what is posted for them: one entry for each transfer."""
        self.cursor.execute(sql.TARIFF, self.parameters)
        self.parameters["models"] = self.figure(sql.TARIFF_MODELS)
        if not self.parameters["models"]:
            raise Refused("No model has had a price all the time. Run manage.py load_catalogue first.")
        self.cursor.execute(sql.CUSTOMERS, self.parameters)
        self.cursor.execute(sql.CREDITS)
        credits, active = self.cursor.fetchone()
        extra_batches = self.shape.transfers - credits - active
        extra_calls = self.shape.usage - active
        if not 0 <= extra_batches <= extra_calls:
            least, most = credits + active, credits + self.shape.usage
            raise Refused(f"So many accounts and calls make {least} to {most} transfers, not {self.shape.transfers}.")
        self.parameters |= {"extra_batches": extra_batches, "extra_calls": max(extra_calls, 1)}
        self.cursor.execute(sql.ENTRIES, self.parameters)
        self.cursor.execute(sql.COSTS)
        return self.shape.transfers

    def keys(self) -> int:
        base, accounts = self.parameters["key_base"], self.parameters["account_base"]
        created_at = self.shape.until - timedelta(days=self.shape.days)
        with self.cursor.copy(sql.KEYS) as copy:
            for number in range(1, self.shape.keys + 1):
                text = secret_of(self.shape.seed, number)
                account_id = accounts + (number - 1) % self.shape.accounts + 1
                digest, display = secret.digest(text), secret.display(text)
                copy.write_row((base + number, account_id, f"key {number}", digest, display, created_at))
        return self.shape.keys

    def usage(self) -> int:
        """A day at a time, so that a day's calls are sorted in memory and lie in the table as they would have come."""
        self.cursor.execute(sql.DAYS)
        days = [day for (day,) in self.cursor.fetchall()]
        rows = 0
        for day in days:
            self.parameters["this_day"] = day
            rows += self.figure(sql.USAGE)
        return rows

    def drop_indexes(self) -> list[str]:
        """Drop the indexes of the large tables except primary keys; returns the statements that build them again."""
        rebuild = []
        for table in LARGE:
            self.cursor.execute(sql.CONSTRAINTS, [table])
            for name, definition in self.cursor.fetchall():
                self.cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
                rebuild.append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
            self.cursor.execute(sql.INDEXES, [table])
            for name, definition in self.cursor.fetchall():
                self.cursor.execute(f"DROP INDEX {name}")
                # Of a partitioned table only the top is described; all partitions shall have the index.
                rebuild.append(definition.replace(" ON ONLY ", " ON "))
        return rebuild

    def build(self, statements: list[str]) -> int:
        for statement in statements:
            self.cursor.execute(statement)
        return len(statements)


def _line(name: str, rows: int, seconds: float) -> str:
    return f"{name:<28}{rows:>12,}{seconds:9.1f} s"
