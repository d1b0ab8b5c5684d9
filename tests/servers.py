"""A pytest plugin: real PostgreSQL and Valkey of their own, started before Django reads its settings.

They live in a temporary folder on ports of their own and are gone afterwards. The database is migrated once; tests of
one connection roll back, tests of several make accounts of their own and leave their rows.

Where several processes run the tests (`pytest -n 2`), each has servers of its own, and the one that hands the tests out
has none.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from flint.sandbox import servers

_NOWHERE = {
    "DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/1",
}
_TOGETHER = ("tests/sdk/", "tests/inference/")
_running = ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    folder = Path(tempfile.mkdtemp(prefix="flint-tests-"))
    _running.callback(shutil.rmtree, folder, ignore_errors=True)
    hands_out = early_config.known_args_namespace.numprocesses and "PYTEST_XDIST_WORKER" not in os.environ
    os.environ.update(_NOWHERE if hands_out else _started(folder))
    os.environ.update(
        FLINT_ENV="sandbox",
        FLINT_DATA=str(folder),
        SECRET_KEY="a secret key of the tests",
        FLINT_CREDENTIAL_KEYS=base64.urlsafe_b64encode(b"thirty-two bytes for the tests!!").decode(),
        SITE_URL="http://127.0.0.1:8000",
        GATEWAY_BREAKER_SECONDS="0",  # Tests share a backend and make it fail; those of breakers say so.
    )
    return (yield)


def _started(folder: Path) -> dict[str, str]:
    database = _running.enter_context(servers.postgres(folder / "postgres"))
    _running.callback(database.remove)
    redis = _running.enter_context(servers.valkey(folder / "valkey"))
    return {"DATABASE_URL": database.url, "REDIS_URL": redis.url, "CELERY_BROKER_URL": redis.numbered(1)}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # It has no types.
    """A file is run by one process, since its tests share what is dear to start; so are those that share still more."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in _TOGETHER if file.startswith(folder)), file)


def pytest_unconfigure() -> None:
    _running.close()
