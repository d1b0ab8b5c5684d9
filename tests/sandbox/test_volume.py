"""The generated volume: as much as was asked for, exact to the pico-dollar, the same for the same seed, and sound.

Three databases beside the tests' own, made from one fresh sandbox: two with the same seed and one with another.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from apikeys import keys, secret
from flint.sandbox import bootstrap, volume

USAGE, TRANSFERS, ACCOUNTS, KEYS = 20_000, 2_000, 300, 600
SHAPE = [
    f"--usage={USAGE}", f"--transfers={TRANSFERS}", f"--accounts={ACCOUNTS}", f"--keys={KEYS}",
    "--days=20", "--until=2025-02-05T12:00Z",
]  # fmt: skip


@dataclass
class Database:
    name: str
    folder: Path

    @property
    def url(self) -> str:
        return os.environ["DATABASE_URL"].replace("/flint?", f"/{self.name}?")

    def manage(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=bootstrap.ROOT,
            env={**os.environ, "DATABASE_URL": self.url, "FLINT_DATA": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query).fetchall()

    def figure(self, expression: str, source: str) -> Any:
        [(figure,)] = self.rows(f"SELECT {expression} FROM {source}")  # noqa: S608  # Both are written below.
        return figure

    def count(self, source: str) -> int:
        return int(self.figure("count(*)", source))


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Database]]:
    """A fresh sandbox, then its copies: filled, filled with the same seed, and with another one."""
    folder = tmp_path_factory.mktemp("volume")
    made = [Database(f"volume_{name}", folder) for name in ("fresh", "filled", "again", "other")]
    fresh, *copies = made
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(f"CREATE DATABASE {fresh.name}")
        finished(fresh.manage("prepare_sandbox", "--backend-url", "http://127.0.0.1:1/v1"))
        for copy in copies:
            server.execute(f"CREATE DATABASE {copy.name} TEMPLATE {fresh.name}")
        seeds = zip(copies, (7, 7, 8), strict=True)
        for process in [copy.manage("generate_data", *SHAPE, f"--seed={seed}") for copy, seed in seeds]:
            finished(process)
        yield made
        for database in made:
            server.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


@pytest.fixture(scope="module")
def filled(databases: list[Database]) -> Database:
    return databases[1]


def test_there_is_as_much_as_was_asked_for(filled: Database) -> None:
    assert filled.count("billing_usagerecord") == USAGE
    # The sandbox's own customer has had a credit, and has a key.
    assert filled.count("billing_transfer") == TRANSFERS + 1
    assert filled.count("accounts_account") == ACCOUNTS + 1
    assert filled.count("apikeys_apikey") == KEYS + 1
    assert filled.count("accounts_membership JOIN accounts_user ON accounts_user.id = user_id") == ACCOUNTS + 1


def test_the_books_hold(filled: Database) -> None:
    process = filled.manage("check_books", "--full")
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_every_charge_is_the_tokens_at_the_price_that_was_in_force_but_never_more_than_the_hold(
    filled: Database,
) -> None:
    priced = """
        SELECT record.*, (input_tokens - cached_input_tokens) * input.pico_per_token
               + cached_input_tokens * cached.pico_per_token + output_tokens * output.pico_per_token AS price
          FROM billing_usagerecord record
          JOIN billing_priceversion version ON version.id = price_version_id AND version.model_id = record.model_id
           AND starts_at <= admitted_at AND (ends_at IS NULL OR admitted_at < ends_at)
          JOIN billing_pricerate input ON input.version_id = version.id AND input.meter = 'input'
          JOIN billing_pricerate cached ON cached.version_id = version.id AND cached.meter = 'cached_input'
          JOIN billing_pricerate output ON output.version_id = version.id AND output.meter = 'output'
    """
    charged = filled.figure("sum(least(price, held))", f"({priced}) priced")
    assert charged == filled.figure("sum(amount)", "billing_transfer WHERE kind = 'usage'")
    right = "charge = least(price, held) AND clamped = (price > held)"
    assert filled.count(f"({priced}) priced WHERE {right}") == USAGE
    assert filled.count(f"({priced}) priced WHERE clamped") > 0
    assert filled.figure("count(DISTINCT price_version_id)", "billing_usagerecord") > 16


def test_every_id_says_when_its_call_was_admitted_and_lies_in_the_partition_of_its_month(filled: Database) -> None:
    milliseconds = "('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint"
    assert filled.count(f"billing_usagerecord WHERE extract(epoch FROM admitted_at) * 1000 = {milliseconds}") == USAGE
    assert filled.count("billing_usagerecord WHERE uuid_extract_version(id) = 7") == USAGE
    assert filled.count("billing_usagerecord_default") == 0
    assert filled.rows("SELECT DISTINCT tableoid::regclass::text FROM billing_usagerecord ORDER BY 1") == [
        ("billing_usagerecord_2025_01",), ("billing_usagerecord_2025_02",),
    ]  # fmt: skip


def test_calls_come_at_all_hours_of_the_days_asked_for(filled: Database) -> None:
    [(first, last)] = filled.rows("SELECT min(admitted_at), max(admitted_at) FROM billing_usagerecord")
    assert f"{first:%Y-%m-%d %H:%M}" >= "2025-01-16 12:00"
    assert "2025-02-05" < f"{last:%Y-%m-%d %H:%M}" <= "2025-02-05 12:00"
    by_hour = dict(
        filled.rows("SELECT extract(hour FROM admitted_at)::int, count(*) FROM billing_usagerecord GROUP BY 1")
    )
    assert len(by_hour) == 24
    assert by_hour[3] > 2 * by_hour[15]


def test_a_few_customers_make_most_calls_and_all_outcomes_occur(filled: Database) -> None:
    sizes = filled.rows("SELECT count(*) FROM billing_usagerecord GROUP BY account_id ORDER BY 1 DESC")
    assert sizes[0][0] > USAGE / 10
    assert sizes[ACCOUNTS // 2][0] < 50
    outcomes = dict(filled.rows("SELECT outcome, count(*) FROM billing_usagerecord GROUP BY 1"))
    assert outcomes["completed"] > USAGE * 0.9
    assert {"client_closed", "backend_failed", "server_stopped", "key_disabled", "swept", "unresolved"} < set(outcomes)
    assert filled.count("billing_usagerecord WHERE outcome = 'unresolved' AND charge + input_tokens > 0") == 0


def test_a_call_uses_a_key_of_its_account(filled: Database) -> None:
    key = "apikeys_apikey key ON key.id = api_key_id AND key.account_id = record.account_id"
    assert filled.count(f"billing_usagerecord record JOIN {key}") == USAGE


def test_a_wallet_is_below_zero_only_where_a_customer_came_into_debt(filled: Database) -> None:
    indebted = filled.count("billing_wallet WHERE debt > 0")
    assert 0 < indebted < ACCOUNTS / 20
    assert filled.count("billing_wallet WHERE posted < 0") == indebted
    assert filled.count("billing_transfer JOIN billing_wallet ON account_id = wallet_id AND debt = 0 "
                        "WHERE balance_after < 0") == 0  # fmt: skip
    promotional = filled.count("billing_creditlot WHERE kind = 'promotional'")
    assert ACCOUNTS / 10 < promotional < ACCOUNTS / 3


def test_the_secret_of_a_number_is_that_of_the_key_with_the_number(filled: Database) -> None:
    async def find(number: int) -> keys.KeyFacts | None:
        async with await AsyncConnection.connect(filled.url) as connection:
            digest = secret.digest(volume.secret_of(7, number))
            return (await keys.find(connection, [digest])).get(digest)

    for number in (1, KEYS // 2, KEYS):
        text = volume.secret_of(7, number)
        assert secret.well_formed(text)
        facts = asyncio.run(find(number))
        assert facts is not None
        assert filled.figure("name", f"apikeys_apikey WHERE id = {facts.key_id}") == f"key {number}"
    assert asyncio.run(find(KEYS + 1)) is None
    assert volume.secret_of(8, 1) != volume.secret_of(7, 1)


@pytest.mark.parametrize("table", ["billing_usagerecord", "billing_transfer", "apikeys_apikey"])
def test_the_same_seed_makes_the_same_rows(databases: list[Database], table: str) -> None:
    # The sandbox's own customer and the moment of the catalogue are the same in all three, being copies.
    digest = "md5(string_agg(kept::text, '' ORDER BY id))"
    _, filled, again, other = (database.figure(digest, f"{table} AS kept") for database in databases)
    assert filled == again
    assert filled != other


def test_all_indexes_and_constraints_are_there_again(databases: list[Database]) -> None:
    constraints = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    indexes = "SELECT tablename, indexname, indexdef FROM pg_indexes"
    for query in (f"{constraints} WHERE conparentid = 0", f"{indexes} WHERE tablename !~ '_(20.._..|default)$'"):
        fresh, filled = (set(database.rows(query)) for database in databases[:2])
        assert fresh <= filled
        assert {row[1] for row in filled - fresh} <= {row[1] for row in filled if "usagerecord_2025" in row[0]}
    assert databases[1].count("pg_index WHERE NOT indisvalid") == 0


def test_what_comes_afterwards_gets_new_ids(filled: Database) -> None:
    for table in volume.NUMBERED:
        assert filled.figure(f"nextval(pg_get_serial_sequence('{table}', 'id')) > max(id)", table)


def test_a_database_that_has_customers_with_usage_is_refused(filled: Database) -> None:
    process = filled.manage("generate_data", *SHAPE)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "This database has customers with usage already, and is not touched." in output
    assert filled.count("billing_usagerecord") == USAGE
