"""What goes on of what backends send, choice by choice and piece by piece."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import answers, choices
from gateway.answers import Chunks
from gateway.chat import ChatCompletionRequest, Message
from gateway.choices import BackendFailed
from gateway.completions import CompletionRequest
from gateway.embeddings import EmbeddingRequest
from tests.gateway import grammar


def asked(n: int = 1) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[Message(role="user", content="Hello")], n=n)


def event(delta: Any = None, *, finish: Any = None, index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish, **fields}]}


def mended(*events: dict[str, Any], n: int = 1, opened: bool = False) -> list[dict[str, Any]]:
    chunks = Chunks(asked(n), opened=opened)
    return [piece for one in events for piece in chunks.mend(one)["choices"]]


def deltas(*events: dict[str, Any], n: int = 1) -> list[dict[str, Any]]:
    return [piece["delta"] for piece in mended(*events, n=n)]


def tools(*fragments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fragments that go on, of a stream with these."""
    return [
        fragment
        for delta in deltas(*[event({"tool_calls": given}) for given in fragments])
        for fragment in delta["tool_calls"]
    ]


def called(call: Any = None, name: Any = None, arguments: Any = "", **fields: Any) -> dict[str, Any]:
    return {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def test_the_first_delta_carries_the_role_and_a_content_whatever_the_backend_sent() -> None:
    opening = {"role": "assistant", "content": ""}
    assert deltas(event({"role": "assistant"}), event({"content": "a"})) == [opening, {"content": "a"}]
    assert deltas(event({"role": "assistant", "content": None})) == [opening]
    assert deltas(event({"content": "a"}), event({"role": "assistant", "content": "b"})) == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
    ]
    assert deltas(event(None), event(5), event({})) == [opening, {}, {}]


def test_a_choice_that_a_keep_alive_opened_is_not_opened_again() -> None:
    assert [piece["delta"] for piece in mended(event({"role": "assistant", "content": "a"}), opened=True)] == [
        {"content": "a"}
    ]


def test_the_finish_is_alone_and_comes_once() -> None:
    pieces = mended(event({"content": "a"}, finish="stop"), event({"content": "b"}, finish="stop"), event({}))
    assert [(piece["delta"], piece["finish_reason"]) for piece in pieces] == [
        ({"role": "assistant", "content": "a"}, None),
        ({}, "stop"),
    ]
    assert [piece["delta"] for piece in mended(event({"content": "a"}), event({"content": ""}, finish="stop"))] == [
        {"role": "assistant", "content": "a"},
        {},
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        *((reason, reason) for reason in sorted(grammar.FINISH_REASONS)),
        ("eos", "stop"), ("end_turn", "stop"), ("anything", "stop"), ("st\0op", "stop"), ("max_tokens", "length"),
        ("model_length", "length"), ("repetition", "length"), ("tool_use", "tool_calls"), ("safety", "content_filter"),
        (None, None), ("", None), (7, None), (["stop"], None),
    ],
)  # fmt: skip
def test_a_finish_reason_is_one_of_openais(given: Any, told: str | None) -> None:
    assert choices.finish_reason(given) == told


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_a_backend_that_gave_up_has_failed(reason: str) -> None:
    with pytest.raises(BackendFailed, match=reason):
        mended(event({"content": "a"}, finish=reason))
    with pytest.raises(BackendFailed, match=reason):
        answers.whole({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]}, asked())


def test_choices_begin_in_their_order() -> None:
    pieces = mended(event({"content": "c"}, index=2), event({"content": "a"}, index=0), n=3)
    assert [(piece["index"], piece["delta"]) for piece in pieces] == [
        (0, {"role": "assistant", "content": ""}),
        (1, {"role": "assistant", "content": ""}),
        (2, {"role": "assistant", "content": "c"}),
        (0, {"content": "a"}),
    ]


@pytest.mark.parametrize("index", [1, -1, 10**9])
def test_a_choice_that_nobody_asked_for_is_a_failure(index: int) -> None:
    with pytest.raises(BackendFailed):
        mended(event({"content": "a"}, index=index))


