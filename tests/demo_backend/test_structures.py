"""Tools and structured output, as a real server with a willing model answers them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.demo_backend.process import DemoBackend, Reply

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
ARGUMENTS = {"city": "How do tides work", "unit": "celsius"}


class Harbour(BaseModel):
    name: str = Field(min_length=3)
    depth: float
    berths: int = Field(ge=20)
    open: bool
    kind: str | None
    ships: list[Ship] = Field(max_length=3)


class Ship(BaseModel):
    name: str
    length: int


@pytest.fixture
def client(demo: DemoBackend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=demo.base_url, api_key="any", max_retries=0) as client:
        yield client


def calls(reply: Reply) -> list[tuple[str, Any]]:
    message = reply.json["choices"][0]["message"]
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]


def streamed(client: openai.OpenAI, **body: Any) -> Any:
    """As the SDK's own helper puts the fragments together."""
    messages: Any = [{"role": "user", "content": body.pop("content", "How do tides work?")}]
    with client.chat.completions.stream(model="glm-5", messages=messages, **body) as stream:
        return stream.get_final_completion().choices[0].message


def test_a_required_tool_is_called_with_arguments_that_fit(demo: DemoBackend) -> None:
    reply = demo.chat(tools=[WEATHER, CLOCK], tool_choice="required")
    choice = reply.json["choices"][0]
    assert calls(reply) == [("weather", ARGUMENTS)]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert choice["message"]["tool_calls"][0]["id"].startswith("call_")


def test_a_named_tool_is_called(demo: DemoBackend) -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    assert calls(demo.chat(tools=[WEATHER, CLOCK], tool_choice=choice)) == [("clock", {})]


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_no_tool_is_called_unless_it_is_asked_for(demo: DemoBackend, choice: str | None) -> None:
    reply = demo.chat(tools=[WEATHER], tool_choice=choice)
    assert reply.json["choices"][0]["message"]["content"]


def test_the_switch_calls_tools_in_turn_and_the_results_are_answered_in_words(demo: DemoBackend) -> None:
    asked = "How do tides work? [demo: tool_calls=3]"
    reply = demo.chat(asked, tools=[WEATHER, CLOCK])
    assert [name for name, _ in calls(reply)] == ["weather", "clock", "weather"]
    message = reply.json["choices"][0]["message"]
    assert len({call["id"] for call in message["tool_calls"]}) == 3
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "fine"} for call in message["tool_calls"]]
    messages = [{"role": "user", "content": asked}, message, *results]
    after = demo.chat(messages=messages, tools=[WEATHER, CLOCK]).json["choices"][0]
    assert (after["finish_reason"], "tides" in after["message"]["content"]) == ("stop", True)


def test_tools_that_must_not_be_parallel_are_called_one_at_a_time(demo: DemoBackend) -> None:
    reply = demo.chat("Hello [demo: tool_calls=3]", tools=[WEATHER, CLOCK], parallel_tool_calls=False)
    assert [name for name, _ in calls(reply)] == ["weather"]


def test_a_stream_brings_a_call_in_fragments_and_its_name_once(demo: DemoBackend) -> None:
    asked = "How do tides work? [demo: tool_calls=2]"
    reply = demo.stream(asked, tools=[WEATHER, CLOCK], stream_options={"include_usage": True})
    deltas = [choice["delta"] for event in reply.events for choice in event["choices"]]
    fragments = [call for delta in deltas for call in delta.get("tool_calls", [])]
    named = [(call["index"], call["function"]["name"]) for call in fragments if "name" in call["function"]]
    assert named == [(0, "weather"), (1, "clock")]
    assert [call["index"] for call in fragments if "id" in call] == [0, 1]
    joined = "".join(call["function"]["arguments"] for call in fragments if call["index"] == 0)
    assert json.loads(joined) == ARGUMENTS
    assert len(fragments) > 6
    usage = reply.events[-1]["usage"]
    entry = demo.entry(reply.call_id)
    assert usage["completion_tokens"] == len(fragments) == entry["completion_tokens"] == entry["tokens_written"]
    assert reply.events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_stream_calls_what_the_json_answer_calls(demo: DemoBackend, client: openai.OpenAI) -> None:
    asked: Any = {"tools": [WEATHER, CLOCK], "tool_choice": "required"}
    whole = demo.chat(**asked)
    message = streamed(client, **asked)
    assert message.tool_calls is not None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls] == calls(whole)
    assert demo.entry(whole.call_id)["usage"] == whole.json["usage"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_call_is_cut_at_the_asked_number_of_tokens(demo: DemoBackend, streaming: bool) -> None:
    asked = "Hello [demo: tool_calls=2]"
    reply = demo.chat(asked, tools=[WEATHER], max_tokens=5, stream=streaming, stream_options={"include_usage": True})
    entry = demo.entry(reply.call_id)
    assert entry["usage"]["completion_tokens"] == entry["completion_tokens"] == 5
    assert b'"finish_reason":"length"' in reply.body


def test_json_mode_answers_json(demo: DemoBackend) -> None:
    whole = demo.chat(response_format={"type": "json_object"}).json["choices"][0]["message"]["content"]
    assert json.loads(whole)["topic"] == "How do tides work"
    assert "".join(demo.stream(response_format={"type": "json_object"}).deltas) == whole


def test_a_json_schema_is_filled_in(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "How do tides work?"}]
    answer = client.chat.completions.parse(model="glm-5", messages=messages, response_format=Harbour)
    harbour = answer.choices[0].message.parsed
    assert harbour is not None
    assert (harbour.name, harbour.berths, len(harbour.ships)) == ("How do tides work", 20, 2)
    assert answer.choices[0].finish_reason == "stop"


def test_a_schema_within_itself_comes_to_an_end(demo: DemoBackend) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    schema = {"$defs": {"node": node, "loop": {"$ref": "#/$defs/loop"}}, "$ref": "#/$defs/node"}
    for part in (schema, {**schema, "$ref": "#/$defs/loop"}, {**schema, "$ref": "#/nowhere"}):
        wanted = {"type": "json_schema", "json_schema": {"name": "node", "schema": part}}
        json.loads(demo.chat(response_format=wanted).json["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "missing"}}, "tools": [CLOCK]},
        {"tool_choice": "required", "tools": [{"type": "other"}]},
        {"tools": {}},
        {"response_format": {"type": "xml"}},
    ],
)
def test_tools_and_formats_that_cannot_be_are_a_400(demo: DemoBackend, body: dict[str, Any]) -> None:
    assert demo.chat(**body).status == 400


def test_a_marker_may_hold_for_the_first_calls_with_its_text(demo: DemoBackend) -> None:
    text = "Only this one [demo: status=503 only_calls=2]"
    assert [demo.chat(text).status for _ in range(4)] == [503, 503, 200, 200]
    assert demo.chat("Another one [demo: status=503 only_calls=1]").status == 503
