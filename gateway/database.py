"""The gateway's connections to PostgreSQL: a few, pooled, in autocommit, outside the ORM.

Statements that may wait for a wallet's lock have connections of their own, so that a slow wallet cannot use up those
of everybody else; so have the questions of customers, who may ask for a year of usage in a loop. A server that keeps
its connections open and says nothing (a frozen host, a lost route) would never be noticed by waiting, so every wait
ends by our clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
from django.conf import settings
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import AsyncConnectionPool, PoolTimeout

WAITING_CONNECTIONS = 2
READING_CONNECTIONS = 2
STATEMENT_SECONDS = 5
LOCK_SECONDS = 2
# How long a call waits for a connection before it is told that the database is away.
POOL_SECONDS = 2
CHECK_SECONDS = 1  # A connection that was idle answers within this, or is thrown away,
ANSWER_SECONDS = STATEMENT_SECONDS + 1  # and one in use within this: the server would have given up before.

# What says that the database is away for a moment. Any other error of psycopg is a defect of ours.
# A server that only reads was the primary before a failover, or is not yet: psycopg calls that an internal error.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, ReadOnlySqlTransaction)


class Pool:
    def __init__(self, name: str, size: int) -> None:
        self._pool = _pool(name, size)

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close(timeout=2)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for a few short statements. Raises one of AWAY within POOL_SECONDS and ANSWER_SECONDS."""
        async with self._pool.connection() as database:
            with _given_up_after(ANSWER_SECONDS, database):
                try:
                    yield database
                except ReadOnlySqlTransaction:
                    await database.close()  # The pool makes another one, to a server that writes.
                    raise


class Pools:
    """`main` never waits for a row that others hold for long; `waiting` may, up to LOCK_SECONDS; `reading` is for what
    no call waits for."""

    def __init__(self) -> None:
        others = WAITING_CONNECTIONS + READING_CONNECTIONS
        self.main = Pool("gateway", settings.GATEWAY_DATABASE_CONNECTIONS - others)
        self.waiting = Pool("gateway-waiting", WAITING_CONNECTIONS)
        self.reading = Pool("gateway-reading", READING_CONNECTIONS)

    async def open(self) -> None:
        """Start connecting; does not wait, so that a process starts while the database is away."""
        await self.main.open()
        await self.waiting.open()
        await self.reading.open()

    async def close(self) -> None:
        await self.main.close()
        await self.waiting.close()
        await self.reading.close()


@contextlib.asynccontextmanager
async def one_connection(name: str) -> AsyncIterator[AsyncConnection[Any]]:
    """For who is no gateway and needs it for a moment. Raises one of AWAY."""
    pool = Pool(name, 1)
    await pool.open()
    try:
        async with pool.connection() as database:
            yield database
    finally:
        await pool.close()


@contextlib.contextmanager
def _given_up_after(seconds: float, database: AsyncConnection[Any]) -> Iterator[None]:
    """Hang up after so long: whoever waits for an answer inside gets an OperationalError.

    A cancelled wait would not do: psycopg then asks the silent server to cancel, and waits for that.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _hang_up, database)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(database: AsyncConnection[Any]) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.fromfd(database.fileno(), -1, -1) as ours:
        ours.shutdown(socket.SHUT_RDWR)


async def _check(database: AsyncConnection[Any]) -> None:
    with _given_up_after(CHECK_SECONDS, database):
        await AsyncConnectionPool.check_connection(database)


def _pool(name: str, size: int) -> AsyncConnectionPool[AsyncConnection[Any]]:
    return AsyncConnectionPool(
        _conninfo(name),
        kwargs={"autocommit": True, "prepare_threshold": 3},
        min_size=1,
        max_size=size,
        timeout=POOL_SECONDS,
        reconnect_timeout=5,
        max_lifetime=1800,
        check=_check,
        open=False,
        name=name,
    )


def _conninfo(name: str) -> str:
    """libpq's connection string for Django's DATABASES entry."""
    database = settings.DATABASES["default"]
    options = {key: value for key, value in database["OPTIONS"].items() if key != "pool"}
    # A server that vanished is noticed, and one that only reads is passed over; what DATABASE_URL says of its own wins.
    watchful = {"connect_timeout": 2, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
    options = watchful | {"target_session_attrs": "read-write"} | options
    options["application_name"] = name
    # Later ones win, so these win over the site's and over those of DATABASE_URL.
    options["options"] = (
        f"{options['options']} -c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={LOCK_SECONDS}s "
        "-c idle_in_transaction_session_timeout=10s -c timezone=UTC"
    )
    return make_conninfo(
        dbname=database["NAME"],
        user=database["USER"],
        password=database["PASSWORD"],
        host=database["HOST"],
        port=database["PORT"],
        **options,
    )
