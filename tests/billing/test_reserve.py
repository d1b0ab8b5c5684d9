from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

import msgspec
import psycopg
import pytest

from accounts.models import Account
from billing import ledger_sql
from billing.models import Hold
from tests import factories
from tests.billing import processes, stage

pytestmark = pytest.mark.usefixtures("committed")


def test_a_call_that_fits_exactly_is_admitted_and_one_pico_more_is_not() -> None:
    account = factories.funded(100)
    refused, fits = factories.ask(account, 101), factories.ask(account, 100)

    assert [answer.admitted for answer in stage.reserve(refused)] == [False]
    assert [answer.admitted for answer in stage.reserve(fits)] == [True]

    assert stage.wallet_of(account).available == 0
    assert Hold.objects.get(pk=fits.id).available_after == 0
    assert not Hold.objects.filter(pk=refused.id).exists()


def test_calls_of_one_batch_are_admitted_by_running_sum_in_the_order_asked() -> None:
    account = factories.funded(100)
    asks = [factories.ask(account, amount) for amount in (60, 40, 1)]

    answers = stage.reserve(*asks)

    assert [(answer.id, answer.admitted) for answer in answers] == [
        (asks[0].id, True), (asks[1].id, True), (asks[2].id, False),
    ]  # fmt: skip
    assert {answer.available for answer in answers} == {100}
    assert list(Hold.objects.filter(account_id=account.pk).order_by("-amount").values_list("available_after")) == [
        (40,), (0,),
    ]  # fmt: skip


def test_a_call_refused_behind_a_refused_one_fits_when_asked_alone() -> None:
    account = factories.funded(100)
    large, small = factories.ask(account, 101), factories.ask(account, 100)

    assert [answer.admitted for answer in stage.reserve(large, small)] == [False, False]
    assert [answer.admitted for answer in stage.reserve(small)] == [True]


def test_one_batch_serves_many_wallets_each_by_its_own_sum() -> None:
    rich, poor = factories.funded(100), factories.funded(10)
    asks = [factories.ask(account, 10) for account in (poor, rich, poor, rich)]

    assert [answer.admitted for answer in stage.reserve(*asks)] == [True, True, False, True]
    assert (stage.wallet_of(rich).held, stage.wallet_of(poor).held) == (20, 10)


def test_a_wallet_that_does_not_exist_is_empty() -> None:
    account = factories.account()
    call = factories.ask(account, 0)

    [waiting] = stage.reserve(call, wait=True)
    assert (waiting.admitted, waiting.available) == (False, 0)
    [skipping] = stage.reserve(call, wait=False)
    assert skipping.locked


def test_a_free_call_needs_a_wallet_that_is_not_in_debt() -> None:
    account = factories.funded(1)
    stage.admitted(factories.ask(account, 1))

    assert stage.reserve(factories.ask(account, 0))[0].admitted
    assert stage.wallet_of(account).holds_opened == 2


def test_a_repeated_id_admits_nobody_of_its_batch() -> None:
    account, neighbour = factories.funded(100), factories.funded(100)
    call = factories.ask(account, 10)
    stage.admitted(call)

    with pytest.raises(psycopg.errors.UniqueViolation):
        stage.reserve(factories.ask(neighbour, 10), call)
    twice = factories.ask(neighbour, 10)
    with pytest.raises(psycopg.errors.UniqueViolation):
        stage.reserve(twice, twice)

    assert stage.wallet_of(account).held == 10
    assert (stage.wallet_of(neighbour).held, stage.wallet_of(neighbour).holds_opened) == (0, 0)


def test_a_negative_amount_admits_nobody() -> None:
    account = factories.funded(100)
    with pytest.raises(psycopg.errors.CheckViolation, match="hold_amount_not_negative"):
        stage.reserve(factories.ask(account, -1))
    assert stage.wallet_of(account).held == 0


def test_amounts_beyond_a_bigint_together_are_refused_and_do_not_overflow() -> None:
    account = factories.funded(100)
    asks = [factories.ask(account, 2**63 - 1) for _ in range(3)]
    assert [answer.admitted for answer in stage.reserve(*asks)] == [False, False, False]


