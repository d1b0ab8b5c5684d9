"""The gateway's connections to PostgreSQL: a few, pooled, in autocommit, outside the ORM.

Statements that may wait for a wallet's lock have connections of their own, so that a slow wallet cannot use up those
of everybody else.
"""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

WAITING_CONNECTIONS = 2
STATEMENT_SECONDS = 5
LOCK_SECONDS = 2
# How long a call waits for a connection before it is told that the database is away.
POOL_SECONDS = 2

# What says that the database is away for a moment. Any other error of psycopg is a defect of ours.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)

Pool = AsyncConnectionPool[AsyncConnection[Any]]


class Pools:
    """`main` never waits for a row that others hold for long; `waiting` may, up to LOCK_SECONDS."""

    def __init__(self) -> None:
        self.main = _pool("gateway", settings.GATEWAY_DATABASE_CONNECTIONS - WAITING_CONNECTIONS)
        self.waiting = _pool("gateway-waiting", WAITING_CONNECTIONS)

    async def open(self) -> None:
        """Start connecting; does not wait, so that a process starts while the database is away."""
        await self.main.open()
        await self.waiting.open()

    async def close(self) -> None:
        await self.main.close(timeout=2)
        await self.waiting.close(timeout=2)


def _pool(name: str, size: int) -> Pool:
    return AsyncConnectionPool(
        _conninfo(name),
        kwargs={"autocommit": True, "prepare_threshold": 3},
        min_size=1,
        max_size=size,
        timeout=POOL_SECONDS,
        reconnect_timeout=5,
        max_lifetime=1800,
        check=AsyncConnectionPool.check_connection,
        open=False,
        name=name,
    )


def _conninfo(name: str) -> str:
    """libpq's connection string for Django's DATABASES entry."""
    database = settings.DATABASES["default"]
    options = {key: value for key, value in database["OPTIONS"].items() if key != "pool"}
    # A server that vanished without a word is noticed; what DATABASE_URL says of its own wins.
    options = {"connect_timeout": 2, "tcp_user_timeout": 10_000, "keepalives_idle": 10, **options}
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
