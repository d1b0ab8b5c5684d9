"""Flint before inference servers that nobody here wrote, each with a tiny model of random weights.

Both have the same model, so they say the same. Every call is billed by the server's own count where it tells one, else
by ours: a token for each piece of a stream or for four bytes, whichever is more, and four bytes a token for a prompt.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from billing.models import UsageRecord
from billing.usage import Outcome, Source
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE
from tests.gateway.customers import Customer, customer
from tests.inference.conftest import Served
from tests.stack import Stack

pytestmark = [pytest.mark.usefixtures("committed"), pytest.mark.timeout(600)]  # The first test installs the server.

QUESTION = "Why do the tides come and go?"
ESTIMATE = -(-len(QUESTION) // 4) + 4
CHAT, PLAIN = "/chat/completions", "/completions"


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def asked(question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 20, "temperature": 0, **fields}


def counted(usage: dict[str, Any]) -> tuple[int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"]


def assert_billed(record: UsageRecord, tokens: tuple[int, int], source: Source) -> None:
    assert (record.input_tokens, record.output_tokens) == tokens
    assert record.source == source
    assert record.charge == tokens[0] * INPUT_RATE + tokens[1] * OUTPUT_RATE
    assert not record.clamped


def test_an_answer_is_billed_by_the_servers_own_count(stack: Stack, served: Served, alice: Customer) -> None:
    own = served.answer(CHAT, asked())
    answer = wire.ask(stack.webs[0], alice.secret, asked(model=served.chat))
    assert answer.json["choices"][0]["message"]["content"] == own["choices"][0]["message"]["content"]
    assert counted(answer.json["usage"]) == counted(own["usage"])
    record = alice.only_record()
    assert_billed(record, counted(own["usage"]), Source.BACKEND)
    assert (record.output_tokens, record.finish_reason, record.backend) == (20, "length", served.backend)


def test_a_stream_is_billed_by_the_servers_own_count(stack: Stack, served: Served, alice: Customer) -> None:
    own = served.answer(CHAT, asked())
    body = asked(model=served.chat, stream_options={"include_usage": True})
    with wire.stream(stack.webs[0], alice.secret, body) as stream:
        events = stream.rest()
    text = "".join(text for event in events for text in wire.texts_of(event))
    assert text == own["choices"][0]["message"]["content"]
    assert counted((events[-2] or {})["usage"]) == counted(own["usage"])
    assert_billed(alice.only_record(), counted(own["usage"]), Source.BACKEND)


def test_the_openai_client_reads_its_stream(stack: Stack, served: Served, alice: Customer) -> None:
    own = served.answer(CHAT, asked())
    with alice.openai(stack.api_base) as client:
        chunks = list(client.chat.completions.create(**asked(model=served.chat, stream=True)))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == own["choices"][0]["message"]["content"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


@pytest.mark.parametrize("streamed", [False, True])
def test_plain_completions_are_billed_by_the_servers_own_count(
    stack: Stack, served: Served, alice: Customer, streamed: bool
) -> None:
    body = {"prompt": QUESTION, "max_tokens": 20, "temperature": 0}
    own = served.answer(PLAIN, body)
    answer = wire.ask(
        stack.webs[0], alice.secret, {**body, "model": served.completion, "stream": streamed}, path="/v1/completions"
    )
    said = wire.events_of(answer.body) if streamed else [answer.json]
    texts = [choice["text"] for event in said for choice in (event or {}).get("choices", [])]
    assert "".join(texts) == own["choices"][0]["text"]
    assert_billed(alice.only_record(), counted(own["usage"]), Source.BACKEND)


def test_a_stop_sequence_ends_the_answer_and_the_bill(stack: Stack, served: Served, alice: Customer) -> None:
    with wire.stream(stack.webs[0], alice.secret, asked(model=served.chat)) as stream:
        pieces = [text for event in stream.rest() for text in wire.texts_of(event)]
    body = asked(stop=[pieces[8]])
    own = served.answer(CHAT, body)
    answer = wire.ask(stack.webs[0], alice.secret, body | {"model": served.chat})
    (choice,) = answer.json["choices"]
    text = "".join(pieces)
    assert choice["message"]["content"] == text[: text.index(pieces[8])]
    assert choice["finish_reason"] == "stop"
    record = alice.settled(2)[1]
    assert_billed(record, counted(own["usage"]), Source.BACKEND)
    assert record.output_tokens < 20


def test_one_who_hangs_up_pays_what_came_and_the_server_stops(stack: Stack, served: Served, alice: Customer) -> None:
    with wire.stream(stack.webs[0], alice.secret, asked(model=served.chat, max_tokens=3000)) as stream:
        stream.read(5)
        stream.hang_up()
    left_at = time.monotonic()
    record = alice.only_record()
    assert record.outcome == Outcome.CLIENT_CLOSED
    assert 5 <= record.output_tokens < 1500
    assert_billed(record, (ESTIMATE, record.output_tokens), Source.ESTIMATED)
    # The server does one thing after the other, or two: a long answer that nobody reads would hold up these.
    for _ in range(3):
        served.answer(CHAT, asked(max_tokens=1))
    assert time.monotonic() - left_at < 10


def test_a_prompt_that_does_not_fit(stack: Stack, served: Served, alice: Customer) -> None:
    """Where the server refuses it, the call is free. Where it reads on, a count beyond the context is not believed."""
    body = asked("lo " * 3100, model=served.chat, max_tokens=5)
    answer = wire.ask(stack.webs[0], alice.secret, body)
    if served.server.bounds_prompts:
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert not alice.records
        assert not alice.wallet.held
        return
    said = answer.json["choices"][0]["message"]["content"]
    assert_billed(alice.only_record(), (9300 // 4 + 4, -(-len(said.encode()) // 4)), Source.ESTIMATED)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_image_for_a_model_without_eyes(stack: Stack, served: Served, alice: Customer, streamed: bool) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = asked(model=served.chat, messages=[{"role": "user", "content": [picture]}], stream=streamed)
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert not alice.wallet.held


def test_a_stream_of_two_choices_is_billed_for_both(stack: Stack, served: Served, alice: Customer) -> None:
    """MLX gives one, whatever `n` is. llama.cpp gives both and counts them apart, which is no count of the call."""
    body = asked(model=served.chat, n=2, stream=True)
    events = wire.events_of(wire.ask(stack.webs[0], alice.secret, body).body)
    choices = [choice for event in events for choice in (event or {}).get("choices", [])]
    record = alice.only_record()
    if served.server.gives_choices:
        assert {choice["index"] for choice in choices} == {0, 1}
        assert_billed(record, (ESTIMATE, 40), Source.ESTIMATED)
    else:
        assert {choice["index"] for choice in choices} == {0}
        assert_billed(record, counted(served.answer(CHAT, asked())["usage"]), Source.BACKEND)


def test_a_stream_without_a_usage_is_billed_by_our_count(stack: Stack, served: Served, alice: Customer) -> None:
    """Where the backend is not asked for it, neither server sends one."""
    with wire.stream(stack.webs[0], alice.secret, asked(model=served.terse)) as stream:
        pieces = [text for event in stream.rest() for text in wire.texts_of(event)]
    record = alice.only_record()
    assert_billed(record, (ESTIMATE, len(pieces)), Source.ESTIMATED)
    assert record.outcome == Outcome.COMPLETED
    own = served.answer(CHAT, asked())["usage"]
    assert abs(record.output_tokens - own["completion_tokens"]) <= 1


def test_n_that_a_backend_is_not_sent_gives_and_costs_one(stack: Stack, served: Served, alice: Customer) -> None:
    """llama.cpp counts one of several choices, also where it gives them all: such a backend is better not sent n."""
    answer = wire.ask(stack.webs[0], alice.secret, asked(model=served.terse, n=2))
    assert len(answer.json["choices"]) == 1
    assert_billed(alice.only_record(), counted(served.answer(CHAT, asked())["usage"]), Source.BACKEND)


def test_the_servers_own_words_for_our_parameters_are_withheld(stack: Stack, served: Served, alice: Customer) -> None:
    """llama.cpp prefers `n_predict` to max_tokens and `n_cmpl` to n; MLX loads the model that `draft_model` names."""
    body = asked(model=served.chat, n_predict=200, n_cmpl=2, draft_model="/etc", num_draft_tokens=9)
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert len(answer.json["choices"]) == 1
    assert answer.json["usage"]["completion_tokens"] == 20


def test_a_customers_own_template_is_withheld(stack: Stack, served: Served, alice: Customer) -> None:
    """MLX would fill it in, and what it makes could be longer than what was held."""
    own = served.answer(CHAT, asked())
    template = {"chat_template": "{% for _ in range(500) %}so {% endfor %}", "enable_thinking": False}
    answer = wire.ask(stack.webs[0], alice.secret, asked(model=served.chat, chat_template_kwargs=template))
    assert counted(answer.json["usage"]) == counted(own["usage"])


def test_the_books_hold_after_all_of_it(served: Served) -> None:
    assert_books_hold()
