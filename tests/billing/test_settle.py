"""Settlement on one connection: what one batch is, whom it charges, and what it leaves."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection

from accounts.models import Account
from billing import ledger, settlement
from billing.models import CreditLot, Transfer, UsageHour, UsageRecord
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def account() -> Account:
    return factories.funded(1000)


def settled(account: Account) -> list[tuple[int, int]]:
    """(calls, amount) of each batch until nothing is left."""
    batches = []
    while (batch := ledger.settle(account_id=account.pk)).calls:
        batches.append((batch.calls, batch.amount))
    return batches


def usage_transfers(account: Account) -> list[tuple[date, int, int | None]]:
    transfers = Transfer.objects.filter(wallet_id=account.pk, kind="usage").order_by("wallet_seq")
    return list(transfers.values_list("day", "amount", "balance_after"))


def test_settling_closes_holds_charges_records_and_posts_one_transfer(account: Account) -> None:
    calls = [factories.recorded(account, charge, amount=50, admitted_at=NOON) for charge in (10, 20, 30)]

    assert settled(account) == [(3, 60)]

    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.seq, wallet.holds_recorded) == (940, 0, 2, 3)
    assert usage_transfers(account) == [(NOON.date(), 60, 940)]
    records = UsageRecord.objects.filter(account=account)
    assert set(records.values_list("transfer__amount", flat=True)) == {60}
    assert records.filter(settled_at=None).count() == 0
    assert {call.id for call in calls} == set(records.values_list("id", flat=True))
    stage.assert_books_hold()


def test_settling_twice_charges_once(account: Account) -> None:
    factories.recorded(account, 10)
    assert settled(account) == [(1, 10)]
    assert settled(account) == []
    assert stage.wallet_of(account).posted == 990


def test_settling_a_wallet_without_calls_or_that_is_not_there_does_nothing(account: Account) -> None:
    assert ledger.settle(account_id=account.pk) == ledger.Settlement(0, 0)
    assert ledger.settle(account_id=factories.account().pk) == ledger.Settlement(0, 0)


def test_a_record_without_a_wallet_is_left_pending_rather_than_lost() -> None:
    walletless = factories.account()
    fields = factories.record(factories.ask(walletless, 5))
    UsageRecord.objects.create(**{name: getattr(fields, name) for name in fields.__struct_fields__})

    assert settlement.settle_accounts(account_ids=[walletless.pk]) == 0
    assert walletless.pk in settlement.pending_accounts()


def test_a_batch_never_spans_midnight_utc(account: Account) -> None:
    for moment in (MIDNIGHT - SECOND, MIDNIGHT - timedelta(milliseconds=1), MIDNIGHT, MIDNIGHT + SECOND):
        factories.recorded(account, 10, admitted_at=moment)

    assert settled(account) == [(2, 20), (2, 20)]
    assert usage_transfers(account) == [(date(2026, 11, 20), 20, 980), (date(2026, 11, 21), 20, 960)]
    stage.assert_books_hold()


def test_a_record_that_comes_late_for_its_day_is_charged_on_its_day(account: Account) -> None:
    factories.recorded(account, 10, admitted_at=MIDNIGHT)
    settled(account)
    factories.recorded(account, 10, admitted_at=MIDNIGHT - SECOND)
    settled(account)

    assert [day for day, _, _ in usage_transfers(account)] == [date(2026, 11, 21), date(2026, 11, 20)]
    stage.assert_books_hold()


def test_a_record_whose_moment_is_before_that_of_its_id_still_stays_in_its_day(account: Account) -> None:
    """The ids order a batch; were a moment ever not that of its id, no batch may mix days."""
    factories.recorded(account, 10, admitted_at=MIDNIGHT)
    wrong = factories.recorded(account, 10, admitted_at=MIDNIGHT + SECOND)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # Else the row refuses to be changed.
        UsageRecord.objects.filter(pk=wrong.id).update(admitted_at=MIDNIGHT - SECOND)
        cursor.execute("SET LOCAL session_replication_role = origin")

    assert settled(account) == [(1, 10), (1, 10)]
    assert [day for day, _, _ in usage_transfers(account)] == [date(2026, 11, 21), date(2026, 11, 20)]


def test_a_batch_never_crosses_the_expiry_of_a_lot_and_the_lot_pays_only_what_came_before(account: Account) -> None:
    factories.promotion(account, 100, expires_at=NOON)
    for moment in (NOON - SECOND, NOON, NOON + SECOND):
        factories.recorded(account, 10, admitted_at=moment)

    assert settled(account) == [(1, 10), (2, 20)]
    assert stage.lots_of(account) == [("paid", 980), ("promotional", 90)]
    assert stage.wallet_of(account).debt == 0
    stage.assert_books_hold()


def test_lots_burn_promotional_first_soonest_expiry_first_then_oldest() -> None:
    account = factories.account()
    factories.credit(account, 10)
    factories.promotion(account, 10, expires_at=None)
    factories.promotion(account, 10, expires_at=NOON + 2 * SECOND)
    factories.promotion(account, 10, expires_at=NOON + SECOND)
    factories.promotion(account, 10, expires_at=NOON + SECOND)
    factories.credit(account, 10)
    left = []
    for charge in (15, 10, 10, 10, 15):
        factories.recorded(account, charge, admitted_at=NOON)
        settled(account)
        left.append([remaining for _, remaining in stage.lots_of(account)])

    assert left == [
        [10, 10, 10, 0, 5, 10],
        [10, 10, 5, 0, 0, 10],
        [10, 5, 0, 0, 0, 10],
        [5, 0, 0, 0, 0, 10],
        [0, 0, 0, 0, 0, 0],
    ]
    stage.assert_books_hold()


def test_one_batch_burns_several_lots_and_the_last_one_in_part() -> None:
    account = factories.account()
    for amount in (10, 10, 10):
        factories.credit(account, amount)
    factories.recorded(account, 12, admitted_at=NOON)
    factories.recorded(account, 13, admitted_at=NOON)

    assert settled(account) == [(2, 25)]
    assert stage.lots_of(account) == [("paid", 0), ("paid", 0), ("paid", 5)]


def test_what_no_lot_covers_becomes_debt_and_a_later_credit_pays_it_first() -> None:
    account = factories.account()
    factories.promotion(account, 10, expires_at=NOON)
    factories.recorded(account, 8, admitted_at=NOON + SECOND)  # Admitted before the sweep took the expired lot.
    settled(account)
    assert (stage.wallet_of(account).posted, stage.wallet_of(account).debt) == (2, 8)

    assert ledger.expire_lots(account_id=account.pk, now=NOON + SECOND) == 2
    assert (stage.wallet_of(account).posted, stage.wallet_of(account).debt) == (0, 8)
    factories.credit(account, 5)
    assert (stage.wallet_of(account).posted, stage.wallet_of(account).debt) == (5, 3)
    factories.credit(account, 5)

    assert (stage.wallet_of(account).posted, stage.wallet_of(account).debt) == (10, 0)
    assert stage.lots_of(account) == [("promotional", 8), ("paid", 0), ("paid", 2)]
    assert ledger.expire_lots(account_id=account.pk, now=NOON + SECOND) == 8
    assert stage.wallet_of(account).posted == 2
    stage.assert_books_hold()


def test_free_calls_are_settled_without_a_transfer(account: Account) -> None:
    for _ in range(2):
        factories.recorded(account, 0, amount=50)

    assert settled(account) == [(2, 0)]

    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.seq, wallet.holds_recorded) == (1000, 0, 1, 2)
    assert usage_transfers(account) == []
    assert set(UsageRecord.objects.filter(account=account).values_list("transfer", flat=True)) == {None}
    stage.assert_books_hold()


def test_a_free_call_among_paid_ones_names_their_transfer(account: Account) -> None:
    factories.recorded(account, 0, amount=50, admitted_at=NOON)
    factories.recorded(account, 10, admitted_at=NOON)
    assert settled(account) == [(2, 10)]
    assert UsageRecord.objects.filter(account=account, transfer__amount=10).count() == 2


def test_more_calls_than_a_batch_are_settled_in_several(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SETTLEMENT_BATCH", 4)
    for _ in range(10):
        factories.recorded(account, 3, admitted_at=NOON)

    assert settled(account) == [(4, 12), (4, 12), (2, 6)]
    assert usage_transfers(account) == [(NOON.date(), 12, 988), (NOON.date(), 12, 976), (NOON.date(), 6, 970)]
    stage.assert_books_hold()


def test_roll_ups_add_up_by_key_model_and_utc_hour(account: Account) -> None:
    hour = timedelta(hours=1)
    for moment in (NOON, NOON + hour - SECOND, NOON + hour):
        factories.recorded(account, 10, admitted_at=moment)
    settled(account)
    factories.recorded(account, 7, admitted_at=NOON)
    settled(account)

    rows = UsageHour.objects.filter(account=account).order_by("hour")
    columns = ("hour", "calls", "input_tokens", "cached_input_tokens", "output_tokens", "charge")
    assert list(rows.values_list(*columns)) == [
        (NOON, 3, 9, 3, 6, 27), (NOON + hour, 1, 3, 1, 2, 10),
    ]  # fmt: skip


def test_one_broken_wallet_does_not_keep_the_others_waiting(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    broken = account
    healthy = factories.funded(100)
    recorded = [factories.recorded(owner, 10) for owner in (broken, healthy)]
    type(stage.wallet_of(broken)).objects.filter(pk=broken.pk).update(held=0)  # Its settlement will be refused.

    assert settlement.settle_accounts(account_ids=[broken.pk, healthy.pk]) == 1
    assert stage.wallet_of(healthy).posted == 90
    assert f"account {broken.pk} could not be settled; calls that wait: {recorded[0].id}\n" in caplog.text
    assert CreditLot.objects.get(wallet_id=broken.pk).remaining == 1000
