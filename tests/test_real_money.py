"""A production does not start on books that hold money of the sandbox or of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.stack import START_SECONDS, until
from tests.test_settings import PRODUCTION

REFUSAL = "the ledger in DATABASE_URL holds money of a sandbox or of a test"
ROOT = Path(__file__).parent.parent
PAY = """
from billing.models import LedgerAccount, TransferKind
from tests import factories
alice = factories.account()
factories.credit(alice, 10, kind=TransferKind.TOPUP, source=LedgerAccount.SIMULATED_CLEARING)
factories.pay_back(alice, 10, target=LedgerAccount.SIMULATED_CLEARING, cause="all of it")
"""


def database_url(name: str) -> str:
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


def manage(database: str, *command: str) -> None:
    environment = os.environ | {"DATABASE_URL": database}
    subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clean() -> Iterator[str]:
    """Books in which nothing was moved yet."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute("CREATE DATABASE real_money")
        manage(database_url("real_money"), "migrate")
        yield database_url("real_money")
        server.execute("DROP DATABASE real_money WITH (FORCE)")


@pytest.fixture(scope="module")
def tested(clean: str) -> Iterator[str]:
    """Books of a test in which all that was paid went back again."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute("CREATE DATABASE test_money TEMPLATE real_money")
        manage(database_url("test_money"), "shell", "--command", PAY)
        yield database_url("test_money")
        server.execute("DROP DATABASE test_money WITH (FORCE)")


WEB = ["-m", "uvicorn", "flint.asgi:application", "--port", "0"]
WORKER = ["-m", "celery", "-q", "-A", "flint.celery", "worker", "--loglevel", "INFO", "--pool", "solo"]
WELL = {"uvicorn": "Uvicorn running on", "celery": " ready."}
either = pytest.mark.parametrize("command", [WEB, WORKER], ids=["web", "worker"])


@contextmanager
def started(command: list[str], log: Path, database: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a production."""
    servers = {name: os.environ[name] for name in ("REDIS_URL", "CELERY_BROKER_URL")}
    variables = {**PRODUCTION, **servers, "DATABASE_URL": database, "PATH": os.environ["PATH"], **environment}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=variables, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def insist_that_it_starts(command: list[str], log: Path, database: str, **environment: str) -> None:
    with started(command, log, database, **environment) as process:
        until(lambda: process.poll() is not None or WELL[command[1]] in log.read_text(), START_SECONDS)
        assert process.poll() is None, log.read_text()


@either
def test_a_production_refuses_books_with_money_of_a_test_and_says_what_to_do(
    command: list[str], tested: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(command, log, tested) as process:
        assert process.wait(START_SECONDS) != 0
    assert REFUSAL in log.read_text()
    assert "STRIPE_TEST_MONEY=true" in log.read_text()
    assert WELL[command[1]] not in log.read_text()
    assert "Traceback" not in log.read_text()


@either
def test_it_starts_on_books_without_and_a_site_that_is_a_test_starts_on_its_own(
    command: list[str], clean: str, tested: str, tmp_path: Path
) -> None:
    insist_that_it_starts(command, tmp_path / "clean", clean)
    insist_that_it_starts(command, tmp_path / "tested", tested, STRIPE_TEST_MONEY="true")


@either
def test_books_that_did_not_answer_at_the_start_are_asked_again(
    command: list[str], tested: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    said = WELL["uvicorn"] if command is WEB else "is not known yet"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute("ALTER DATABASE test_money ALLOW_CONNECTIONS false")
        try:
            with started(command, log, tested) as process:
                until(lambda: said in log.read_text(), START_SECONDS)
                server.execute("ALTER DATABASE test_money ALLOW_CONNECTIONS true")
                process.wait(START_SECONDS)
        finally:
            server.execute("ALTER DATABASE test_money ALLOW_CONNECTIONS true")
    assert REFUSAL in log.read_text()
