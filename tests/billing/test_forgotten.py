"""Holds of a living process that it does not know, and a process that leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from accounts.models import Account
from billing import holds
from billing.models import GatewayProcess, Hold
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.usefixtures("committed")

SECOND = timedelta(seconds=1)


@pytest.fixture
def account() -> Account:
    return factories.funded(1000)


def forgotten(boot: UUID, *known: UUID) -> set[UUID]:
    return set(stage.as_gateway(lambda database: holds.forgotten(database, boot=boot, known=lambda: set(known))))


def test_it_finds_exactly_the_holds_that_nobody_knows(account: Account) -> None:
    boot, other = stage.process(), stage.process()
    old = 6 * SECOND
    known, unknown, recorded, swept = (stage.running(account, boot, age=old) for _ in range(4))
    stage.running(account, boot)  # Its answer may still be on the way.
    stage.running(account, other, age=old)
    stage.record(factories.record(recorded))
    Hold.objects.filter(pk=swept.id).update(expires_at=datetime.now(UTC) - SECOND)
    holds.sweep()

    assert forgotten(boot, known.id) == {unknown.id}
    assert stage.release(unknown.id, reason="forgotten") == 1
    assert forgotten(boot, known.id) == set()


def test_a_process_that_knows_nothing_gives_all_back(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot, age=6 * SECOND)
    assert forgotten(boot) == {call.id}


def test_a_call_that_begins_while_the_answer_is_on_its_way_is_not_forgotten(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot, age=6 * SECOND)

    answers = iter([set[UUID](), {call.id}])

    assert forgotten(boot) == {call.id}
    assert stage.as_gateway(lambda database: holds.forgotten(database, boot=boot, known=lambda: next(answers))) == []


def test_a_process_leaves_when_nothing_of_it_is_open(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    leave = partial(stage.as_gateway, lambda database: holds.leave(database, boot=boot))

    leave()
    assert GatewayProcess.objects.filter(pk=boot).exists()
    stage.release(call.id)
    leave()
    assert not GatewayProcess.objects.filter(pk=boot).exists()
