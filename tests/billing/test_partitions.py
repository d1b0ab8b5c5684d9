from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from django.db import connection

from accounts.models import Account
from billing import ledger, partitions
from billing.models import UsageRecord
from tests import factories
from tests.billing import stage

MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def account(db: None) -> Account:
    return factories.funded(100)


def partition_of(record_id: UUID) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM billing_usagerecord WHERE id = %s", [record_id])
        return str(cursor.fetchone()[0])


@pytest.mark.django_db
def test_this_month_and_the_next_three_are_there_after_migrating() -> None:
    month = datetime.now(UTC)
    assert partitions.ensure(now=month) == []
    assert len(partitions.ensure(now=month, months_ahead=4)) == 1


@pytest.mark.django_db
def test_months_run_from_december_into_january() -> None:
    december = datetime(2030, 12, 31, 23, 59, tzinfo=UTC)
    names = [f"billing_usagerecord_{month}" for month in ("2030_12", "2031_01", "2031_02", "2031_03")]
    assert partitions.ensure(now=december) == names
    assert partitions.ensure(now=december) == []
    assert partitions.ensure(now=datetime(2031, 1, 1, tzinfo=UTC)) == ["billing_usagerecord_2031_04"]


def test_the_first_and_the_last_millisecond_of_a_month_lie_in_its_partition(account: Account) -> None:
    start, following = datetime(2030, 12, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    partitions.ensure(now=start)
    moments = [start, following - MILLISECOND, following]
    calls = [factories.recorded(account, 10, admitted_at=moment) for moment in moments]

    assert [partition_of(call.id).removeprefix("billing_usagerecord_") for call in calls] == [
        "2030_12", "2030_12", "2031_01",
    ]  # fmt: skip
    assert partitions.stray_rows() == 0


def test_the_first_id_of_a_month_is_the_smallest_of_its_partition(account: Account) -> None:
    start = datetime(2030, 12, 1, tzinfo=UTC)
    partitions.ensure(now=start)
    fields = factories.record(factories.ask(account, 0), id=partitions.first_id(start))
    UsageRecord.objects.create(**{name: getattr(fields, name) for name in fields.__struct_fields__})
    assert partition_of(fields.id) == "billing_usagerecord_2030_12"


def test_a_call_of_a_month_without_a_partition_is_kept_counted_and_settled(account: Account) -> None:
    call = factories.recorded(account, 10, admitted_at=datetime(2035, 5, 5, tzinfo=UTC))

    assert partition_of(call.id) == "billing_usagerecord_default"
    assert partitions.stray_rows() == 1
    ledger.settle(account_id=account.pk)
    assert stage.wallet_of(account).posted == 90
    stage.assert_books_hold()


def test_a_month_with_stray_rows_is_reported_and_the_next_months_are_made_all_the_same(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    factories.recorded(account, 10, admitted_at=datetime(2035, 5, 5, tzinfo=UTC))

    created = partitions.ensure(now=datetime(2035, 5, 1, tzinfo=UTC))

    assert created == [f"billing_usagerecord_2035_{month}" for month in ("06", "07", "08")]
    assert "billing_usagerecord_2035_05 cannot be made" in caplog.text


def test_making_a_partition_keeps_nobody_from_the_table_and_gives_up_on_a_long_reader(committed: None) -> None:
    # A full proof of the books reads every partition for minutes, in one transaction.
    with psycopg.connect(os.environ["DATABASE_URL"]) as reader:
        reader.execute("SELECT count(*) FROM billing_usagerecord")
        started = time.monotonic()
        assert partitions.ensure(now=datetime(2040, 1, 1, tzinfo=UTC), months_ahead=0) == []
        assert time.monotonic() - started < 3
        call = factories.ask(factories.funded(1), 1)
        stage.admitted(call)
        stage.record(factories.record(call))
    assert ledger.settle(account_id=call.account_id).calls == 1
    names = partitions.ensure(now=datetime(2040, 1, 1, tzinfo=UTC), months_ahead=0)
    assert names == ["billing_usagerecord_2040_01"]


@pytest.mark.django_db
def test_the_indexes_of_a_partition_come_with_it() -> None:
    partitions.ensure(now=datetime(2041, 1, 1, tzinfo=UTC), months_ahead=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'billing_usagerecord_2041_01'::regclass")
        (indexes,) = cursor.fetchone()
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'billing_usagerecord'::regclass")
        assert cursor.fetchone() == (indexes,)
        assert indexes >= 4
