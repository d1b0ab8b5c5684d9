"""The pages on which a customer says what a key may spend and how fast it may call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.urls import reverse

from accounts.models import Account, Tier
from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import ApiKey, SpendPeriod
from billing import ledger, money
from tests import factories, people

pytestmark = pytest.mark.django_db

USD = money.PICO_PER_USD
NO_LIMITS = {"spend_cap": "", "requests_per_minute": "", "tokens_per_minute": "", "concurrent_requests": ""}


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


@pytest.fixture
def key(account: Account) -> ApiKey:
    return keys.create(account=account, name="laptop", now=datetime.now(UTC), by=account.users.get())[0]


def send(key: ApiKey, **fields: Any) -> str:
    response = people.owner_of(key.account).post(
        reverse("apikeys:limits", args=[key.pk]), {**NO_LIMITS, **fields}, follow=True
    )
    key.refresh_from_db()
    return str(response.content.decode())


def page(key: ApiKey, view: str) -> str:
    address = reverse(f"apikeys:{view}", args=[] if view == "keys" else [key.pk])
    return str(people.owner_of(key.account).get(address).content.decode())


def limits(key: ApiKey) -> tuple[int | None, int | None, int | None]:
    return key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests


def test_a_pico_dollar_is_here_what_it_is_in_billing() -> None:
    assert keys.PICO_PER_USD == money.PICO_PER_USD


def test_limits_are_set_shown_changed_and_lifted(key: ApiKey) -> None:
    answer = send(key, spend_cap="12.5", spend_period="day", requests_per_minute="30", concurrent_requests="2")

    assert "The limits of laptop are changed." in answer
    assert keys.cap_of(key) == SpendCap(125 * USD // 10, SpendPeriod.DAY)
    assert limits(key) == (30, None, 2)
    for view in ("keys", "key"):
        shown = page(key, view)
        assert [text in shown for text in ("$12.50", "per day", "30 requests/minute", "2 at the same time")] == [
            True
        ] * 4
    assert 'value="12.5"' in page(key, "limits")

    send(key, requests_per_minute="31")
    assert (keys.cap_of(key), limits(key)) == (None, (31, None, None))


def test_a_key_is_made_with_limits(account: Account) -> None:
    fields = {"name": "laptop", "creation_id": uuid4(), "spend_cap": "0.25", "tokens_per_minute": "9000"}

    people.owner_of(account).post(reverse("apikeys:create"), fields)

    key = account.api_keys.get()
    assert keys.cap_of(key) == SpendCap(USD // 4, SpendPeriod.MONTH)
    assert limits(key) == (None, 9000, None)


def test_a_bad_limit_makes_no_key_and_opens_the_folded_part(account: Account) -> None:
    fields = {"name": "laptop", "creation_id": uuid4(), "requests_per_minute": "0"}

    answer = people.owner_of(account).post(reverse("apikeys:create"), fields).content.decode()

    assert "<details open>" in answer
    assert not account.api_keys.exists()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("requests_per_minute", "61", "Your account has a limit of 60."),
        ("tokens_per_minute", "100001", "Your account has a limit of 100,000."),
        ("concurrent_requests", "6", "Your account has a limit of 5."),
        ("requests_per_minute", "0", "greater than or equal to 1"),
        ("spend_cap", "0", "greater than or equal to 0.000001"),
        ("spend_cap", "-1", "greater than or equal to 0.000001"),
        ("spend_cap", "1e30", "less than or equal to 1000000"),
        ("spend_cap", "0.0000001", "no more than 6 decimal places"),
        ("spend_cap", "NaN", "Enter a number"),
        ("spend_period", "week", "Select a valid choice"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_with_the_figure(key: ApiKey, field: str, value: str, why: str) -> None:
    answer = send(key, **{field: value})

    assert why in answer
    assert (keys.cap_of(key), limits(key)) == (None, (None, None, None))


def test_the_limits_of_the_account_itself_fit(key: ApiKey) -> None:
    tier = Tier.objects.get(pk=key.account.tier_id)
    send(key, requests_per_minute=tier.requests_per_minute, tokens_per_minute=tier.tokens_per_minute)
    assert limits(key) == (60, 100_000, None)


def test_the_page_of_a_key_tells_what_was_spent_and_what_is_left(key: ApiKey) -> None:
    factories.credit(key.account, 10 * USD)
    keys.set_spend_cap(key=key, cap=SpendCap(2 * USD, SpendPeriod.TOTAL))
    factories.recorded(key.account, 3 * USD // 2)
    ledger.settle(account_id=key.account_id)

    shown = page(key, "key")
    assert f'<progress max="{2 * USD}" value="{3 * USD // 2}"' in shown
    assert [text in shown for text in (">$1.50<", ">$2.00<", ">$0.50</span> left", "used up")] == [True] * 3 + [False]

    keys.set_spend_cap(key=key, cap=SpendCap(USD, SpendPeriod.TOTAL))
    assert "used up" in page(key, "keys")


def test_a_member_limits_the_own_keys_only(account: Account, key: ApiKey) -> None:
    member = people.member_of(account, "member")
    own, _ = keys.create(account=account, name="desk", now=datetime.now(UTC), by=member)
    client = people.signed_in(member)

    for chosen, status in ((own, 302), (key, 403)):
        address = reverse("apikeys:limits", args=[chosen.pk])
        assert client.post(address, {**NO_LIMITS, "spend_cap": "1"}).status_code == status
    key.refresh_from_db()
    assert keys.cap_of(key) is None


def test_the_list_asks_no_more_for_many_capped_keys_than_for_one(
    account: Account, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        cap = SpendCap(USD, [*SpendPeriod][number % 3])
        made, _ = keys.create(account=account, name=str(number), cap=cap, now=datetime.now(UTC))
        keys.rotate(key=made, overlap=timedelta(days=1), now=datetime.now(UTC))
    alice = people.owner_of(account)

    with django_assert_max_num_queries(9):
        assert alice.get(reverse("apikeys:keys")).content.decode().count("<progress") == 50


def test_staff_see_the_cap_and_cannot_change_it(key: ApiKey) -> None:
    keys.set_spend_cap(key=key, cap=SpendCap(2 * USD, SpendPeriod.MONTH))
    address = reverse("admin:apikeys_apikey_change", args=[key.pk])
    staff = people.superuser()

    assert "2 USD per month" in staff.get(address).content.decode()
    staff.post(address, {"expires_at_0": "", "expires_at_1": "", "spend_cap": "", "cap": ""})

    key.refresh_from_db()
    assert keys.cap_of(key) == SpendCap(2 * USD, SpendPeriod.MONTH)