@pytest.mark.parametrize("index", [None, "0", [], True, 0.0])
def test_an_index_that_is_none_is_the_first(index: Any) -> None:
    assert mended(event({"content": "a"}, index=index))[0]["index"] == 0


def test_what_vendors_add_is_dropped() -> None:
    extras = {"prompt_logprobs": [1], "stop_reason": 5, "token_ids": [1], "kv_transfer_params": {}, "matched_stop": 2}
    assert mended(event({"content": "a", "token_ids": [1]}, **extras)) == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "a"},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    message: dict[str, Any] = {
        "role": "tool",
        "content": "a",
        "reasoning_details": [],
        "tool_calls": [],
        "function_call": None,
    }
    whole = answers.whole({"choices": [{"message": message, "finish_reason": "stop", **extras}], **extras}, asked())
    assert whole == {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": None,
    }


def test_reasoning_is_told_by_one_name_and_never_as_content() -> None:
    for told in (
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning": "hm", "reasoning_content": None},
    ):
        assert deltas(event(told)) == [{"role": "assistant", "content": "", "reasoning_content": "hm"}]
        (choice,) = answers.whole({"choices": [{"message": told, "finish_reason": "stop"}]}, asked())["choices"]
        assert choice["message"]["reasoning_content"] == "hm"
        assert choice["message"]["content"] is None
        assert "reasoning" not in choice["message"]


def test_a_content_in_parts_is_a_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 5]
    assert deltas(event({"content": parts}))[0]["content"] == "ab"


@pytest.mark.parametrize("content", [5, True, {"text": "a"}])
def test_a_content_that_is_no_text_is_a_failure(content: Any) -> None:
    with pytest.raises(BackendFailed):
        mended(event({"content": content}))
    with pytest.raises(BackendFailed):
        answers.whole({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}, asked())


@pytest.mark.parametrize(
    ("given", "told"), [(None, None), (5, None), ({"content": [1]}, {"content": [1], "refusal": None})]
)
def test_logprobs_are_an_object_or_null(given: Any, told: Any) -> None:
    assert mended(event({"content": "a"}, logprobs=given))[0]["logprobs"] == told


def test_the_parts_of_a_tool_call_are_told_once() -> None:
    assert tools(
        [called("call_1", "f", "", index=0)],
        [called("call_1", "f", '{"a"', index=0)],
        [called("call_1", "f", ":1}", index=0)],
    ) == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]


def test_tool_calls_without_an_index_get_theirs() -> None:
    assert [(one["index"], one.get("id"), one["function"]) for one in tools(
        [called("call_1", "f")], [called(None, None, "{}")], [called("call_2", "g", "{")], [called("call_2", "g", "}")]
    )] == [
        (0, "call_1", {"name": "f", "arguments": ""}),
        (0, None, {"arguments": "{}"}),
        (1, "call_2", {"name": "g", "arguments": "{"}),
        (1, None, {"arguments": "}"}),
    ]  # fmt: skip


def test_parallel_tool_calls_are_dense_from_zero() -> None:
    both = tools([called("a", "f", index=3), called("b", "g", index=7)], [called(arguments="x", index=7)])
    assert [(one["index"], one.get("id")) for one in both] == [(0, "a"), (1, "b"), (1, None)]
    same = tools(
        [called("a", "f", "{}", index=0)], [called("b", "f", "{}", index=0)], [called(None, None, "x", index=0)]
    )
    assert [(one["index"], one.get("id")) for one in same] == [(0, "a"), (1, "b"), (1, None)]
    nameless = tools([called(None, "f", "{}"), called(None, "g", "{}")])
    assert [(one["index"], one["function"]["name"]) for one in nameless] == [(0, "f"), (1, "g")]
    assert len({one["id"] for one in nameless}) == 2


def test_new_ids_without_a_name_go_on_with_the_call() -> None:
    assert [one["index"] for one in tools([called("a", "f", "{", index=0)], [called("z", None, "}", index=0)])] == [
        0,
        0,
    ]


