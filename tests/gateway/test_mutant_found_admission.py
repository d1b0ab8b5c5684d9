from __future__ import annotations

import asyncio

import pytest

from billing.models import Hold
from gateway.admission import Admission
from gateway.database import Pools
from gateway.errors import InsufficientBalance
from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import chat, customer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


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


def test_a_prompt_of_more_tokens_than_estimated_is_charged_in_full(stack: Stack, lab: Lab) -> None:
    alice = customer()
    wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_prompt=40]", model=lab.of_two, max_tokens=5))
    record = alice.only_record()
    assert (record.charge, record.clamped) == (40 * INPUT_RATE + 5 * OUTPUT_RATE, False)
