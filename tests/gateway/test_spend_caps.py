"""A key with a spend cap, over the wire."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing import budgets, money
from billing.models import KeyBudget, RefusedCalls
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, all_at_once, chat, customer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")


def cap(who: Customer, amount: int, period: SpendPeriod = SpendPeriod.MONTH) -> None:
    keys.set_spend_cap(key=who.key, cap=SpendCap(amount, period))


def budget_of(who: Customer) -> budgets.Budget:
    return budgets.of_keys([who.key.pk], now=datetime.now(UTC))[who.key.pk]


def test_of_16_simultaneous_calls_a_cap_for_5_admits_exactly_5_and_no_process_more(stack: Stack) -> None:
    body = chat("[demo: first_token_ms=3000 tokens=5]", max_tokens=100)
    rich = customer()
    assert wire.ask(stack.webs[0], rich.secret, body).status == 200
    (hold,) = {record.held for record in rich.settled(1)}
    alice = customer()
    cap(alice, 5 * hold + 1)

    answers = all_at_once([web.url for web in stack.webs] * 8, alice.secret, body)

    assert Counter(status for status, _ in answers) == {200: 5, 402: 11}
    assert {answer["error"]["code"] for status, answer in answers if status == 402} == {"key_budget_exceeded"}
    records = alice.settled(5)
    assert budget_of(alice).spent == sum(record.charge for record in records)
    assert budget_of(alice).held == 0
    assert_books_hold()


def test_the_refusal_says_which_cap_what_is_left_what_was_asked_and_until_when(stack: Stack) -> None:
    alice = customer()
    cap(alice, 1_000_000)

    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=5000))

    assert (answer.status, answer.error["type"], answer.error["param"]) == (402, "insufficient_quota", None)
    assert answer.headers["x-should-retry"] == "false"
    resets_at = budgets.resets_at(SpendPeriod.MONTH, datetime.now(UTC))
    message = answer.error["message"]
    assert f"has 0.000001 USD left until {resets_at:%Y-%m-%d} 00:00 UTC of its" in message
    assert "spend cap of 0.000001 USD per month." in message
    asked = Decimal(message.split("up to ")[1].split()[0])
    assert asked > Decimal("0.001")
    until(lambda: RefusedCalls.objects.filter(account=alice.account, code="key_budget_exceeded", calls=1).exists())
    assert alice.wallet.held == 0


def test_a_cap_in_total_names_no_end(stack: Stack) -> None:
    alice = customer()
    cap(alice, 1, SpendPeriod.TOTAL)
    message = wire.ask(stack.webs[0], alice.secret, chat()).error["message"]
    assert "has 0.000000000001 USD left of its spend cap of 0.000000000001 USD in total." in message


def test_a_raised_cap_holds_at_once_in_every_process(stack: Stack) -> None:
    alice = customer()
    cap(alice, 1)
    assert [wire.ask(web, alice.secret, chat()).status for web in stack.webs] == [402, 402]

    cap(alice, money.PICO_PER_USD)

    assert [wire.ask(web, alice.secret, chat()).status for web in stack.webs] == [200, 200]


def test_an_empty_balance_is_told_as_that_where_the_cap_has_room(stack: Stack) -> None:
    alice = customer(pico=1)
    cap(alice, money.PICO_PER_USD)
    assert wire.ask(stack.webs[0], alice.secret, chat()).error["code"] == "insufficient_balance"


def test_a_call_that_fails_free_gives_its_share_of_the_cap_back(stack: Stack, lab: Lab) -> None:
    alice = customer()
    cap(alice, money.PICO_PER_USD)

    assert wire.ask(stack.webs[0], alice.secret, chat() | {"model": lab.of_closed_port}).status == 503

    assert (budget_of(alice).spent, budget_of(alice).held) == (0, 0)
    assert KeyBudget.objects.filter(line=alice.key).count() == 1
    assert_books_hold()
