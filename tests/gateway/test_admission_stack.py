from __future__ import annotations

from collections import Counter

import pytest

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
