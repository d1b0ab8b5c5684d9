"""What tests of money share: the gateway's statements on connections of their own, things that happen at the same time,
and the proof that the books hold."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from django.db import connection
from django.db.models.functions import Now
from psycopg import AsyncConnection

from accounts.models import Account
from billing import books, holds, ledger, usage
from billing.ledger import Answer, Ask
from billing.models import (
    AccountClosing,
    CreditLot,
    Dispute,
    GatewayProcess,
    Hold,
    Payment,
    PaymentFlag,
    Refund,
    StripeEvent,
    UsageRecord,
    Wallet,
)
from billing.models.mails import OutboxMail
from tests import factories

Result = TypeVar("Result")


def as_gateway(work: Callable[[AsyncConnection[object]], Awaitable[Result]], *, options: str = "") -> Result:
    """Run async work on a connection like the gateway's: autocommit, with a lock timeout."""

    async def connected() -> Result:
        url = os.environ["DATABASE_URL"]
        async with await AsyncConnection.connect(
            url, autocommit=True, options=f"-c lock_timeout=5s {options}"
        ) as database:
            return await work(database)

    return asyncio.run(connected())


def reserve(*asks: Ask, wait: bool = True, options: str = "") -> list[Answer]:
    return as_gateway(lambda database: ledger.reserve(database, asks, wait=wait), options=options)


def release(*ids: UUID, reason: str = "test", options: str = "") -> int:
    return as_gateway(lambda database: ledger.release(database, ids, reason=reason), options=options)


def record(*records: usage.Record) -> None:
    as_gateway(lambda database: usage.record(database, records))


def checkpoint(*points: holds.Checkpoint) -> None:
    as_gateway(lambda database: holds.checkpoint(database, points))


def admitted(*asks: Ask) -> None:
    assert all(answer.admitted for answer in reserve(*asks))


def admitted_and_recorded(of: Account, charges: Sequence[int], **fields: Any) -> list[Ask]:
    """Calls that were admitted for exactly what they then cost."""
    asks = [factories.ask(of, charge, **fields) for charge in charges]
    admitted(*asks)
    record(*(factories.record(ask) for ask in asks))
    return asks


def beat(boot: UUID) -> None:
    as_gateway(lambda database: holds.beat(database, boot=boot, host="test", pid=1))


def process() -> UUID:
    """The boot of a gateway process that has just said that it is alive."""
    boot = uuid4()
    beat(boot)
    return boot


def running(account: Account, owner: UUID, *, amount: int = 100, age: timedelta = timedelta(0)) -> Ask:
    """A call that the process has in hand."""
    call = factories.ask(account, amount, owner=owner, admitted_at=datetime.now(UTC) - age)
    admitted(call)
    return call


def silent_for(boot: UUID, age: timedelta) -> None:
    """Let the time pass in which the sweeper saw no beat of the process."""
    seen = GatewayProcess.objects.get(pk=boot)
    GatewayProcess.objects.filter(pk=boot).update(seen_at=seen.seen_at - age)


def bring_to_rest() -> None:
    """What is in the database waits for nobody any more, nor is it late: neither the worker nor a person has to act.

    For a test that is rolled back, about what is sent, swept or counted of all accounts.
    """
    for mail in OutboxMail.__subclasses__():
        mail._default_manager.filter(state=OutboxMail.State.WAITING).update(state=OutboxMail.State.DROPPED)
    StripeEvent.objects.filter(processed_at=None).update(processed_at=Now(), next_attempt_at=None)
    Payment.objects.filter(state__in=Payment.PENDING).update(state=Payment.State.CANCELED)
    Refund.objects.filter(state=Refund.State.HELD).update(updated_at=Now() + timedelta(days=1))
    Dispute.objects.filter(closed_at=None).update(closed_at=Now(), status=Dispute.Status.LOST)
    PaymentFlag.objects.filter(cleared_at=None).update(cleared_at=Now(), cleared_by=factories.user())
    AccountClosing.objects.update(state=AccountClosing.State.CLOSED)
    UsageRecord.objects.filter(settled_at=None).update(recorded_at=Now())
    Hold.objects.update(expires_at=Now() + timedelta(days=1))


def at_the_same_time(*works: Callable[[], Any]) -> list[Any]:
    """What each returned, run in a thread of its own and started together; an exception is a result, too."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        try:
            barrier.wait(10)
            return work()
        except Exception as fault:
            return fault
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


@contextmanager
def another_connection() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A second connection, in a transaction that ends with the block unless the test ends it."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        yield database


@contextmanager
def nothing_can_be_recorded() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Usage records wait for this connection, until the block ends."""
    with another_connection() as database:
        database.execute("LOCK TABLE billing_usagerecord IN SHARE MODE")
        yield database


def wait_until_blocked_by(database: psycopg.Connection[tuple[Any, ...]], *, seconds: float = 30) -> None:
    """Return as soon as somebody waits for a lock that this connection holds."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as observer:
            row = observer.execute(blocked, [database.info.backend_pid]).fetchone()
        if row and row[0]:
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for this connection")


def wallet_of(account: Account) -> Wallet:
    return Wallet.objects.get(pk=account.pk)


def lots_of(account: Account) -> list[tuple[str, int]]:
    """(kind, remaining) in the order in which they were opened."""
    return list(CreditLot.objects.filter(wallet_id=account.pk).order_by("id").values_list("kind", "remaining"))


def broken(findings: Sequence[books.Finding]) -> dict[str, list[dict[str, Any]]]:
    return {finding.promise.name: finding.examples for finding in findings if finding.broken}


def assert_books_hold() -> None:
    """Every promise, over all that is in the database."""
    found = broken(books.look(full=True))
    assert not found, found
