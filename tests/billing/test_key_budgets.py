"""Spend caps of keys: admitted by what the line of a key has spent and holds in the period, and never beyond."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pytest

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import ApiKey, SpendPeriod
from billing import budgets, holds, ledger, ledger_sql
from billing.budgets import Budget
from billing.ledger import Answer, Ask
from billing.models import Hold, KeyBudget
from tests import factories
from tests.billing import processes, stage

pytestmark = pytest.mark.usefixtures("committed")

DAY, MONTH, TOTAL = SpendPeriod
# Calls lie around the next midnight, so on two UTC days of which the database has partitions.
MIDNIGHT = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
SECOND = timedelta(seconds=1)


def capped(cap: int, period: SpendPeriod = DAY, *, funds: int = 1000) -> ApiKey:
    """The key of an account that has more money than the key may spend."""
    key = factories.funded(funds).api_keys.get()
    keys.set_spend_cap(key=key, cap=SpendCap(cap, period))
    return key


def ask(key: ApiKey, amount: int, at: datetime = MIDNIGHT) -> Ask:
    return factories.ask(key.account, amount, api_key_id=key.pk, admitted_at=at)


def opened(*asks: Ask) -> None:
    for call in asks:
        stage.as_gateway(lambda database, call=call: ledger.open_budget(database, call))  # type: ignore[misc]


def reserve(*asks: Ask) -> list[Answer]:
    """As the gateway does: the first calls of a key in a period open its budget."""
    opened(*asks)
    return stage.reserve(*asks)


def admitted(*asks: Ask) -> list[bool]:
    return [answer.admitted for answer in reserve(*asks)]


def settled(key: ApiKey, charge: int, *, amount: int | None = None, at: datetime = MIDNIGHT) -> Ask:
    call = ask(key, charge if amount is None else amount, at)
    assert admitted(call) == [True]
    stage.record(factories.record(call, charge))
    ledger.settle(account_id=key.account_id)
    return call


def budget_of(key: ApiKey, at: datetime = MIDNIGHT) -> Budget:
    return budgets.of_keys([key.pk], now=at)[key.pk]


def used(key: ApiKey, at: datetime = MIDNIGHT) -> tuple[int, int]:
    """(spent, held) in the period of that moment."""
    found = budget_of(key, at)
    return found.spent, found.held


def test_a_call_that_fits_the_cap_exactly_is_admitted_and_one_pico_more_is_not() -> None:
    key = capped(100)

    assert admitted(ask(key, 101)) == [False]
    assert admitted(ask(key, 100)) == [True]
    assert admitted(ask(key, 1)) == [False]

    assert used(key) == (0, 100)
    assert Hold.objects.get(account_id=key.account_id).budget_left_after == 0
    stage.assert_books_hold()


def test_a_refusal_tells_the_cap_and_what_is_left_of_it() -> None:
    key = capped(100, MONTH)
    settled(key, 30)
    stage.admitted(ask(key, 20))

    [answer] = stage.reserve(ask(key, 51))

    assert (answer.admitted, answer.available) == (False, 950)
    assert answer.share == ledger.Share(100, MONTH, 50)


def test_calls_of_one_batch_share_the_cap_by_running_sum_in_the_order_asked() -> None:
    key = capped(100)
    calls = [ask(key, amount) for amount in (60, 40, 1)]

    assert admitted(*calls) == [True, True, False]
    running = Hold.objects.filter(account_id=key.account_id).order_by("-amount")
    assert list(running.values_list("amount", "budget_left_after")) == [(60, 40), (40, 0)]


def test_keys_of_an_account_have_a_cap_each_or_none() -> None:
    key = capped(10)
    other, free = (keys.create(account=key.account, name="k", now=MIDNIGHT)[0] for _ in range(2))
    keys.set_spend_cap(key=other, cap=SpendCap(20, TOTAL))

    assert admitted(ask(key, 11), ask(free, 500), ask(other, 20), ask(key, 10)) == [False, True, True, False]
    assert admitted(ask(key, 10)) == [True]
    assert (used(key), used(other)) == ((0, 10), (0, 20))
    assert Hold.objects.get(api_key_id=free.pk).budget_id is None


def test_the_wallet_refuses_what_the_cap_would_allow() -> None:
    key = capped(100, funds=50)

    assert admitted(ask(key, 51)) == [False]
    assert used(key) == (0, 0)


def test_a_call_without_an_open_budget_is_answered_so_and_not_admitted() -> None:
    key = capped(100)
    free = factories.funded(10)

    answers = stage.reserve(ask(key, 1), factories.ask(free, 1))

    assert [(answer.admitted, answer.unopened) for answer in answers] == [(False, True), (True, False)]
    assert stage.wallet_of(key.account).held == 0


def test_opening_twice_or_at_the_same_time_opens_once() -> None:
    key = capped(100)
    settled(key, 10)

    stage.at_the_same_time(*[partial(opened, ask(key, 1)) for _ in range(6)])

    assert KeyBudget.objects.filter(line=key).count() == 1
    assert used(key) == (10, 0)


def test_nothing_is_opened_for_a_key_without_a_cap() -> None:
    key = factories.funded(10).api_keys.get()
    opened(ask(key, 1))
    assert not KeyBudget.objects.filter(line=key).exists()
    assert budgets.of_keys([key.pk], now=MIDNIGHT) == {}


def test_what_a_call_did_not_cost_is_there_again() -> None:
    key = capped(100)

    settled(key, 30, amount=100)

    assert used(key) == (30, 0)
    assert admitted(ask(key, 71)) == [False]
    assert admitted(ask(key, 70)) == [True]
    stage.assert_books_hold()


def test_settling_twice_spends_once() -> None:
    key = capped(100)
    settled(key, 30)

    ledger.settle(account_id=key.account_id)

    assert used(key) == (30, 0)


def test_a_released_call_gives_back_once() -> None:
    key, neighbour = capped(100), capped(100)
    calls = [ask(key, 30), ask(key, 20), ask(neighbour, 10)]
    assert admitted(*calls) == [True] * 3

    assert stage.release(calls[0].id, calls[2].id) == 2
    assert stage.release(calls[0].id) == 0

    assert (used(key), used(neighbour)) == ((0, 20), (0, 0))
    stage.assert_books_hold()


@pytest.mark.parametrize(("tokens", "spent"), [((2, 1), 9), (None, 0)], ids=["checkpoint", "unresolved"])
def test_a_swept_call_is_spent_as_it_is_charged(tokens: tuple[int, int] | None, spent: int) -> None:
    version = factories.price()
    key = capped(100)
    dead = factories.ask(
        key.account, 40, api_key_id=key.pk, admitted_at=MIDNIGHT, lifetime_seconds=-1, price_version_id=version.pk
    )
    assert admitted(dead) == [True]
    if tokens:
        stage.checkpoint(holds.Checkpoint(dead.id, "demo", 1, *tokens))

    for account_id in holds.sweep():
        while ledger.settle(account_id=account_id).calls:
            pass

    assert used(key) == (spent, 0)
    stage.assert_books_hold()


@pytest.mark.parametrize("period", [DAY, MONTH])
def test_a_call_counts_in_the_period_of_its_admission_though_it_is_settled_in_the_next(period: SpendPeriod) -> None:
    next_month = (MIDNIGHT.replace(day=1) + timedelta(days=31)).replace(day=1)
    begins = MIDNIGHT if period is DAY else next_month
    key = capped(100, period)
    late, early = ask(key, 100, begins - SECOND), ask(key, 60, begins)
    # The later period is opened first, and the earlier one is known for all that.
    assert admitted(early, late) == [True, True]
    assert admitted(ask(key, 1, begins - SECOND), ask(key, 41, begins)) == [False, False]

    stage.record(factories.record(late, 70), factories.record(early, 50))
    while ledger.settle(account_id=key.account_id).calls:
        pass

    assert (used(key, begins - SECOND), used(key, begins)) == ((70, 0), (50, 0))
    assert admitted(ask(key, 30, begins - SECOND), ask(key, 50, begins)) == [True, True]
    stage.assert_books_hold()


def test_a_cap_in_total_never_starts_again() -> None:
    key = capped(100, TOTAL)
    settled(key, 100, at=MIDNIGHT - timedelta(days=1))

    assert admitted(ask(key, 1, MIDNIGHT)) == [False]
    assert budget_of(key) == Budget(cap=100, period=TOTAL, spent=100, held=0, resets_at=None)


def test_a_raised_cap_holds_for_the_next_call_and_a_lowered_one_stops_it() -> None:
    key = capped(100)
    settled(key, 90)
    assert admitted(ask(key, 20)) == [False]

    keys.set_spend_cap(key=key, cap=SpendCap(110, DAY))
    assert admitted(ask(key, 20)) == [True]

    keys.set_spend_cap(key=key, cap=SpendCap(50, DAY))
    assert (budget_of(key).left, admitted(ask(key, 0))) == (0, [False])
    keys.set_spend_cap(key=key, cap=None)
    assert admitted(ask(key, 500)) == [True]
    stage.assert_books_hold()


def test_a_cap_counts_what_was_spent_in_the_period_before_it_was_set() -> None:
    key = capped(100)
    settled(key, 40)
    keys.set_spend_cap(key=key, cap=None)
    settled(key, 15)
    settled(key, 7, at=MIDNIGHT - SECOND)

    for period, spent in [(DAY, 55), (MONTH, 62 if MIDNIGHT.day > 1 else 55), (TOTAL, 62)]:
        keys.set_spend_cap(key=key, cap=SpendCap(62, period))
        assert used(key) == (spent, 0)  # Told before the first call opens it,
        [answer] = reserve(ask(key, 63))
        assert answer.share == ledger.Share(62, period, 62 - spent)  # and so it is.
    stage.assert_books_hold()


def test_another_period_in_mid_period_is_counted_from_its_own_beginning_and_back_again() -> None:
    key = capped(100, DAY)
    settled(key, 10)
    running = ask(key, 20)
    stage.admitted(running)

    keys.set_spend_cap(key=key, cap=SpendCap(100, TOTAL))
    settled(key, 5)
    stage.record(factories.record(running, 19))
    ledger.settle(account_id=key.account_id)

    assert used(key) == (34, 0)
    keys.set_spend_cap(key=key, cap=SpendCap(100, DAY))
    assert used(key) == (34, 0)
    stage.assert_books_hold()


def test_a_call_that_ran_when_the_cap_was_set_counts_once_it_is_settled() -> None:
    key = factories.funded(1000).api_keys.get()
    settling, failing = ask(key, 80), ask(key, 10)
    stage.admitted(settling, failing)
    keys.set_spend_cap(key=key, cap=SpendCap(100, DAY))

    assert admitted(ask(key, 30)) == [True]
    stage.record(factories.record(settling, 75))
    stage.release(failing.id)
    ledger.settle(account_id=key.account_id)

    assert used(key) == (75, 30)
    assert budget_of(key).left == 0
    stage.assert_books_hold()


def test_a_rotation_does_not_start_the_period_anew() -> None:
    key = capped(100)
    settled(key, 40)
    second, _ = keys.rotate(key=key, overlap=timedelta(hours=1), now=datetime.now(UTC))
    third, _ = keys.rotate(key=second, overlap=timedelta(hours=1), now=datetime.now(UTC))

    assert admitted(ask(third, 61)) == [False]
    assert admitted(ask(third, 50), ask(key, 10), ask(second, 1)) == [True, True, False]
    assert [used(each) for each in (key, second, third)] == [(40, 60)] * 3

    keys.set_spend_cap(key=second, cap=SpendCap(200, DAY))
    assert {budget_of(each).cap for each in (key, second, third)} == {200}
    settled(third, 7)
    assert used(key) == (47, 60)
    stage.assert_books_hold()


def test_the_gateway_reads_the_budget_of_a_key() -> None:
    key = capped(100, MONTH)
    settled(key, 30)
    stage.admitted(ask(key, 20))
    free = factories.account().api_keys.get()

    read = partial(budgets.of_key, now=datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert stage.as_gateway(lambda database: read(database, free.pk)) is None
    assert stage.as_gateway(lambda database: read(database, key.pk)) == Budget(
        cap=100, period=MONTH, spent=0, held=0, resets_at=datetime(2027, 1, 1, tzinfo=UTC)
    )
    found = stage.as_gateway(lambda database: budgets.of_key(database, key.pk, now=MIDNIGHT))
    assert found is not None
    assert (found.spent, found.held, found.left) == (30, 20, 50)


def test_sixteen_calls_at_the_same_time_are_admitted_up_to_the_cap() -> None:
    key = capped(50)
    calls = [ask(key, 10) for _ in range(16)]
    opened(calls[0])

    answers = stage.at_the_same_time(*[partial(stage.reserve, call) for call in calls])

    assert sum(answer.admitted for [answer] in answers) == 5
    assert used(key) == (0, 50)
    stage.assert_books_hold()


def test_waiting_for_the_wallet_sees_what_the_other_left_of_the_cap() -> None:
    key = capped(100)
    theirs, ours = ask(key, 60), [ask(key, 40), ask(key, 1)]
    opened(theirs)
    with stage.another_connection() as other:
        other.execute(ledger_sql.RESERVE_WAITING, [msgspec.json.encode([theirs]).decode()])

        def commit_theirs() -> None:
            stage.wait_until_blocked_by(other)
            other.commit()

        [answers, _] = stage.at_the_same_time(partial(stage.reserve, *ours), commit_theirs)

    assert [(answer.admitted, answer.share and answer.share.left) for answer in answers] == [(True, 40), (False, 40)]
    stage.assert_books_hold()


def test_a_busy_capped_key_delays_no_other_customer() -> None:
    busy, idle = capped(100), capped(100)
    opened(ask(busy, 1), ask(idle, 1))
    with stage.another_connection() as other:
        other.execute(ledger_sql.RESERVE_WAITING, [msgspec.json.encode([ask(busy, 1)]).decode()])

        started = time.monotonic()
        first, second = stage.reserve(ask(busy, 1), ask(idle, 1), wait=False)

        assert time.monotonic() - started < 2
        assert (first.locked, second.admitted) == (True, True)


def test_a_budget_that_opens_while_its_wallet_is_settled_misses_no_charge() -> None:
    key = factories.funded(1000).api_keys.get()
    call = ask(key, 30)
    stage.admitted(call)
    stage.record(factories.record(call))
    keys.set_spend_cap(key=key, cap=SpendCap(100, DAY))
    with stage.another_connection() as other:
        other.execute(ledger_sql.LOCK_WALLET, [key.account_id])
        other.execute(ledger_sql.SETTLE, {"account": key.account_id, "batch": 10})

        def commit_settlement() -> None:
            stage.wait_until_blocked_by(other)
            other.commit()

        stage.at_the_same_time(partial(opened, ask(key, 1)), commit_settlement)

    assert used(key) == (30, 0)
    stage.assert_books_hold()


def test_a_settler_killed_in_the_middle_leaves_the_budget_as_it_was() -> None:
    key = capped(100)
    call = ask(key, 30)
    assert admitted(call) == [True]
    stage.record(factories.record(call, 20))
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [key.account_id])
        with processes.settler([key.account_id], seed=1):
            stage.wait_until_blocked_by(other)
    assert used(key) == (0, 30)

    ledger.settle(account_id=key.account_id)
    assert used(key) == (20, 0)
    stage.assert_books_hold()


def test_calls_releases_settlements_and_new_caps_at_the_same_time_keep_the_books() -> None:
    first, second = capped(10_000), capped(10_000, MONTH)
    opened(ask(first, 1), ask(second, 1))

    def gateway() -> None:
        for charge in range(1, 13):
            asks = [ask(key, charge + 5, MIDNIGHT - SECOND * (charge % 2)) for key in (second, first, first)]
            running = [each for each, answer in zip(asks, reserve(*asks), strict=True) if answer.admitted]
            stage.record(*(factories.record(each, charge) for each in running[1:]))
            stage.release(*(each.id for each in running[:1]))

    def settler() -> None:
        for _ in range(20):
            for key in (first, second):
                ledger.settle(account_id=key.account_id)

    def customer() -> None:
        for cap in range(12):
            for key in (first, second):
                keys.set_spend_cap(key=key, cap=SpendCap(20 + 30 * cap, [DAY, MONTH, TOTAL][cap % 3]))

    done = stage.at_the_same_time(gateway, gateway, settler, settler, customer)
    assert done == [None] * 5
    settler()

    for key in (first, second):
        assert list(KeyBudget.objects.filter(line=key).exclude(held=0)) == []
    stage.assert_books_hold()
