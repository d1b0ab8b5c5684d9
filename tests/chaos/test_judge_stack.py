"""The judge of the running product: real calls of all kinds are sound, and what is spoilt in the database is found.

Rows are spoilt in a transaction that is rolled back, past triggers and foreign keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from billing import settlement
from tests.chaos.judge import Verdict, decide, judge
from tests.chaos.judge.books import read
from tests.chaos.judge.evidence import read_clients, read_journal
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import boot_of, sweep_as_dead, web_process
from tests.stack import Stack, until

STREAM_SECONDS = 4.5  # Before its process is killed: so long that a checkpoint must have seen it.
BLIND_SECONDS = 3.5
SETTLED_SECONDS = 20


@dataclass
class Ledger:
    """The calls as their client saw them, in the lines that the load writes."""

    of: Customer
    lines: list[dict[str, Any]] = field(default_factory=list)

    def note(self, call_id: UUID | None, **seen: Any) -> None:
        blank = {"status": None, "tokens": 0, "code": None, "retry_after": None, "usage": None, "first_at": None}
        call = {"fault": "none", "account_id": self.of.account.pk, "call_id": call_id and call_id.hex}
        self.lines.append({**call, "stream": False, "sent_at": 0.0, "ended_at": time.time(), **blank, **seen})

    def ask(self, stack: Stack, body: dict[str, Any]) -> None:
        answer = wire.ask(stack.webs[0], self.of.secret, body)
        if answer.status == 200:
            usage = answer.json["usage"]
            self.note(answer.call_id, end="done", status=200, tokens=usage["completion_tokens"], usage=usage)
        else:
            code, later = answer.error["code"], answer.headers["retry-after"]
            self.note(answer.call_id, end="refused", status=answer.status, code=code, retry_after=later)

    def stream(self, stack: Stack, body: dict[str, Any], *, leave_after: int | None = None) -> None:
        with wire.stream(stack.webs[1], self.of.secret, body) as opened:
            seen = {"stream": True, "status": 200, "first_at": time.time()}
            if leave_after is not None:
                self.note(opened.call_id, end="hung_up", tokens=len(opened.read(leave_after)), **seen)
                return
            events = opened.rest()
            tokens = sum(len(wire.texts_of(event)) for event in events)
            usage = next((event["usage"] for event in events if event and event.get("usage")), None)
            end = "error" if any(event and "error" in event for event in events) else "done"
            self.note(opened.call_id, end=end, tokens=tokens, usage=usage, **seen)


@dataclass
class Run:
    """Calls that are over and settled."""

    account_id: int
    journal: Path
    clients: Path

    def verdict(self, database: psycopg.Connection[Any] | None = None) -> Verdict:
        if database is None:
            return judge(os.environ["DATABASE_URL"], self.journal, self.clients, accounts=[self.account_id])
        books = read(database, [self.account_id])
        clients = read_clients(self.clients, {self.account_id})
        return decide(books, read_journal(self.journal), clients, whole=False, blind_seconds=BLIND_SECONDS)


@pytest.fixture(scope="module")
def run(stack: Stack, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("judged")
    with django_db_blocker.unblock():
        alice = customer()
        ledger = Ledger(alice)
        with_a_death(ledger, folder)
        of_all_kinds(ledger, stack)
        until(lambda: not alice.holds and all(record.settled_at for record in alice.records), SETTLED_SECONDS)
        connection.close()
    clients = folder / "clients.jsonl"
    clients.write_text("".join(json.dumps(line) + "\n" for line in ledger.lines))
    return Run(alice.account.pk, stack.backend.journal_path, clients)


def of_all_kinds(ledger: Ledger, stack: Stack) -> None:
    for _ in range(2):  # The second prompt is cached.
        ledger.ask(stack, chat("How do tides work? " * 40, max_tokens=50))
        ledger.ask(stack, chat("[demo: close_before]"))
    ledger.ask(stack, chat("[demo: no_usage]"))
    ledger.ask(stack, chat("[demo: tokens=20]", n=3))
    ledger.ask(stack, chat(max_tokens=-1))
    ledger.stream(stack, chat("[demo: tokens=30]", stream_options={"include_usage": True}))
    ledger.stream(stack, chat("[demo: tokens=30 usage_at=every]", model="kimi-k2-thinking"))
    ledger.stream(stack, chat("[demo: no_usage]"))
    ledger.stream(stack, chat("[demo: cut_after=7]"))
    ledger.stream(stack, chat("[demo: error_after=9]"))
    ledger.stream(stack, chat("[demo: endless tokens_per_second=300]"), leave_after=20)
    ledger.stream(stack, chat("[demo: hang_after=7 usage_at=every]"), leave_after=7)
    for streamed in (True, False):
        body = chat("[demo: first_token_ms=9000]", stream=streamed)
        until(lambda: not ledger.of.holds, SETTLED_SECONDS)
        with wire.begun(stack.webs[0], ledger.of.secret, body):
            (hold,) = until(lambda: ledger.of.holds)
            until(lambda hold=hold: stack.backend.entries(str(hold.pk)))  # type: ignore[misc]
        ledger.note(None, end="hung_up", stream=streamed)


def with_a_death(ledger: Ledger, folder: Path) -> None:
    """A stream and a JSON call whose process is killed."""
    with ExitStack() as opened:
        web = opened.enter_context(web_process(folder))
        body = chat("[demo: tokens=1000 tokens_per_second=40]", max_tokens=1000)
        stream = opened.enter_context(wire.stream(web, ledger.of.secret, body))
        opened.enter_context(wire.begun(web, ledger.of.secret, chat("[demo: first_token_ms=60000]")))
        first_at, tokens = time.time(), 0
        for event in stream.events():
            tokens += len(wire.texts_of(event))
            if time.time() - first_at > STREAM_SECONDS:
                break
        boot = boot_of(web)
        web.kill()
        ledger.note(
            stream.call_id, end="cut", stream=True, status=200, first_at=first_at, ended_at=time.time(), tokens=tokens
        )
        ledger.note(None, end="cut")
    sweep_as_dead(boot)
    settlement.settle_accounts(account_ids=[ledger.of.account.pk])


def test_real_calls_of_all_kinds_are_sound(run: Run) -> None:
    verdict = run.verdict()
    assert verdict.sound, verdict.faults
    assert (verdict.calls, verdict.records, verdict.swept, verdict.unresolved) == (17, 15, 1, 1)
    assert verdict.charged > 0


SPOIL = {
    "lost: 30 tokens arrived; it has no record": "DELETE FROM billing_usagerecord"
    " WHERE account_id = %(account)s AND output_tokens = 30",
    "lost: 1 holds ended neither in a record": "UPDATE billing_wallet SET holds_opened = holds_opened + 1"
    " WHERE account_id = %(account)s",
    "lost: 1 output tokens are charged": "UPDATE billing_usagerecord SET output_tokens = 1"
    " WHERE account_id = %(account)s AND source = 'checkpoint'",
    "double: it is charged, and its hold is still open": "INSERT INTO billing_hold (id, account_id, api_key_id,"
    " model_id, price_version_id, amount, available_after, streamed, owner, admitted_at, expires_at, backend, attempt)"
    " SELECT id, account_id, api_key_id, model_id, price_version_id, held, 0, streamed, id, admitted_at, now(), '', 1"
    " FROM billing_usagerecord WHERE account_id = %(account)s LIMIT 1",
    "its records are 0": "INSERT INTO billing_transfer (kind, debit, credit, amount, cause, day, wallet_id,"
    " wallet_seq, balance_after, reason) SELECT kind, debit, credit, amount, 'again', day, wallet_id, 999, 0, ''"
    " FROM billing_transfer WHERE wallet_id = %(account)s AND kind = 'usage' LIMIT 1",
    "double: the roll-up of": "UPDATE billing_usagehour SET calls = calls + 1 WHERE account_id = %(account)s",
    "differs from its": "UPDATE billing_usagehour SET cached_input_tokens = 0 WHERE account_id = %(account)s",
    "more held and charged than credited": "UPDATE billing_transfer SET created_at = now() + interval '1 day'"
    " WHERE wallet_id = %(account)s AND credit = 'wallet'",
    "and owes 1": "UPDATE billing_wallet SET debt = 1 WHERE account_id = %(account)s",
    "wrong: charged": "UPDATE billing_pricerate SET pico_per_token = pico_per_token + 1 WHERE meter = 'output'",
    "wrong: the record has": "UPDATE billing_usagerecord SET cached_input_tokens = 0"
    " WHERE account_id = %(account)s AND cached_input_tokens > 0",
    "wrong: clamped is True": "UPDATE billing_usagerecord SET clamped = true WHERE account_id = %(account)s",
    "wrong: charged by price": "UPDATE billing_priceversion SET ends_at = starts_at + interval '1 microsecond'"
    " WHERE account_id IS NULL AND ends_at IS NULL;"
    " INSERT INTO billing_priceversion (id, model_id, starts_at) SELECT -id, model_id, ends_at"
    " FROM billing_priceversion WHERE ends_at = starts_at + interval '1 microsecond';"
    " INSERT INTO billing_pricerate (version_id, meter, context_from, pico_per_token)"
    " SELECT -version_id, meter, context_from, pico_per_token FROM billing_pricerate",
    "wrong: no price was in force": "UPDATE billing_priceversion SET ends_at = starts_at + interval '1 microsecond'"
    " WHERE ends_at IS NULL",
    "tokens are estimated, 1 to 1 would be fair": "UPDATE billing_languagemodel SET context_tokens = 1,"
    " max_output_tokens = 1",
    "wrong: the journal knows no attempt 2": "UPDATE billing_usagerecord SET attempt = 2"
    " WHERE account_id = %(account)s",
    "wrong: its late record does not belong": "INSERT INTO billing_lateusagerecord (id, account_id, record)"
    " SELECT id, account_id, '{}' FROM billing_usagerecord WHERE account_id = %(account)s",
    "wrong: the wallet holds 1": "UPDATE billing_wallet SET held = 1 WHERE account_id = %(account)s",
    "its credits less its charges": "UPDATE billing_wallet SET posted = posted + 1 WHERE account_id = %(account)s",
    "wrong: the wallet has": "UPDATE billing_creditlot SET remaining = remaining - 1 WHERE wallet_id = %(account)s",
    "wrong: 1 holds ended twice": "UPDATE billing_releasedholds SET calls = calls + 1 WHERE account_id = %(account)s",
    "open: recorded, but not settled": "UPDATE billing_usagerecord SET settled_at = NULL, transfer_id = NULL"
    " WHERE account_id = %(account)s",
    "overdraft: admitted with -1 left": "ALTER TABLE billing_hold DROP CONSTRAINT hold_available_after_not_negative;"
    " INSERT INTO billing_hold (id, account_id, api_key_id, model_id, price_version_id, amount, available_after,"
    " streamed, owner, admitted_at, expires_at, backend, attempt)"
    " SELECT gen_random_uuid(), account_id, api_key_id, model_id, price_version_id, 5, -1, streamed, id, now(), now(),"
    " '', 1 FROM billing_usagerecord WHERE account_id = %(account)s LIMIT 1",
}  # fmt: skip


@pytest.mark.parametrize("text", SPOIL)
def test_what_is_spoilt_in_the_database_is_found(run: Run, text: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        database.execute("SET LOCAL session_replication_role = replica")
        for statement in SPOIL[text].split(";"):
            database.execute(statement, {"account": run.account_id})
        verdict = run.verdict(database)
        database.rollback()
    told = [f"{kind}: {fault.text}" for kind, faults in verdict.faults.items() for fault in faults]
    assert [line for line in told if text in line], told


@pytest.fixture
def empty_books(django_db_setup: None) -> Iterator[str]:
    """The URL of tables with nothing in them."""
    url = os.environ["DATABASE_URL"]
    tables = (
        "apikeys_apikey", "billing_priceversion", "billing_pricerate", "billing_languagemodel", "billing_usagerecord",
        "billing_hold", "billing_keybudget", "billing_lateusagerecord", "billing_wallet", "billing_transfer",
        "billing_creditlot", "billing_usagehour", "billing_releasedholds",
    )  # fmt: skip
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE SCHEMA judged")
        for table in tables:
            database.execute(f"CREATE TABLE judged.{table} (LIKE public.{table})")
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Djudged"
        database.execute("DROP SCHEMA judged CASCADE")


def test_the_command_tells_the_verdict_by_its_exit_code(empty_books: str, tmp_path: Path) -> None:
    journal, clients = tmp_path / "journal.jsonl", tmp_path / "clients.jsonl"
    clients.touch()
    journal.touch()
    command = [sys.executable, "-m", "tests.chaos.judge", empty_books, str(journal), "--clients", str(clients)]
    sound = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (sound.returncode, sound.stdout.splitlines()[1]) == (0, "sound")

    call = {"boot": "b", "serial": 1, "call_id": str(UUID(int=7)), "attempt": "1"}
    accepted = call | {"event": "accepted", "accepted_at": "2026-01-01T00:00:00+00:00", "stream": False, "choices": 1}
    accepted |= {"max_tokens": 5, "prompt_tokens": 5, "cached_tokens": 0}
    ended = call | {"event": "ended", "ended_at": "2026-01-01T00:00:01+00:00", "end": "done"}
    journal.write_text(f"{json.dumps(accepted)}\n{json.dumps(ended)}\n")
    unsound = subprocess.run(command, capture_output=True, text=True, check=False)
    assert unsound.returncode == 1
    assert unsound.stdout.splitlines()[1:] == [
        "1 lost, 0 double, 0 overdraft, 0 wrong, 0 open",
        f"lost: account None, call {UUID(int=7)}: the backend worked (done); it has no record",
    ]
