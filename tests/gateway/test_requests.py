from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import requests
from gateway.chat import ChatCompletionRequest
from gateway.errors import InvalidRequest
from gateway.requests import Dialect, Parsed
from tests.gateway.customers import chat


def parse(body: Any) -> Parsed:
    return asyncio.run(
        requests.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), ChatCompletionRequest)
    )


def forwarded(**fields: Any) -> dict[str, Any]:
    return as_sent(parse(chat(**fields)))


def as_sent(parsed: Parsed, **dialect: Any) -> dict[str, Any]:
    """What a backend reads."""
    sent = requests.forwarded(parsed, backend_model="theirs", dialect=Dialect(**dialect))
    body: dict[str, Any] = json.loads(msgspec.json.encode(sent))
    return body


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
parameters = [*ChatCompletionRequest.__struct_fields__, "tools", "seed", "logit_bias"]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    only_invalid_request(body)


@given(st.dictionaries(st.sampled_from(parameters) | st.text(max_size=8), json_values, max_size=8))
@example({"max_tokens": 10**400})
@example({"tools": 5})
@example({"seed": float("nan")})
@example({"stop": "\ud800"})
def test_any_json_object_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    only_invalid_request(json.dumps(fields).encode())
    only_invalid_request(json.dumps(chat() | fields).encode())


def only_invalid_request(body: bytes) -> None:
    """What is parsed can be forwarded as JSON, and has a size."""
    try:
        parsed = asyncio.run(requests.parse(body, ChatCompletionRequest))
    except InvalidRequest:
        return
    assert as_sent(parsed)
    assert min(parsed.ascii_bytes, parsed.other_bytes) >= 0
    assert 0 < parsed.prompt_bytes <= 6 * len(body)


def test_a_large_body_is_parsed_like_a_small_one() -> None:
    large = parse(chat("x" * requests.INLINE_BYTES))
    assert (large.ascii_bytes, large.other_bytes) == (requests.INLINE_BYTES, 0)


@pytest.mark.parametrize("text", ["a" * 4_000_000, "\U0001f600" + "a" * 4_000_000, ["ab"] * 100_000])
def test_what_is_kept_of_a_body_takes_no_more_memory_than_it_did(text: Any) -> None:
    body = json.dumps(chat("x", unheard_of=text) if isinstance(text, list) else chat(text)).encode()
    parse(chat())  # What is made once.
    tracemalloc.start()
    try:
        kept = parse(body)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept.fields
    assert size < 1.1 * len(body) + 10_000


def test_what_was_accepted_keeps_nothing_of_the_texts() -> None:
    parsed = parse(chat("a secret", tools=[]))
    parsed.sent()
    assert "secret" not in repr(parsed)


def test_defaults_are_ours_and_the_rest_is_passed_on() -> None:
    body = forwarded(seed=7, logit_bias={"5": 1}, response_format={"type": "json_object"}, user="u")
    assert body == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "How do tides work?"}],
        "max_tokens": 1024,
        "temperature": 0.7,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "stream": False,
        "seed": 7,
        "logit_bias": {"5": 1},
        "response_format": {"type": "json_object"},
        "user": "u",
    }


def test_a_message_keeps_fields_that_we_do_not_know() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}", "x": 1}, "index": 0}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"}
    assert forwarded(messages=[message])["messages"] == [message]


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 1024),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 6, "max_completion_tokens": 6}, 6),
        ({"max_tokens": None, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_either_name_of_max_tokens_counts_and_the_older_goes_out(fields: dict[str, int], limit: int) -> None:
    body = forwarded(**fields)
    assert body["max_tokens"] == limit
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True, "x": 1}])
def test_a_stream_always_asks_the_backend_for_its_usage(options: dict[str, Any] | None) -> None:
    assert forwarded(stream=True, stream_options=options)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in forwarded(stream_options=options)


def test_null_means_absent() -> None:
    assert "stop" not in forwarded(stop=None)
    assert forwarded(temperature=None)["temperature"] == 0.7


@pytest.mark.parametrize("stop", ["", []])
def test_nothing_to_stop_at_is_not_passed_on(stop: Any) -> None:
    assert "stop" not in forwarded(stop=stop)


@pytest.mark.parametrize("stop", ["a", ["a", "b"]])
def test_stop_keeps_its_type(stop: Any) -> None:
    assert forwarded(stop=stop)["stop"] == stop


def test_a_temperature_that_is_almost_zero_stays_what_it_is() -> None:
    assert forwarded(temperature=1.4e-45)["temperature"] == 1.4e-45


SYSTEM, DEVELOPER = ({"role": role, "content": 'say "role":"developer"', "x": 1} for role in ("system", "developer"))