def test_a_locked_wallet_is_skipped_and_delays_nobody_else() -> None:
    busy, idle = factories.funded(100), factories.funded(100)
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [busy.pk])

        started = time.monotonic()
        first, second = stage.reserve(factories.ask(busy, 1), factories.ask(idle, 1), wait=False)

        assert time.monotonic() - started < 2
        assert (first.locked, first.admitted) == (True, False)
        assert second.admitted
    assert stage.wallet_of(busy).held == 0


def test_waiting_for_a_locked_wallet_sees_what_the_other_left() -> None:
    account = factories.funded(100)
    calls = [factories.ask(account, amount) for amount in (40, 1)]
    with stage.another_connection() as other:
        theirs = msgspec.json.encode([factories.ask(account, 60)]).decode()
        other.execute(ledger_sql.RESERVE_WAITING, [theirs])

        def commit_theirs() -> None:
            stage.wait_until_blocked_by(other)
            other.commit()

        [answers, _] = stage.at_the_same_time(partial(stage.reserve, *calls), commit_theirs)

    # Both fit into what was there when the statement began; only the first fits into what is there now.
    assert [(answer.admitted, answer.available) for answer in answers] == [(True, 40), (False, 40)]
    assert stage.wallet_of(account).available == 0
    stage.assert_books_hold()


def test_waiting_for_a_locked_wallet_ends_with_the_lock_timeout() -> None:
    account = factories.funded(100)
    call = factories.ask(account, 1)
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            stage.reserve(call, options="-c lock_timeout=100ms")
    assert not Hold.objects.filter(pk=call.id).exists()
    assert stage.wallet_of(account).held == 0


def test_eight_calls_at_the_same_time_share_what_is_there() -> None:
    account = factories.funded(50)
    calls = [factories.ask(account, 10) for _ in range(8)]

    answers = stage.at_the_same_time(*[partial(stage.reserve, call) for call in calls])

    assert sorted(answer.admitted for [answer] in answers) == [False] * 3 + [True] * 5
    assert stage.wallet_of(account).available == 0
    stage.assert_books_hold()


def test_sixteen_processes_race_over_eight_wallets_and_admit_exactly_what_is_there() -> None:
    accounts = [factories.funded(amount) for amount in (50, 55, 60, 65, 70, 75, 80, 85)]
    busy = factories.funded(100)
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [busy.pk])

        admitted = race(accounts, give_back=False)

        # The ninth wallet is locked all the time, and held up none of the others.
        [answer] = stage.reserve(factories.ask(busy, 10), wait=False)
        assert answer.locked

    # Every wallet was asked for far more than it has, so each was filled up to the last call that fits.
    assert [stage.wallet_of(account).held for account in accounts] == [50, 50, 60, 60, 70, 70, 80, 80]
    assert admitted == 52
    stage.assert_books_hold()


def test_sixteen_processes_race_to_reserve_and_to_release_without_deadlock_or_overdraft() -> None:
    accounts = [factories.funded(300) for _ in range(8)]

    admitted = race(accounts, give_back=True)

    wallets = [stage.wallet_of(account) for account in accounts]
    assert sum(wallet.held for wallet in wallets) == 10 * admitted
    assert min(wallet.available for wallet in wallets) >= 0
    assert sum(wallet.holds_released for wallet in wallets) > 50
    stage.assert_books_hold()


def race(accounts: list[Account], *, give_back: bool) -> int:
    """Let 16 processes ask for these wallets; returns how many calls they have admitted and not given back."""
    context = processes.context()
    start, answers = context.Barrier(16), context.Queue()
    ids = [account.pk for account in accounts]
    with ExitStack() as stack:
        for seed in range(16):
            stack.enter_context(processes.running(processes.race_to_reserve, seed, ids, give_back, start, answers))
        admitted = [answers.get(timeout=processes.SECONDS) for _ in range(16)]
    assert all(isinstance(answer, int) for answer in admitted), admitted
    return sum(admitted)
