from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from psycopg import AsyncConnection

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing import ledger
from billing.ledger import Ask
from billing.models import Hold, KeyBudget
from gateway.admission import Admission
from gateway.database import Pools
from gateway.errors import InsufficientBalance, KeyBudgetExceeded
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway.customers import all_at_once, chat, customer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def test_of_64_simultaneous_calls_a_balance_for_10_admits_exactly_10(stack: Stack) -> None:
    # The backend takes its time, so no settlement frees money while the calls arrive.
    body = chat("[demo: first_token_ms=4000 tokens=5]", max_tokens=100)
    rich = customer()
    (status, _), *_ = all_at_once([stack.webs[0].url], rich.secret, body)
    assert status == 200
    (hold,) = {record.held for record in rich.settled(1)}

    # On a machine with much to do some are told to come again, which is another try: they would come too late.
    for _ in range(5):
        alice = customer(pico=10 * hold)
        answers = all_at_once([web.url for web in stack.webs] * 32, alice.secret, body)
        if all(status != 503 for status, _ in answers):
            break

    assert Counter(status for status, _ in answers) == {200: 10, 402: 54}
    assert {answer["error"]["code"] for status, answer in answers if status == 402} == {"insufficient_balance"}
    records = alice.settled(10)
    assert alice.wallet.posted == 10 * hold - sum(record.charge for record in records)
    assert_books_hold()


def admit(*asks: Ask) -> list[BaseException | None]:
    """What a process says to calls that come together."""

    async def together() -> list[BaseException | None]:
        pools = Pools()
        await pools.open()
        admission = Admission(pools)
        try:
            return await asyncio.gather(*(admission.admit(ask) for ask in asks), return_exceptions=True)
        finally:
            await pools.close()

    return asyncio.run(together())


def test_a_call_that_fits_is_admitted_though_it_came_behind_a_larger_one() -> None:
    account = factories.funded(100)
    large, fits = factories.ask(account, 101), factories.ask(account, 100)

    refused, admitted = admit(large, fits)

    assert isinstance(refused, InsufficientBalance)
    assert admitted is None
    assert [hold.pk for hold in Hold.objects.filter(account_id=account.pk)] == [fits.id]


def test_a_call_that_fits_the_cap_is_admitted_though_it_came_behind_a_larger_one() -> None:
    account = factories.funded(1000)
    keys.set_spend_cap(key=account.api_keys.get(), cap=SpendCap(100, SpendPeriod.DAY))

    refused, admitted = admit(factories.ask(account, 101), factories.ask(account, 100))

    assert isinstance(refused, KeyBudgetExceeded)
    assert admitted is None


def test_a_cap_that_gets_another_period_while_a_call_is_admitted_refuses_nothing_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = factories.funded(1000)
    keys.set_spend_cap(key=account.api_keys.get(), cap=SpendCap(100, SpendPeriod.DAY))
    open_budget = ledger.open_budget

    async def and_change(database: AsyncConnection[object], ask: Ask) -> None:
        await open_budget(database, ask)
        await database.execute("UPDATE apikeys_apikey SET spend_period = 'total' WHERE id = %s", [ask.api_key_id])

    monkeypatch.setattr(ledger, "open_budget", and_change)

    assert admit(factories.ask(account, 100)) == [None]
    assert KeyBudget.objects.get(line__account=account, period="total").held == 100
    assert_books_hold()
