"""Whose call is over: heartbeats, checkpoints, and the sweep. The sweep looks at all holds there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import msgspec
import pytest

from accounts.models import Account
from billing import holds, ledger, settlement, usage
from billing.holds import Checkpoint
from billing.ledger import Ask
from billing.models import GatewayProcess, Hold, LateUsageRecord, UsageRecord
from billing.usage import Outcome, Source
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.usefixtures("committed")

SECOND = timedelta(seconds=1)
LONG = holds.DEAD_AFTER + SECOND


@pytest.fixture
def account() -> Account:
    return factories.funded(10**12)


def died(boot: UUID) -> set[int]:
    """Sweep twice, with the time between in which a living process would have beaten; returns what was swept."""
    holds.sweep()
    stage.silent_for(boot, LONG)
    return holds.sweep()


def is_open(call: Ask) -> bool:
    return Hold.objects.get(pk=call.id).resolved_at is None


def test_the_first_beat_lists_a_process_and_the_next_ones_count() -> None:
    boot = stage.process()
    stage.beat(boot)
    stage.beat(boot)
    assert GatewayProcess.objects.get(pk=boot).beat == 2


def test_a_process_that_beats_keeps_its_holds_however_often_the_sweeper_looks(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    for _ in range(3):
        holds.sweep()
        stage.silent_for(boot, LONG)
        stage.beat(boot)
    holds.sweep()
    assert is_open(call)


def test_a_process_is_dead_only_after_two_sweeps_that_lie_far_enough_apart(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)

    stage.silent_for(boot, LONG)
    holds.sweep()  # The first sweep that sees this beat; how old it is does not count.
    stage.silent_for(boot, holds.DEAD_AFTER - 5 * SECOND)
    holds.sweep()
    assert is_open(call)

    stage.silent_for(boot, 5 * SECOND)
    assert account.pk in holds.sweep()
    assert not is_open(call)


def test_nobody_is_dead_while_the_sweeper_itself_could_not_look(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    holds.sweep()
    stage.silent_for(boot, LONG)
    GatewayProcess.objects.filter(pk=boot).update(swept_at=datetime.now(UTC) - LONG)  # The database was away.

    holds.sweep()

    assert is_open(call)
    stage.silent_for(boot, LONG)
    assert account.pk in holds.sweep()


def test_a_dead_process_is_forgotten_once_its_calls_are_settled(account: Account) -> None:
    boot = stage.process()
    stage.running(account, boot)
    settlement.settle_accounts(account_ids=died(boot))
    assert GatewayProcess.objects.filter(pk=boot).exists()
    holds.sweep()
    assert not GatewayProcess.objects.filter(pk=boot).exists()
    stage.assert_books_hold()


def test_holds_of_a_process_that_never_beat_are_closed(account: Account) -> None:
    call = factories.ask(account, 100)
    stage.admitted(call)
    assert account.pk in holds.sweep()
    assert not is_open(call)


def test_a_call_past_its_time_is_ended_though_its_process_lives(account: Account) -> None:
    boot = stage.process()
    call, young = stage.running(account, boot), stage.running(account, boot)
    Hold.objects.filter(pk=call.id).update(expires_at=datetime.now(UTC) - SECOND)

    holds.sweep()

    assert (is_open(call), is_open(young)) == (False, True)


def test_a_call_is_charged_by_its_last_checkpoint(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot, amount=10**9)
    stage.checkpoint(Checkpoint(call.id, "one", 1, 10, 1))
    stage.checkpoint(Checkpoint(call.id, "two", 2, 10, 20), Checkpoint(factories.ask(account, 1).id, "", 1, 0, 0))

    settlement.settle_accounts(account_ids=died(boot))

    record = UsageRecord.objects.get(pk=call.id)
    assert (record.outcome, record.source) == (Outcome.SWEPT, Source.CHECKPOINT)
    assert (record.backend, record.attempt, record.input_tokens, record.output_tokens) == ("two", 2, 10, 20)
    # deepseek-v4-flash: $0.14 and $0.28 per million tokens.
    assert (record.charge, record.clamped) == (10 * 140_000 + 20 * 280_000, False)
    assert stage.wallet_of(account).posted == 10**12 - record.charge
    stage.assert_books_hold()


def test_a_checkpoint_beyond_the_hold_is_charged_no_more_than_the_hold(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot, amount=100)
    stage.checkpoint(Checkpoint(call.id, "demo", 1, 10, 20))
    died(boot)
    record = UsageRecord.objects.get(pk=call.id)
    assert (record.charge, record.clamped) == (100, True)


def test_a_call_without_a_checkpoint_is_unresolved_and_free(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)

    settlement.settle_accounts(account_ids=died(boot))

    record = UsageRecord.objects.get(pk=call.id)
    assert (record.outcome, record.source, record.charge) == (Outcome.UNRESOLVED, Source.NONE, 0)
    assert (stage.wallet_of(account).posted, stage.wallet_of(account).held) == (10**12, 0)
    stage.assert_books_hold()


def test_sweeping_twice_closes_a_hold_once(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    assert account.pk in died(boot)
    assert account.pk not in holds.sweep()
    assert UsageRecord.objects.filter(pk=call.id).count() == 1


def test_four_sweeps_at_the_same_time_close_every_hold_once(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SWEEP_BATCH", 7)
    boot = stage.process()
    calls = [stage.running(account, boot) for _ in range(30)]
    holds.sweep()
    stage.silent_for(boot, LONG)

    swept = stage.at_the_same_time(*[holds.sweep] * 4)

    assert all(isinstance(accounts, set) for accounts in swept), swept
    assert UsageRecord.objects.filter(pk__in=[call.id for call in calls]).count() == 30
    settlement.settle_accounts(account_ids=[account.pk])
    assert stage.wallet_of(account).holds_recorded == 30
    stage.assert_books_hold()


def test_a_hold_that_somebody_is_just_ending_does_not_keep_the_sweeper_waiting(account: Account) -> None:
    boot = stage.process()
    ending, lost = stage.running(account, boot), stage.running(account, boot)
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_hold WHERE id = %s FOR UPDATE", [ending.id])
        died(boot)
    assert (is_open(ending), is_open(lost)) == (True, False)


def test_a_hold_with_a_record_is_left_to_settlement(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    stage.record(factories.record(call, 60))
    assert account.pk not in died(boot)
    assert is_open(call)


def test_a_process_that_comes_back_after_it_was_declared_dead_keeps_what_it_knows_as_late(account: Account) -> None:
    boot = stage.process()
    call = stage.running(account, boot)
    died(boot)

    stage.beat(boot)
    fresh = stage.running(account, boot)
    stage.record(factories.record(call, 60))
    holds.sweep()

    assert is_open(fresh)
    assert GatewayProcess.objects.filter(pk=boot).exists()
    assert LateUsageRecord.objects.get(pk=call.id).record["charge"] == 60
    stage.record(factories.record(fresh, 50))
    settlement.settle_accounts(account_ids=[account.pk])
    assert stage.wallet_of(account).posted == 10**12 - 50
    stage.assert_books_hold()


def test_a_process_that_comes_back_while_the_sweeper_is_at_work_stays_listed(account: Account) -> None:
    revived, dead = stage.process(), stage.process()
    call = stage.running(account, dead)
    holds.sweep()
    for boot in (revived, dead):
        stage.silent_for(boot, LONG)
    with stage.another_connection() as other:
        # The sweeper has counted both as dead, and waits to know whose record of the call is the first.
        other.execute(usage._RECORD, [msgspec.json.encode([factories.record(call, 60)]).decode()])

        def come_back() -> None:
            stage.wait_until_blocked_by(other)
            stage.beat(revived)
            other.commit()

        [swept, _] = stage.at_the_same_time(holds.sweep, come_back)

    assert account.pk in swept
    assert GatewayProcess.objects.filter(pk=revived).exists()
    assert UsageRecord.objects.get(pk=call.id).charge == 60
    settlement.settle_accounts(account_ids=[account.pk])
    stage.assert_books_hold()


def test_records_releases_settlements_and_the_sweeper_at_the_same_time_end_every_hold_once(account: Account) -> None:
    boot = stage.process()
    answered = [stage.running(account, boot) for _ in range(20)]
    failed = [stage.running(account, boot) for _ in range(10)]
    holds.sweep()
    stage.silent_for(boot, LONG)

    done = stage.at_the_same_time(
        holds.sweep,
        partial(stage.record, *(factories.record(call, 60) for call in reversed(answered))),
        partial(stage.release, *(call.id for call in failed)),
        partial(ledger.settle, account_id=account.pk),
    )
    assert not any(isinstance(result, Exception) for result in done), done
    settlement.settle_accounts(account_ids=[account.pk])

    wallet = stage.wallet_of(account)
    assert (wallet.holds_opened, wallet.holds_recorded + wallet.holds_released, wallet.held) == (30, 30, 0)
    in_time = UsageRecord.objects.filter(account=account, outcome=Outcome.COMPLETED).count()
    assert in_time + LateUsageRecord.objects.filter(account=account).count() == 20
    assert wallet.posted == 10**12 - 60 * in_time
    stage.assert_books_hold()
