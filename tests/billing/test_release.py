from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest

from billing import holds
from billing.models import Hold, ReleasedHolds
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.usefixtures("committed")


def test_a_released_hold_gives_its_money_back_and_is_counted_under_its_reason() -> None:
    account = factories.funded(100)
    calls = [factories.ask(account, 30) for _ in range(3)]
    stage.admitted(*calls)

    assert stage.release(calls[0].id, calls[1].id, reason="backend_failed") == 2
    assert stage.release(calls[2].id, reason="client_gone") == 1

    wallet = stage.wallet_of(account)
    assert (wallet.available, wallet.holds_opened, wallet.holds_released) == (100, 3, 3)
    counted = ReleasedHolds.objects.filter(account=account).order_by("reason").values_list("reason", "calls")
    assert list(counted) == [("backend_failed", 2), ("client_gone", 1)]
    stage.assert_books_hold()


def test_releasing_twice_gives_back_once() -> None:
    account = factories.funded(100)
    call = factories.ask(account, 30)
    stage.admitted(call)

    assert [stage.release(call.id), stage.release(call.id), stage.release(call.id, call.id)] == [1, 0, 0]
    assert stage.wallet_of(account).available == 100
    stage.assert_books_hold()


def test_releasing_an_unknown_hold_does_nothing() -> None:
    assert stage.release(uuid4()) == 0
    assert stage.release() == 0


def test_eight_releases_of_the_same_holds_at_the_same_time_give_back_once() -> None:
    accounts = [factories.funded(100) for _ in range(3)]
    calls = [factories.ask(account, 10) for account in accounts for _ in range(4)]
    stage.admitted(*calls)
    ids = [call.id for call in calls]

    released = stage.at_the_same_time(*[partial(stage.release, *ids[::order]) for order in (1, -1) * 4])

    assert sorted(released) == [0] * 7 + [12]
    assert [stage.wallet_of(account).available for account in accounts] == [100, 100, 100]
    assert [stage.wallet_of(account).holds_released for account in accounts] == [4, 4, 4]
    stage.assert_books_hold()


def test_a_hold_whose_call_is_recorded_is_not_given_back() -> None:
    account = factories.funded(100)
    [call] = stage.admitted_and_recorded(account, [30])

    assert stage.release(call.id) == 0
    assert stage.wallet_of(account).held == 30


def test_a_hold_that_the_sweeper_resolved_is_not_given_back() -> None:
    account = factories.funded(100)
    call = factories.ask(account, 30)
    stage.admitted(call)
    holds.sweep()  # Its process never said that it is alive.

    assert stage.release(call.id) == 0
    assert stage.wallet_of(account).held == 30


# However PostgreSQL chooses to join, the newest version of the row decides.
@pytest.mark.parametrize("plan", ["hashjoin", "nestloop", "mergejoin"])
def test_a_release_that_waits_for_the_sweeper_leaves_the_hold_to_settlement(plan: str) -> None:
    account = factories.funded(100)
    swept, free = (factories.ask(account, 30) for _ in range(2))
    stage.admitted(swept, free)
    others = {"hashjoin", "nestloop", "mergejoin"} - {plan}
    with stage.another_connection() as sweeper:
        sweeper.execute("SELECT FROM billing_hold WHERE id = %s FOR UPDATE", [swept.id])
        sweeper.execute("UPDATE billing_hold SET resolved_at = now() WHERE id = %s", [swept.id])

        def commit_sweep() -> None:
            stage.wait_until_blocked_by(sweeper)
            sweeper.commit()

        options = " ".join(f"-c enable_{other}=off" for other in sorted(others))
        [released, _] = stage.at_the_same_time(lambda: stage.release(swept.id, free.id, options=options), commit_sweep)

    assert released == 1
    assert list(Hold.objects.filter(account_id=account.pk).values_list("id", flat=True)) == [swept.id]
    assert stage.wallet_of(account).held == 30


def test_hours_of_releases_are_utc_hours() -> None:
    account = factories.funded(100)
    call = factories.ask(account, 30)
    stage.admitted(call)
    before = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    stage.release(call.id)
    after = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert ReleasedHolds.objects.get(account=account).hour in {before, after}
