"""The torture matrix: whatever a backend sends, clients get a stream that none of them stumbles over.

`wire.stream` checks the bytes of each against the whole grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pytest_django import DjangoDbBlocker

from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import JSON_HEAD
from tests.gateway.torture import ROWS, WHOLES, Row
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def name_of(row: Row) -> str:
    return row.name.replace(" ", "-")


streams = pytest.mark.parametrize("row", ROWS, ids=name_of)

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
ASK_USAGE: Any = {"include_usage": True}


@pytest.fixture(scope="module")
def alice(stack: Stack, django_db_blocker: DjangoDbBlocker) -> Customer:
    with django_db_blocker.unblock():
        return customer()


@pytest.fixture(scope="module")
def client(stack: Stack, alice: Customer) -> Iterator[OpenAI]:
    with alice.openai(stack.api_base) as client:
        yield client


@streams
def test_what_comes_keeps_to_the_grammar(stack: Stack, lab: Lab, alice: Customer, row: Row) -> None:
    lab.scripted.play(*row.script)
    body = chat(model=lab.of_script, stream_options=ASK_USAGE, **row.asked)
    _, (*events, last, done) = wire.whole(stack.webs[0], alice.secret, body)
    choices = [choice for event in events if event for choice in event["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == 0)
    assert (text, done) == (row.text, None)
    assert last is not None
    assert ("error" in last) == row.fails
    if not row.fails and row.tokens is not None:
        assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == row.tokens


@streams
def test_the_sdk_reads_it(client: OpenAI, lab: Lab, row: Row) -> None:
    lab.scripted.play(*row.script)
    stream = client.chat.completions.create(model=lab.of_script, messages=MESSAGES, stream=True, **row.asked)
    if row.fails:
        with pytest.raises(openai.APIError, match="backend failed"):
            list(stream)
        return
    choices = [choice for piece in stream for choice in piece.choices]
    assert "".join(choice.delta.content or "" for choice in choices if choice.index == 0) == row.text
    assert choices[-1].finish_reason == row.finish


@streams
def test_the_sdk_puts_it_together(client: OpenAI, lab: Lab, row: Row) -> None:
    lab.scripted.play(*row.script)
    asked: Any = {"model": lab.of_script, "messages": MESSAGES, "stream_options": ASK_USAGE, **row.asked}
    with client.chat.completions.stream(**asked) as stream:
        if row.fails:
            with pytest.raises(openai.APIError, match="backend failed"):
                stream.get_final_completion()
            return
        whole = stream.get_final_completion()
    assert_is_asked_for(whole, row)


@pytest.mark.parametrize("row", WHOLES, ids=name_of)
def test_the_sdk_reads_a_json_answer(client: OpenAI, lab: Lab, row: Row) -> None:
    lab.scripted.play(*row.script, head=JSON_HEAD)
    if row.fails:
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=lab.of_script, messages=MESSAGES)
        assert (refused.value.status_code, refused.value.code) == (503, "model_unavailable")
        return
    whole = client.chat.completions.create(model=lab.of_script, messages=MESSAGES)
    assert_is_asked_for(whole, row)
    ChatCompletion.model_validate(whole.to_dict(), strict=True)


def assert_is_asked_for(whole: ChatCompletion, row: Row) -> None:
    message = whole.choices[0].message
    assert (message.role, message.content, whole.choices[0].finish_reason) == ("assistant", row.text, row.finish)
    called = [call.function for call in message.tool_calls or [] if call.type == "function"]
    calls = [(function.name, json.loads(function.arguments)) for function in called]
    assert calls == row.calls
    assert whole.usage is not None
    if row.tokens is not None:
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == row.tokens