def test_the_role_developer_is_told_as_system_to_a_backend_that_does_not_know_it() -> None:
    parsed = parse(chat(messages=[DEVELOPER, SYSTEM]))
    assert as_sent(parsed)["messages"] == [SYSTEM, SYSTEM]
    assert as_sent(parsed, developer_role=True)["messages"] == [DEVELOPER, SYSTEM]


OURS = {"model", "messages", "max_tokens", "stream"}


def test_a_backend_gets_only_what_its_list_allows() -> None:
    parsed = parse(chat(seed=7, top_k=5, temperature=1, stream=True))
    sent = as_sent(parsed, allowed=frozenset({"seed", "tools"}))
    assert sent.keys() == OURS | {"seed", "stream_options"}


def test_what_a_backend_denies_stays_here_even_if_it_is_ours_or_allowed() -> None:
    parsed = parse(chat(seed=7, top_k=5, stream=True))
    denied = frozenset({"seed", "presence_penalty", "stream_options", "temperature"})
    assert as_sent(parsed, denied=denied).keys() == OURS | {"top_k", "top_p"}
    sent = as_sent(parsed, denied=denied, allowed=frozenset({"seed", "top_k"}))
    assert sent.keys() == OURS | {"top_k"}


def test_no_list_takes_away_what_no_backend_can_do_without() -> None:
    assert as_sent(parse(chat()), denied=frozenset(OURS), allowed=frozenset({"x"})).keys() == OURS


def test_what_is_withheld_from_all_cannot_be_allowed() -> None:
    parsed = parse(chat(chat_template="x"))
    assert as_sent(parsed, allowed=frozenset({"chat_template"})).keys() == OURS


def test_a_parameter_goes_out_by_the_name_that_the_backend_has_for_it() -> None:
    renamed = {"max_tokens": "max_completion_tokens", "temperature": "heat", "reasoning_effort": "thinking"}
    parsed = parse(chat(max_completion_tokens=9, reasoning_effort="low"))
    sent = as_sent(parsed, renamed=renamed)
    assert (sent["max_completion_tokens"], sent["heat"], sent["thinking"]) == (9, 0.7, "low")
    assert not renamed.keys() & sent.keys()


def test_parameters_may_change_names() -> None:
    sent = as_sent(parse(chat(top_k=5, min_p=0.1)), renamed={"top_k": "min_p", "min_p": "top_k"})
    assert (sent["min_p"], sent["top_k"]) == (5, 0.1)


def test_of_two_under_one_name_the_renamed_one_goes_out() -> None:
    sent = as_sent(parse(chat(max_tokens=9, limit=500)), renamed={"max_tokens": "limit"}, added={"limit": 600})
    assert sent["limit"] == 9


def test_lists_know_parameters_by_the_names_that_customers_use() -> None:
    parsed, renamed = parse(chat(seed=7, top_k=5)), {"seed": "dice", "top_k": "k"}
    assert "dice" not in as_sent(parsed, renamed=renamed, denied=frozenset({"seed"}))
    assert as_sent(parsed, renamed=renamed, allowed=frozenset({"seed"})).keys() == OURS | {"dice"}


def test_what_a_backend_is_always_told_takes_the_place_of_what_customers_say() -> None:
    added = {"top_k": 1, "provider": {"sort": "price"}}
    sent = as_sent(parse(chat(top_k=5, provider="x")), allowed=frozenset({"seed"}), added=added)
    assert {name: sent[name] for name in added} == added


@pytest.mark.parametrize("options", [None, {"include_usage": True, "continuous_usage_stats": True}])
def test_a_backend_is_asked_for_the_usage_as_it_can_answer(options: dict[str, bool] | None) -> None:
    assert as_sent(parse(chat(stream=True)), stream_options=options).get("stream_options") == options
    assert "stream_options" not in as_sent(parse(chat()), stream_options=options)


def test_what_steers_a_backend_is_withheld() -> None:
    body = forwarded(**dict.fromkeys(requests.WITHHELD, 1))
    assert not requests.WITHHELD & set(body)


@pytest.mark.parametrize("name", ["chat_template_kwargs", "chat_template_args"])
def test_a_template_gets_variables_and_no_other_template(name: str) -> None:
    variables = {"enable_thinking": False, "thinking_budget": 5}
    smuggled = {"chat_template": "{{ 'x' * 10**9 }}", "tokenize": False, "messages": [], "tools": []}
    assert forwarded(**{name: variables | smuggled})[name] == variables


def test_the_last_of_two_equal_names_counts_everywhere() -> None:
    parsed = parse(b'{"model": "m", "max_tokens": 5, "max_tokens": 9, "messages": [{"role": "user", "content": ""}]}')
    assert parsed.request.output_limit == 9
    assert as_sent(parsed)["max_tokens"] == 9
