from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from billing.models import Hold
from gateway.admission import Admission
from gateway.database import Pools
from gateway.errors import InsufficientBalance
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway.customers import all_at_once, chat, customer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def test_of_64_simultaneous_calls_a_balance_for_10_admits_exactly_10(stack: Stack) -> None:
    # The backend takes its time, so no settlement frees money while the calls arrive.
    body = chat("[demo: first_token_ms=1500 tokens=5]", max_tokens=100)
    rich = customer()
    (status, _), *_ = all_at_once([stack.webs[0].url], rich.secret, body)
    assert status == 200
    (hold,) = {record.held for record in rich.settled(1)}
    alice = customer(pico=10 * hold)

    answers = all_at_once([web.url for web in stack.webs] * 32, alice.secret, body)

    assert Counter(status for status, _ in answers) == {200: 10, 402: 54}
    assert {answer["error"]["code"] for status, answer in answers if status == 402} == {"insufficient_balance"}
    records = alice.settled(10)
    assert alice.wallet.posted == 10 * hold - sum(record.charge for record in records)
    assert_books_hold()


def test_a_call_that_fits_is_admitted_though_it_came_behind_a_larger_one() -> None:
    account = factories.funded(100)
    large, fits = factories.ask(account, 101), factories.ask(account, 100)

    async def together() -> tuple[BaseException | None, ...]:
        pools = Pools()
        await pools.open()
        admission = Admission(pools)
        try:
            return await asyncio.gather(admission.admit(large), admission.admit(fits), return_exceptions=True)
        finally:
            await pools.close()

    refused, admitted = asyncio.run(together())

    assert isinstance(refused, InsufficientBalance)
    assert admitted is None
    assert [hold.pk for hold in Hold.objects.filter(account_id=account.pk)] == [fits.id]