@pytest.mark.parametrize(("given", "told"), [({"a": 1}, '{"a":1}'), (None, ""), ("{}", "{}"), ([], "[]")])
def test_the_arguments_of_a_tool_are_a_text(given: Any, told: str) -> None:
    assert tools([called("a", "f", given, index=0)])[0]["function"]["arguments"] == told
    message = {"content": None, "tool_calls": [called("a", "f", given)]}
    (choice,) = answers.whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]}, asked())["choices"]
    assert choice["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": told}}
    ]


@pytest.mark.parametrize("calls", [5, "f", [5], [{}], [{"function": {"arguments": "{}"}}], [{"function": {"name": 5}}]])
def test_a_whole_tool_call_without_a_name_is_a_failure(calls: Any) -> None:
    with pytest.raises(BackendFailed):
        answers.whole({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}, asked())


def test_the_older_function_call_is_named_once() -> None:
    function = {"name": "f", "arguments": "{"}
    assert [
        delta["function_call"]
        for delta in deltas(event({"function_call": function}), event({"function_call": function}))
    ] == [
        {"name": "f", "arguments": "{"},
        {"arguments": "{"},
    ]


def test_a_whole_answer_is_in_order_and_not_more_than_was_asked_for() -> None:
    given = [{"index": index, "message": {"content": str(index)}, "finish_reason": "stop"} for index in (1, 0)]
    ordered = answers.whole({"choices": given}, asked(2))["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in ordered] == [(0, "0"), (1, "1")]
    with pytest.raises(BackendFailed):
        answers.whole({"choices": given}, asked(1))


@pytest.mark.parametrize(
    "given",
    [{}, {"choices": None}, {"choices": []}, {"choices": [5]}, {"choices": [{}]}, {"choices": [{"message": "a"}]},
     {"choices": [{"message": {"content": "a"}, "finish_reason": None}]}],
)  # fmt: skip
def test_an_answer_that_is_not_whole_is_a_failure(given: dict[str, Any]) -> None:
    with pytest.raises(BackendFailed):
        answers.whole(given, asked())


@pytest.mark.parametrize("vector", [None, {}, ["a"], [True], [1e39], [10**400]])
def test_a_vector_that_cannot_be_packed_is_a_failure(vector: Any) -> None:
    request = EmbeddingRequest(model="m", input="x", encoding_format="base64")
    with pytest.raises(BackendFailed):
        answers.whole({"data": [{"embedding": vector}]}, request)


@pytest.mark.parametrize("given", [{}, {"choices": None}, {"choices": 5}, {"choices": [5]}, {"object": "error"}])
def test_an_event_without_choices_is_a_failure(given: dict[str, Any]) -> None:
    with pytest.raises(BackendFailed):
        mended(given)


def test_a_usage_alone_needs_no_choices() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert Chunks(asked()).mend({"usage": usage}) == {"choices": [], "usage": usage}


USAGE, OTHER = {"prompt_tokens": 5, "completion_tokens": 2}, {"prompt_tokens": 1, "completion_tokens": 1}


@pytest.mark.parametrize(
    ("given", "n", "found"),
    [
        (event(usage=USAGE), 1, USAGE),  # As Moonshot tells it,
        (event(usage=USAGE), 2, None),  # of one choice among several,
        (event() | {"x_groq": {"usage": USAGE}}, 2, USAGE),  # and Groq.
        (event(usage=OTHER) | {"x_groq": {"usage": OTHER}, "usage": USAGE}, 1, USAGE),
        (event(usage=USAGE) | {"x_groq": {"id": "req_1"}, "usage": None}, 1, USAGE),
        (event() | {"x_groq": 5}, 1, None),
    ],
)
def test_the_usage_is_found_where_servers_are_known_to_put_it(given: dict[str, Any], n: int, found: Any) -> None:
    assert Chunks(asked(n)).mend(given)["usage"] == found


def test_silence_opens_then_says_nothing_then_ends_with_the_answer() -> None:
    chunks = Chunks(asked())
    assert chunks.silence() == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert chunks.silence() == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
    chunks.mend(event({}, finish="stop"))
    assert chunks.silence() is None


def test_what_is_cut_off_ends_every_choice_that_has_begun_and_not_ended() -> None:
    chunks = Chunks(asked(3))
    for seen in (event({"content": "a"}), event({"content": "b"}, index=1), event({}, finish="stop")):
        chunks.mend(seen)
    assert [(piece["index"], piece["delta"], piece["finish_reason"]) for piece in chunks.cut_off()] == [
        (1, {}, "length")
    ]
    assert chunks.cut_off() == []
    texts = Chunks(CompletionRequest(model="m", prompt="Once"))
    assert texts.cut_off() == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


def test_plain_completions_keep_to_text() -> None:
    chunks = Chunks(CompletionRequest(model="m", prompt="Once"))
    given = [{"text": "a", "index": 0, "logprobs": {"tokens": ["a"], "x": 1}}, {"text": None, "finish_reason": "eos"}]
    pieces = [piece for one in given for piece in chunks.mend({"choices": [one]})["choices"]]
    assert pieces == [
        {
            "index": 0,
            "text": "a",
            "logprobs": {"tokens": ["a"], "token_logprobs": None, "top_logprobs": None, "text_offset": None},
            "finish_reason": None,
        },
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"},
    ]
    assert chunks.mend({"choices": [{"text": "b"}]})["choices"] == []


def test_plain_completions_tell_logprobs_in_their_own_form() -> None:
    """So does llama.cpp answer: as if it were a chat."""
    likely = [{"token": " fe", "logprob": -1.4}, {"token": "%", "logprob": -1.8}, {"token": []}, 5]
    facts = [{"id": 382, "token": " fe", "logprob": -1.4, "top_logprobs": likely}, {"token": "xa", "logprob": -0.2}]
    answered = {"choices": [{"text": " fexa", "logprobs": {"content": facts}, "finish_reason": "length"}]}
    told = {
        "tokens": [" fe", "xa"],
        "token_logprobs": [-1.4, -0.2],
        "top_logprobs": [{" fe": -1.4, "%": -1.8}, None],
        "text_offset": None,
    }
    request = CompletionRequest(model="m", prompt="Once")
    assert answers.whole(answered, request)["choices"][0]["logprobs"] == told
    assert Chunks(request).mend(answered)["choices"][0]["logprobs"] == told


anything: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 5, 1.5, "", "x", [], [1], [{}], {}, {"a": 1}])
fragments = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 3) | anything,
        "id": st.sampled_from(["a", "b", "", None]) | anything,
        "function": st.fixed_dictionaries(
            {}, optional={"name": st.sampled_from(["f", "g", ""]) | anything, "arguments": anything}
        ),
    },
)
streams = st.lists(
    st.fixed_dictionaries(
        {
            "index": st.integers(0, 2) | anything,
            "delta": anything
            | st.fixed_dictionaries(
                {},
                optional={
                    "role": anything,
                    "content": st.text(max_size=3) | anything,
                    "reasoning": anything,
                    "reasoning_content": st.text(max_size=3) | anything,
                    "refusal": st.text(max_size=3),
                    "tool_calls": st.lists(fragments, max_size=3) | anything,
                    "function_call": st.fixed_dictionaries({}, optional={"name": anything, "arguments": anything}),
                },
            ),
            "finish_reason": st.none() | st.sampled_from(["stop", "eos"]) | anything,
            "logprobs": anything,
        }
    ),
    max_size=8,
)


@given(streams)
def test_whatever_comes_keeps_to_the_grammar_or_is_a_failure(given: list[dict[str, Any]]) -> None:
    chunks = Chunks(asked(3))
    pieces: list[dict[str, Any]] = []
    for choice in given:
        try:
            pieces += chunks.mend({"choices": [choice]})["choices"]
        except BackendFailed:
            break
    sent = [{"object": "chat.completion.chunk", "choices": [piece]} for piece in pieces]
    grammar.check_choices(json.loads(json.dumps(sent)), failed=True)
