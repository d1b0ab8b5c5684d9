"""The cap that a line of keys has, and how it is set. What it does to calls is tested with the money."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module

import pytest
from django.db import connection

from accounts import audit
from accounts.models import Account, AuditEvent
from apikeys import keys
from apikeys.keys import InvalidCap, SpendCap
from apikeys.models import ApiKey, SpendPeriod
from tests import factories
from tests.billing import stage

USD = 10**12
HOUR = timedelta(hours=1)
FIVE = SpendCap(5 * USD, SpendPeriod.DAY)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def account(db: None) -> Account:
    return factories.account()


def caps(account: Account) -> list[SpendCap | None]:
    return [keys.cap_of(key) for key in account.api_keys.order_by("pk")]


def told(account: Account) -> list[str]:
    events = AuditEvent.objects.filter(account=account, action="key.cap_set").order_by("id")
    return [audit.sentence(event) for event in events]


def test_a_key_can_be_made_with_a_cap(account: Account, now: datetime) -> None:
    key, _ = keys.create(account=account, name="mine", cap=FIVE, now=now)
    assert (key.spend_cap, key.spend_period) == (5 * USD, "day")
    assert told(account) == [f"set the spend cap of the key {key} from none to 5 USD per day"]


def test_a_cap_is_set_changed_and_lifted_and_each_is_told_once(account: Account) -> None:
    key, alice = account.api_keys.get(), factories.user()
    month = SpendCap(25 * USD // 10, SpendPeriod.MONTH)
    for cap in (FIVE, FIVE, month, None, None):
        keys.set_spend_cap(key=key, cap=cap, by=alice)
        assert keys.cap_of(key) == cap

    assert [sentence.partition(" from ")[2] for sentence in told(account)] == [
        "none to 5 USD per day", "5 USD per day to 2.5 USD per month", "2.5 USD per month to none",
    ]  # fmt: skip
    assert set(AuditEvent.objects.filter(account=account).values_list("actor", flat=True)) == {alice.pk}


def test_a_new_key_has_the_cap_and_is_of_the_line(account: Account, now: datetime) -> None:
    first = account.api_keys.get()
    keys.set_spend_cap(key=first, cap=FIVE)
    second, _ = keys.rotate(key=first, overlap=HOUR, now=now)
    third, _ = keys.rotate(key=second, overlap=HOUR, now=now)

    assert [key.line_id for key in (first, second, third)] == [first.pk] * 3
    assert caps(account) == [FIVE] * 3
    keys.set_spend_cap(key=second, cap=None)
    assert caps(account) == [None] * 3


@pytest.mark.usefixtures("committed")
def test_a_cap_that_is_set_while_its_key_is_rotated_holds_for_both(now: datetime) -> None:
    account = factories.account()
    key = account.api_keys.get()

    done = stage.at_the_same_time(
        partial(keys.set_spend_cap, key=key, cap=FIVE), partial(keys.rotate, key=key, overlap=HOUR, now=now)
    )

    assert not [fault for fault in done if isinstance(fault, Exception)]
    assert caps(account) == [FIVE, FIVE]


@pytest.mark.parametrize("amount", [0, -1, 2**63])
def test_a_cap_of_nothing_or_of_too_much_is_none(amount: int) -> None:
    with pytest.raises(InvalidCap):
        SpendCap(amount, SpendPeriod.DAY)


def test_keys_that_were_rotated_before_there_were_lines_get_theirs(account: Account, now: datetime) -> None:
    keys_of_line = [account.api_keys.get()]
    for _ in range(3):
        keys_of_line.append(keys.rotate(key=keys_of_line[-1], overlap=HOUR, now=now)[0])
    other = factories.account().api_keys.get()
    ApiKey.objects.update(first=None)

    with connection.cursor() as cursor:
        cursor.execute(import_module("apikeys.migrations.0007_lines_of_rotated_keys").FILL)

    first = keys_of_line[0].pk
    assert list(account.api_keys.order_by("pk").values_list("first", flat=True)) == [None, first, first, first]
    assert ApiKey.objects.get(pk=other.pk).first_id is None
