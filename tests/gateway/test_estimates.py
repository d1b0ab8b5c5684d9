"""What a call is held for, and what a customer is told whose prompt or balance does not suffice."""

from __future__ import annotations

import re

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from billing import money
from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab, listed, priced_model, serve
from tests.gateway.customers import Customer, chat, customer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

SMALL_CONTEXT = 100


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


@pytest.fixture(scope="module")
def small(stack: Stack, django_db_blocker: DjangoDbBlocker) -> str:
    """A model that reads little."""
    with django_db_blocker.unblock(), transaction.atomic():
        model = priced_model(context_tokens=SMALL_CONTEXT, max_output_tokens=50)
        serve(factories.unique("small"), stack.backend.base_url, model)
    connection.close()
    until(lambda: model.public_id in listed(stack.webs[0]))
    return model.public_id


def test_a_prompt_that_no_tokenizer_could_make_short_enough_is_refused_here(
    stack: Stack, alice: Customer, small: str
) -> None:
    body = chat("x" * 128 * (SMALL_CONTEXT + 1)) | {"model": small, "max_tokens": 5}
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert answer.error["param"] == "messages"
    assert "This model's maximum context length is 100 tokens" in answer.error["message"]
    assert stack.backend.entries(str(answer.call_id)) == []
    assert alice.wallet.holds_opened == 0


def test_a_prompt_that_might_fit_is_the_backend_s_to_judge(stack: Stack, alice: Customer, small: str) -> None:
    body = chat("x" * 128 * (SMALL_CONTEXT - 1)) | {"model": small, "max_tokens": 5}
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert stack.backend.entries(str(answer.call_id))


def test_n_answers_are_held_for_and_billed_n_times(stack: Stack, lab: Lab, alice: Customer) -> None:
    body = chat("[demo: tokens=5]", n=3, max_tokens=7) | {"model": lab.of_two}
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert len(answer.json["choices"]) == 3
    assert answer.json["usage"]["completion_tokens"] == 15
    record = alice.only_record()
    assert record.output_tokens == 15
    assert record.charge == record.input_tokens * INPUT_RATE + 15 * OUTPUT_RATE
    one = wire.ask(stack.webs[0], alice.secret, body | {"n": 1})
    first, second = alice.settled(2)
    assert one.json["usage"]["prompt_tokens"] == second.input_tokens
    # Both bodies have as many bytes, so only the answers differ.
    assert first.held - second.held == 2 * 7 * OUTPUT_RATE


@pytest.mark.parametrize("choices", [1, 3])
def test_too_little_money_is_told_with_the_max_tokens_that_would_fit(stack: Stack, lab: Lab, choices: int) -> None:
    alice = customer(pico=4000)
    body = chat(max_tokens=9000, n=choices) | {"model": lab.of_two}
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert (answer.status, answer.error["code"]) == (402, "insufficient_balance")
    needed, there = re.findall(r"([0-9.]+) USD", answer.error["message"])
    assert (money.from_usd(there), money.from_usd(needed) > 9000 * OUTPUT_RATE) == (4000, True)
    (fits,) = re.findall(r"max_tokens of at most (\d+)", answer.error["message"])
    # With fewer digits the body, and so its bound, is a few bytes shorter: a little more may fit, but not ten tokens.
    assert wire.ask(stack.webs[0], alice.secret, body | {"max_tokens": int(fits) + 10}).status == 402
    assert wire.ask(stack.webs[0], alice.secret, body | {"max_tokens": int(fits)}).status == 200


def test_where_no_token_would_fit_only_a_top_up_helps(stack: Stack, lab: Lab) -> None:
    alice = customer(pico=10)
    answer = wire.ask(stack.webs[0], alice.secret, chat() | {"model": lab.of_two})
    assert answer.status == 402
    assert "Please top up." in answer.error["message"]
    assert "max_tokens" not in answer.error["message"]
