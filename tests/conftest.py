"""What tests share: the migrated database, and people.

`db` (pytest-django's) rolls back and is for one connection. `committed` is for threads and processes: what it writes
stays, so such tests make accounts of their own and look only at those. The tests of `db` that come after them do the
same; one about what waits of all accounts begins `at_rest` (tests/billing/conftest.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import hypothesis
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.management import call_command
from django.db import connection
from pytest_django import DjangoDbBlocker
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from billing import catalogue
from billing.models import LanguageModel
from gateway import backends
from tests import seeds
from tests.stack import Stack, running

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("flint", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("flint")

# A password is slow to check by design, half a second each. The processes of the product keep to that.
PBKDF2PasswordHasher.iterations = 1_000

# What keeps a machine busy by itself, or measures how long things take, is run by one process, one after the other.
GREEDY = ("tests/chaos/", "tests/inference/", "tests/mutants/", "tests/sandbox/", "tests/sdk/")


class ByFile(LoadScopeScheduling):
    """Several processes take a file each, in their order, since the tests of a file share what they start."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "greedy" if file.startswith(GREEDY) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_report_header() -> str:
    return seeds.LINE


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: DjangoDbBlocker) -> None:
    """The server is the tests' own, so its database is migrated as it is, with the starting catalogue."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        catalogue.load(now=datetime.now(UTC))
        connection.close()


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
        connection.close()


@pytest.fixture(scope="session")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The running product, shared by all tests; each makes its own account."""

    def route_all_models(base_url: str) -> None:
        with django_db_blocker.unblock():
            names = LanguageModel.objects.values_list("public_id", flat=True)
            backends.save(name="demo", base_url=base_url, credential=None, models={name: name for name in names})
            connection.close()

    with running(tmp_path_factory.mktemp("stack"), route_all_models) as running_stack:
        yield running_stack


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)
