"""A pytest plugin: real PostgreSQL and Valkey of their own, started before Django reads its settings.

They live in a temporary folder on ports of their own and are gone afterwards. The database is migrated once; tests of
one connection roll back, tests of several make accounts of their own and leave their rows.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from flint.sandbox import servers

_running = ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None]:
    folder = Path(tempfile.mkdtemp(prefix="flint-tests-"))
    _running.callback(shutil.rmtree, folder, ignore_errors=True)
    database = _running.enter_context(servers.postgres(folder / "postgres"))
    _running.callback(database.remove)
    configure(database.url)
    redis = _running.enter_context(servers.valkey(folder / "valkey"))
    os.environ.update(
        FLINT_ENV="sandbox",
        FLINT_DATA=str(folder),
        DATABASE_URL=database.url,
        REDIS_URL=redis.url,
        CELERY_BROKER_URL=redis.numbered(1),
        SECRET_KEY="a secret key of the tests",
        FLINT_CREDENTIAL_KEYS=base64.urlsafe_b64encode(b"thirty-two bytes for the tests!!").decode(),
        SITE_URL="http://127.0.0.1:8000",
        GATEWAY_BREAKER_SECONDS="0",  # Tests share a backend and make it fail; those of breakers say so.
    )
    return (yield)


def configure(url: str) -> None:
    """Let nothing but the tests decide what this server knows of its tables, and let it not wait for the disk.

    Autovacuum counts rows whenever it likes, and tests of plans would see other plans for it, or wait for its locks.
    What is written is gone after the run; a server that is killed still finds it in the memory of the machine.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("autovacuum", "fsync"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


def pytest_unconfigure() -> None:
    _running.close()
