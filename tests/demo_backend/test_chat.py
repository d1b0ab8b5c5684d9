"""What a client of the demo backend sees while it is healthy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.demo_backend.process import DemoBackend


@pytest.fixture
def client(demo: DemoBackend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=demo.base_url, api_key="any", max_retries=0) as client:
        yield client


def ask(content: str) -> Any:
    return [{"role": "user", "content": content}]


def test_the_openai_client_reads_a_json_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="glm-5", messages=ask("Explain how tides work."))
    content = answer.choices[0].message.content
    assert content is not None
    assert "Explain how tides work" in content
    assert "glm-5" in content
    assert content.endswith(".")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert 40 <= answer.usage.completion_tokens <= 180
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_openai_client_reads_a_stream_one_token_a_chunk(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="glm-5", messages=ask("Explain tides."), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    usage = chunks[-1].usage
    assert usage is not None
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert len([piece for piece in pieces if piece]) == usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_says_what_the_json_answer_says(demo: DemoBackend) -> None:
    whole = demo.chat("Compare two cities").json
    streamed = demo.stream("Compare two cities", stream_options={"include_usage": True})
    assert "".join(streamed.deltas) == whole["choices"][0]["message"]["content"]
    assert streamed.events[-1]["usage"] == whole["usage"]


def test_other_requests_get_other_answers(demo: DemoBackend) -> None:
    texts = {
        demo.chat("Tell me", model=f"model-{number}").json["choices"][0]["message"]["content"] for number in range(5)
    }
    assert len(texts) == 5


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_asked_number_of_tokens(demo: DemoBackend, name: str) -> None:
    limit: dict[str, Any] = {name: 7}
    reply = demo.stream(stream_options={"include_usage": True}, **limit)
    assert len(reply.deltas) == 7
    assert reply.events[-2]["choices"][0]["finish_reason"] == "length"
    assert reply.events[-1]["usage"]["completion_tokens"] == 7


def test_an_answer_ends_before_a_stop_string_that_begins_and_ends_inside_tokens(demo: DemoBackend) -> None:
    whole = "".join(demo.stream("Stop it").deltas)
    reply = demo.stream("Stop it", stop=whole[20:29], stream_options={"include_usage": True})
    assert "".join(reply.deltas) == whole[:20]
    assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert reply.events[-1]["usage"]["completion_tokens"] == len(reply.deltas)


def test_the_stop_string_that_comes_first_in_the_text_ends_it(demo: DemoBackend) -> None:
    whole = demo.chat("Stop it").json["choices"][0]["message"]["content"]
    answer = demo.chat("Stop it", stop=["never there", whole[60:75], whole[30:45]]).json["choices"][0]
    assert answer["message"]["content"] == whole[:30]
    assert answer["finish_reason"] == "stop"


def test_a_stop_string_after_the_cut_changes_nothing(demo: DemoBackend) -> None:
    whole = "".join(demo.stream("Stop it").deltas)
    reply = demo.stream("Stop it", max_tokens=5, stop=whole[60:75])
    assert reply.events[-1]["choices"][0]["finish_reason"] == "length"


def test_usage_comes_only_when_asked(demo: DemoBackend) -> None:
    assert not any("usage" in event for event in demo.stream().events)
    asked = demo.stream(stream_options={"include_usage": True})
    assert [event["usage"] for event in asked.events[:-1]] == [None] * (len(asked.events) - 1)
    assert asked.events[-1]["choices"] == []
    assert asked.is_done


def test_running_usage_counts_every_chunk(demo: DemoBackend) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = demo.stream(max_tokens=5, stream_options=options)
    assert [event["usage"]["completion_tokens"] for event in reply.events] == [0, 1, 2, 3, 4, 5, 5, 5]


def test_usage_sums_all_choices(demo: DemoBackend) -> None:
    reply = demo.stream(n=3, max_tokens=5, stream_options={"include_usage": True})
    assert {choice["index"] for event in reply.events for choice in event["choices"]} == {0, 1, 2}
    assert len(reply.deltas) == reply.events[-1]["usage"]["completion_tokens"] == 15
    whole = demo.chat(n=3, max_tokens=5).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == 15


def test_a_thinking_model_reasons_first_and_counts_it(demo: DemoBackend) -> None:
    reply = demo.stream("Why?", model="kimi-k2-thinking", stream_options={"include_usage": True})
    kinds = [next(iter(choice["delta"]), None) for event in reply.events[1:] for choice in event["choices"]]
    usage = reply.events[-1]["usage"]
    reasoning_tokens = kinds.count("reasoning_content")
    assert kinds == ["reasoning_content"] * reasoning_tokens + ["content"] * kinds.count("content") + [None]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoning_tokens > 0
    assert usage["completion_tokens"] == len(reply.deltas)
    assert demo.chat("Why?", model="kimi-k2-thinking").json["choices"][0]["message"]["reasoning_content"]


def test_a_prompt_seen_before_is_cached_in_blocks(demo: DemoBackend) -> None:
    prompt = "A long prompt about the sea. " * 40
    first, second = (demo.chat(prompt, max_tokens=1).json["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert cached == (second["prompt_tokens"] - 1) // 64 * 64 > 0


def test_a_longer_conversation_shares_its_beginning(demo: DemoBackend) -> None:
    messages = [{"role": "system", "content": "Rules of the house. " * 50}, *ask("And then?")]
    demo.chat(messages=messages, max_tokens=1)
    longer = [messages[0], *ask("Something else entirely, " * 30)]
    usage = demo.chat(messages=longer, max_tokens=1).json["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"] - 100
    other_model = demo.chat(messages=longer, max_tokens=1, model="another").json["usage"]
    assert other_model["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"messages": None},
        {"messages": []},
        {"messages": [{"content": "no role"}]},
        {"model": None},
        {"n": 0},
        {"n": 1000},
        {"stream": "yes"},
    ],
)
def test_an_impossible_request_is_a_400_in_the_usual_shape(demo: DemoBackend, body: dict[str, Any]) -> None:
    reply = demo.chat(**body)
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


def test_what_is_not_there_is_a_404_in_the_usual_shape(demo: DemoBackend) -> None:
    reply = demo.ask("POST", "/v1/images", {})
    assert reply.status == 404
    assert reply.json["error"]["code"] == 404


def test_it_lists_models_and_is_healthy(demo: DemoBackend) -> None:
    assert demo.ask("GET", "/health").status == 200
    assert demo.ask("GET", "/v1/models").json["data"][0]["object"] == "model"


def test_tokens_come_at_their_pace(demo: DemoBackend) -> None:
    started = time.monotonic()
    demo.stream("[demo: first_token_ms=100 tokens_per_second=100 tokens=20]")
    assert 0.29 <= time.monotonic() - started < 1.5


def test_a_json_answer_waits_no_longer_than_a_second(demo: DemoBackend) -> None:
    started = time.monotonic()
    demo.chat("[demo: tokens_per_second=10 tokens=1000]")
    assert 0.9 <= time.monotonic() - started < 2
