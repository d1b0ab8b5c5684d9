"""Records that come after the sweeper has closed their call: kept where a person sees them, and never charged.

They come from a process that was taken for dead and was not: it could not reach PostgreSQL, or stood still.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.urls import reverse

from apikeys.models import ApiKey
from billing import holds, settlement
from billing.holds import DEAD_AFTER, SILENT_SECONDS, Checkpoint
from billing.ledger import Ask
from billing.models import GatewayProcess, Hold, LateUsageRecord, UsageRecord
from billing.usage import Outcome, Source
from tests import factories, people
from tests.billing import stage
from tests.gateway import wire
from tests.gateway.customers import FUNDS, Customer, chat, customer
from tests.gateway.processes import (
    RECOVERY_SECONDS,
    boot_of,
    database_proxy,
    sweep_as_dead,
    wait_until_healthy,
    web_process,
)
from tests.proxy import Proxy
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")


def swept(*calls: Ask) -> None:
    """Their process is gone, and the sweeper has closed them; those of an even place had a checkpoint."""
    stage.checkpoint(*(Checkpoint(call.id, "demo", 1, 10, 20) for call in calls[::2]))
    sweep_as_dead(calls[0].owner)
    assert UsageRecord.objects.filter(pk__in=[call.id for call in calls]).count() == len(calls)


def late(*calls: Ask) -> dict[UUID, Any]:
    rows = LateUsageRecord.objects.filter(pk__in=[call.id for call in calls])
    return {row.pk: (row.account_id, row.record["charge"]) for row in rows}


class TestKept:
    @pytest.mark.parametrize("settled_before", [False, True])
    def test_several_at_once_are_kept_once_and_move_no_money(self, settled_before: bool) -> None:
        account, boot = factories.funded(10**12), stage.process()
        calls = [stage.running(account, boot, amount=10**9) for _ in range(4)]
        neighbour = stage.running(account, stage.process(), amount=10**9)
        swept(*calls)
        if settled_before:
            settlement.settle_accounts(account_ids=[account.pk])

        stage.record(*(factories.record(call, 700) for call in calls), factories.record(neighbour, 5))
        settlement.settle_accounts(account_ids=[account.pk])

        assert late(*calls, neighbour) == {call.id: (account.pk, 700) for call in calls}
        by_checkpoint = 10 * 140_000 + 20 * 280_000  # deepseek-v4-flash: $0.14 and $0.28 per million tokens.
        charges = dict(UsageRecord.objects.filter(account=account).values_list("pk", "charge"))
        assert charges == {
            **{call.id: by_checkpoint for call in calls[::2]},
            **{call.id: 0 for call in calls[1::2]},
            neighbour.id: 5,
        }
        assert stage.wallet_of(account).posted == 10**12 - 2 * by_checkpoint - 5
        stage.assert_books_hold()

    def test_the_first_of_several_stays(self) -> None:
        account, boot = factories.funded(10**12), stage.process()
        call = stage.running(account, boot)
        swept(call)

        stage.record(factories.record(call, 60), factories.record(call, 61))
        stage.record(factories.record(call, 62))

        assert late(call) == {call.id: (account.pk, 60)}

    def test_eight_at_the_same_time_are_one(self) -> None:
        account, boot = factories.funded(10**12), stage.process()
        calls = [stage.running(account, boot) for _ in range(4)]
        swept(*calls)
        records = [factories.record(call, 60) for call in calls]

        done = stage.at_the_same_time(*[partial(stage.record, *records[::order]) for order in (1, -1) * 4])

        assert done == [None] * 8
        assert late(*calls) == {call.id: (account.pk, 60) for call in calls}
        assert UsageRecord.objects.filter(account=account).count() == 4

    def test_staff_find_it_by_customer_and_see_what_the_gateway_said(self) -> None:
        account, email = people.customer("alice")
        ApiKey.objects.create(account=account, name="laptop", digest=os.urandom(32), display="tk-...")
        factories.credit(account, 10**12)
        call = stage.running(account, stage.process())
        swept(call)
        stage.record(factories.record(call, 77, finish_reason="length"))
        staff = people.superuser()

        found = staff.get(reverse("admin:billing_lateusagerecord_changelist"), {"q": email})
        shown = staff.get(reverse("admin:billing_lateusagerecord_change", args=[call.id])).content.decode()

        assert [row.pk for row in found.context["cl"].result_list] == [call.id]
        assert str(call.id) in shown
        assert "length" in shown
        assert "77" in shown


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with database_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def proxied(stack: Stack, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    through_the_proxy = proxy.in_place_of(os.environ["DATABASE_URL"])
    with web_process(tmp_path_factory.mktemp("proxied"), DATABASE_URL=through_the_proxy) as web:
        yield web


@pytest.fixture
def web(proxied: WebProcess, proxy: Proxy) -> Iterator[WebProcess]:
    """A process that reaches PostgreSQL through the proxy; the same for all tests, as it gets over each of them."""
    wait_until_healthy(proxied)
    yield proxied
    proxy.restore()
    proxied.process.send_signal(signal.SIGCONT)


def checkpoints_of(of: Customer) -> dict[UUID, int]:
    """The tokens of its running calls at their last checkpoints."""
    running = Hold.objects.filter(account_id=of.account.pk).values_list("pk", "checkpoint_output_tokens")
    return {call: tokens for call, tokens in running if tokens}


def close_as_dead(boot: UUID, of: Customer) -> int:
    """The sweeper ends all calls of the customer, each in one record by its checkpoint; returns what the wallet has."""
    points = checkpoints_of(of)
    sweep_as_dead(boot)
    settlement.settle_accounts(account_ids=[of.account.pk])
    records = of.records
    assert {record.pk: record.output_tokens for record in records} == points
    assert {(record.outcome, record.source) for record in records} == {(Outcome.SWEPT, Source.CHECKPOINT)}
    assert all(record.charge > 0 for record in records)
    assert (of.wallet.held, of.wallet.posted) == (0, FUNDS - sum(record.charge for record in records))
    holds.sweep()
    assert not GatewayProcess.objects.filter(pk=boot).exists()  # Nothing of it is open, so it is forgotten.
    return of.wallet.posted


def assert_alive_again(web: WebProcess, boot: UUID) -> None:
    """Listed under the boot that was declared dead, admitting, and not swept again."""
    bob = customer()
    process = GatewayProcess.objects.filter(pk=boot)
    until(process.exists, RECOVERY_SECONDS)
    until(lambda: wire.ask(web, bob.secret, chat(max_tokens=1)).status == 200, RECOVERY_SECONDS)
    with wire.stream(web, bob.secret, chat("[demo: hang_after=1]")) as opened:
        opened.read(1)
        holds.sweep()
        beat = process.get().beat
        until(lambda: process.get().beat > beat, RECOVERY_SECONDS)
        stage.silent_for(boot, DEAD_AFTER * 2)
        holds.sweep()
        assert opened.call_id in [hold.pk for hold in bob.holds]
        assert Hold.objects.get(pk=opened.call_id).resolved_at is None


class TestTakenForDead:
    @pytest.mark.parametrize("fail", [Proxy.cut, Proxy.hang])
    def test_a_process_without_its_database_comes_back_and_charges_nobody_twice(
        self, stack: Stack, web: WebProcess, proxy: Proxy, fail: Callable[[Proxy], None]
    ) -> None:
        alice, boot = customer(), boot_of(web)
        with ExitStack() as opened:
            left = [
                opened.enter_context(wire.stream(web, alice.secret, chat("[demo: hang_after=30]"))) for _ in range(3)
            ]
            lasting = opened.enter_context(wire.stream(web, alice.secret, long_stream()))
            until(lambda: len(checkpoints_of(alice)) == 4)
            fail(proxy)

            refusal = until(lambda: refused_by(web), SILENT_SECONDS)
            assert stack.backend.entries(str(refusal.call_id)) == []
            balance = close_as_dead(boot, alice)
            for one in left:
                one.hang_up()
            proxy.restore()
            assert lasting.rest()[-1] is None

        rows = until(lambda: all_late(alice, 4), RECOVERY_SECONDS)
        assert {row.pk for row in rows} == {record.pk for record in alice.records}
        outcomes = [row.record["outcome"] for row in rows]
        assert sorted(outcomes) == [Outcome.CLIENT_CLOSED] * 3 + [Outcome.COMPLETED]
        assert_alive_again(web, boot)
        assert (alice.wallet.posted, alice.wallet.held, len(alice.records)) == (balance, 0, 4)
        stage.assert_books_hold()

    def test_a_process_that_stood_still_goes_on_and_charges_nobody_twice(self, web: WebProcess) -> None:
        alice, boot = customer(), boot_of(web)
        with wire.stream(web, alice.secret, long_stream()) as lasting:
            until(lambda: len(checkpoints_of(alice)) == 1)
            web.process.send_signal(signal.SIGSTOP)
            balance = close_as_dead(boot, alice)
            web.process.send_signal(signal.SIGCONT)
            assert lasting.rest()[-1] is None

        (row,) = until(lambda: all_late(alice, 1), RECOVERY_SECONDS)
        assert (row.pk, row.record["outcome"], row.record["output_tokens"]) == (lasting.call_id, "completed", 500)
        assert_alive_again(web, boot)
        assert (alice.wallet.posted, alice.wallet.held, len(alice.records)) == (balance, 0, 1)
        stage.assert_books_hold()


def long_stream() -> dict[str, Any]:
    """Runs for longer than the sweeper needs, and ends by itself."""
    return chat("[demo: tokens=500 tokens_per_second=80]")


def refused_by(web: WebProcess) -> wire.Answer | None:
    answer = wire.ask(web, customer().secret, chat(max_tokens=1))
    return answer if answer.status == 503 and answer.retry_after >= 1 else None


def all_late(of: Customer, count: int) -> list[LateUsageRecord]:
    rows = list(LateUsageRecord.objects.filter(account=of.account))
    return rows if len(rows) == count else []
