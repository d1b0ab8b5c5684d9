from __future__ import annotations

from functools import partial

import psycopg
import pytest

from billing import holds, ledger, usage
from billing.models import LateUsageRecord, UsageRecord
from billing.pricing import Usage, price_of
from billing.usage import Outcome, Source
from tests import factories
from tests.billing import stage


@pytest.mark.parametrize(
    ("held", "charged", "clamped"), [(17, 16, False), (16, 16, False), (15, 15, True), (0, 0, True)]
)
def test_a_charge_is_never_more_than_was_held(db: None, held: int, charged: int, clamped: bool) -> None:
    price = price_of(factories.price(input=2, output=5).pk)
    assert usage.charge_within(held, price, Usage(3, 2)) == (charged, clamped)


@pytest.mark.usefixtures("committed")
class TestRecord:
    def test_a_record_is_kept_as_it_came(self) -> None:
        call = factories.ask(factories.funded(100), 30)
        stage.admitted(call)
        record = factories.record(
            call, 20, first_token_ms=7, outcome=Outcome.CLIENT_CLOSED, source=Source.ESTIMATED, clamped=True
        )
        stage.record(record)

        kept = UsageRecord.objects.get(pk=call.id)
        assert {name: getattr(kept, name) for name in record.__struct_fields__} == {
            name: getattr(record, name) for name in record.__struct_fields__
        }
        assert kept.settled_at is None

    def test_a_repeat_of_ours_is_dropped(self) -> None:
        account = factories.funded(100)
        call = factories.ask(account, 30)
        stage.admitted(call)

        stage.record(factories.record(call, 20))
        stage.record(factories.record(call, 25), factories.record(call, 25))
        ledger.settle(account_id=account.pk)
        stage.record(factories.record(call, 30))
        ledger.settle(account_id=account.pk)

        assert UsageRecord.objects.get(pk=call.id).charge == 20
        assert LateUsageRecord.objects.filter(pk=call.id).count() == 0
        assert stage.wallet_of(account).posted == 80
        stage.assert_books_hold()

    def test_eight_records_of_a_call_at_the_same_time_are_one(self) -> None:
        account = factories.funded(100)
        calls = [factories.ask(account, 10) for _ in range(4)]
        stage.admitted(*calls)
        records = [factories.record(call) for call in calls]

        done = stage.at_the_same_time(*[partial(stage.record, *records[::order]) for order in (1, -1) * 4])

        assert done == [None] * 8
        assert UsageRecord.objects.filter(account=account).count() == 4
        ledger.settle(account_id=account.pk)
        assert stage.wallet_of(account).posted == 60

    def test_a_record_after_the_sweepers_is_kept_late_and_moves_no_money(self) -> None:
        account = factories.funded(100)
        call, neighbour = factories.ask(account, 30), factories.ask(account, 5)
        stage.admitted(call)
        holds.sweep()
        stage.admitted(neighbour)

        for _ in range(2):
            stage.record(factories.record(call, 20), factories.record(neighbour))
        ledger.settle(account_id=account.pk)

        assert UsageRecord.objects.get(pk=call.id).outcome == Outcome.UNRESOLVED
        late = LateUsageRecord.objects.get(pk=call.id)
        assert (late.account_id, late.record["charge"], late.record["output_tokens"]) == (account.pk, 20, 2)
        assert stage.wallet_of(account).posted == 95
        stage.assert_books_hold()

    def test_one_bad_record_keeps_its_whole_batch_out(self) -> None:
        account = factories.funded(100)
        good, bad = (factories.ask(account, 10) for _ in range(2))
        stage.admitted(good, bad)

        with pytest.raises(psycopg.errors.CheckViolation, match="usage_charge_within_hold"):
            stage.record(factories.record(good), factories.record(bad, 11))
        assert UsageRecord.objects.filter(account=account).count() == 0

        stage.record(factories.record(good), factories.record(bad, 10))
        ledger.settle(account_id=account.pk)
        stage.assert_books_hold()
