"""Each switch does what it says, seen from the socket, and the journal agrees."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.demo_backend.process import DemoBackend, until

ASKED = {"include_usage": True}


@pytest.fixture
def control(demo: DemoBackend) -> Iterator[DemoBackend]:
    """The demo backend, with nothing left in force afterwards."""
    yield demo
    demo.ask("DELETE", "/control")


def test_an_unknown_switch_is_a_400_that_names_the_known_ones(demo: DemoBackend) -> None:
    message = demo.chat("[demo: tokns=3]").json["error"]["message"]
    assert "'tokns'" in message
    assert "tokens_per_second" in message


@pytest.mark.parametrize("word", ["tokens=many", "tokens=-1", "status=200", "garbage=lots", "no_usage=7", "tokens"])
def test_an_impossible_value_is_a_400(demo: DemoBackend, word: str) -> None:
    assert demo.chat(f"[demo: {word}]").status == 400


def test_only_the_last_user_message_is_looked_at(demo: DemoBackend) -> None:
    earlier = {"role": "user", "content": "[demo: status=503]"}
    parts = [{"type": "text", "text": "Hello [demo: tokens=3]"}]
    messages = [earlier, {"role": "user", "content": parts}, {"role": "assistant", "content": "[demo: status=503]"}]
    reply = demo.stream(messages=messages)
    assert reply.status == 200
    assert len(reply.deltas) == 3


def test_tokens_sets_the_length_and_max_tokens_still_cuts(demo: DemoBackend) -> None:
    assert len(demo.stream("[demo: tokens=300]").deltas) == 300
    assert len(demo.stream("[demo: tokens=300]", model="a-thinking-one").deltas) == 300
    assert len(demo.stream("[demo: tokens=300]", max_tokens=9).deltas) == 9
    assert demo.stream("[demo: tokens=0]").deltas == []


def test_endless_ignores_max_tokens_until_the_client_leaves(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: endless]", stream=True, max_tokens=5)
    with connection.getresponse() as response:
        response.read(100_000)
    connection.close()
    entry = demo.entry(call_id)
    assert entry["tokens_written"] > 100
    assert entry["end"] == "client_gone"
    assert demo.chat("[demo: endless]", max_tokens=5).json["usage"]["completion_tokens"] == 50


@pytest.mark.parametrize(
    ("style", "content_type", "beginning"),
    [
        ("openai", "application/json", b'{"error":{"message"'),
        ("vllm", "application/json", b'{"object":"error"'),
        ("detail", "application/json", b'{"detail"'),
        ("text", "text/plain", b"upstream worker"),
        ("html", "text/html", b"<html>"),
        ("empty", "application/json", b""),
    ],
)
def test_status_refuses_in_the_words_of_many_servers(
    demo: DemoBackend, style: str, content_type: str, beginning: bytes
) -> None:
    reply = demo.stream(f"[demo: status=503 error_body={style} retry_after=2]")
    assert reply.status == 503
    assert reply.headers["Content-Type"] == content_type
    assert reply.headers["Retry-After"] == "2"
    assert reply.body.startswith(beginning)
    entry = demo.entry(reply.call_id)
    assert (entry["end"], entry["status"], entry["accepted_at"]) == ("error", 503, None)


@pytest.mark.parametrize("cut", ["fin", "rst"])
def test_close_before_sends_no_byte(demo: DemoBackend, cut: str) -> None:
    connection, call_id = demo.begin(f"[demo: close_before cut={cut}]", stream=True)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["tokens_written"], entry["status"]) == ("cut", 0, None)


@pytest.mark.parametrize(("cut", "raised"), [("fin", http.client.IncompleteRead), ("rst", ConnectionResetError)])
def test_cut_after_breaks_the_connection_in_the_middle(demo: DemoBackend, cut: str, raised: type[Exception]) -> None:
    reply = demo.stream(f"[demo: cut_after=5 cut={cut} tokens_per_second=500]")
    assert isinstance(reply.error, raised)
    entry = demo.entry(reply.call_id)
    assert (entry["end"], entry["tokens_written"], entry["usage"]) == ("cut", 5, None)


def test_cut_eof_ends_cleanly_without_a_finish(demo: DemoBackend) -> None:
    reply = demo.stream("[demo: cut_after=5 cut=eof]", stream_options=ASKED)
    assert reply.error is None
    assert len(reply.deltas) == 5
    assert all(event["choices"][0]["finish_reason"] is None for event in reply.events)
    assert not reply.is_done


@pytest.mark.parametrize("cut", ["fin", "rst", "eof"])
def test_cut_after_cuts_a_json_answer_in_half(demo: DemoBackend, cut: str) -> None:
    reply = demo.chat(f"[demo: cut_after=5 cut={cut}]")
    assert isinstance(reply.error, ConnectionResetError) == (cut == "rst")
    assert ("Content-Length" in reply.headers) == (cut != "eof")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(reply.body)
    entry = demo.entry(reply.call_id)
    assert (entry["end"], entry["tokens_written"], entry["usage"]) == ("cut", 0, None)


def test_error_after_sends_an_error_frame(demo: DemoBackend) -> None:
    reply = demo.stream("[demo: error_after=3]")
    assert len(reply.deltas) == 3
    assert reply.events[-1]["error"]["code"] == 500
    assert reply.is_done
    assert demo.entry(reply.call_id)["end"] == "error"
    assert demo.chat("[demo: error_after=3]").json["error"]["code"] == 500


@pytest.mark.parametrize("streamed", [True, False])
def test_hang_before_says_nothing_until_the_client_leaves(demo: DemoBackend, streamed: bool) -> None:
    connection, call_id = demo.begin("[demo: hang_before]", stream=streamed)
    until(lambda: demo.entries(call_id))
    assert demo.entries(call_id)[0]["end"] is None
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["tokens_written"]) == ("hung", 0)


def test_hang_after_stops_talking_in_the_middle(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: hang_after=4]", stream=True)
    with connection.getresponse() as response:
        until(lambda: demo.entries(call_id)[0]["tokens_written"] == 4 or None)
        assert response.read1().startswith(b"data: ")
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["tokens_written"]) == ("hung", 4)


def test_no_usage_sends_none_though_it_was_asked(demo: DemoBackend) -> None:
    reply = demo.stream("[demo: no_usage]", stream_options=ASKED)
    assert not any("usage" in event for event in reply.events)
    assert demo.entry(reply.call_id)["usage"] is None
    assert "usage" not in demo.chat("[demo: no_usage]").json


def test_usage_null_sends_null(demo: DemoBackend) -> None:
    assert demo.stream("[demo: usage_null]", stream_options=ASKED).events[-1]["usage"] is None
    assert demo.chat("[demo: usage_null]").json["usage"] is None


@pytest.mark.parametrize(
    ("place", "completions"),
    [("end", [None, None, None, None, 2]), ("finish", [None, None, None, 2]), ("every", [0, 1, 2, 2, 2])],
)
def test_usage_at_places_usage_unasked(demo: DemoBackend, place: str, completions: list[int | None]) -> None:
    events = demo.stream(f"[demo: usage_at={place} tokens=2]").events
    assert [(event.get("usage") or {}).get("completion_tokens") for event in events] == completions


@pytest.mark.parametrize(
    ("word", "sent"),
    [
        ("-5", "-5"),
        ("1000000000000", "1000000000000"),
        ("99999999999999999999999", "99999999999999999999999"),
        ("1.5", "1.5"),
        ("null", "null"),
        ("inf", "1e999"),
        ("nan", "NaN"),
        ("many", '"many"'),
        ("0", "0"),
    ],
)
@pytest.mark.parametrize("name", ["prompt", "completion", "total"])
def test_usage_can_be_absurd(demo: DemoBackend, name: str, word: str, sent: str) -> None:
    expected = f'"{name}_tokens":{sent}'.encode()
    assert expected in demo.stream(f"[demo: usage_{name}={word}]", stream_options=ASKED).body
    reply = demo.chat(f"[demo: usage_{name}={word}]")
    assert expected in reply.body
    assert demo.entry(reply.call_id)["usage"] is not None


def test_usage_can_lack_a_figure_and_wear_other_shapes(demo: DemoBackend) -> None:
    assert "total_tokens" not in demo.chat("[demo: usage_total=omit]").json["usage"]
    details = demo.chat("[demo: usage_cached=7 usage_reasoning=-1]").json["usage"]
    assert details["prompt_tokens_details"] == {"cached_tokens": 7}
    assert details["completion_tokens_details"] == {"reasoning_tokens": -1}
    deepseek = demo.chat("[demo: usage_style=deepseek]").json["usage"]
    assert deepseek["prompt_cache_hit_tokens"] + deepseek["prompt_cache_miss_tokens"] == deepseek["prompt_tokens"]
    assert demo.chat("[demo: usage_style=flat]").json["usage"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("kind", "mark"),
    [("json", b'"object":"chat.completio\n'), ("half_utf8", b'caf\xc3"'), ("sse", b"event: ping\n\n")],
)
def test_garbage_stands_in_the_middle_of_a_stream(demo: DemoBackend, kind: str, mark: bytes) -> None:
    body = demo.stream(f"[demo: garbage={kind} garbage_after=3 tokens=6]").body
    before, garbage, after = body.partition(mark)
    assert garbage
    # The role and three tokens come before it; half a letter is itself a piece of content.
    assert before.count(b'"content":"') == (5 if kind == "half_utf8" else 4)
    assert after.count(b'"content":"') == 3


def test_garbage_can_be_the_whole_answer(demo: DemoBackend) -> None:
    for streamed in (True, False):
        html = demo.chat("[demo: garbage=html]", stream=streamed)
        assert (html.status, html.headers["Content-Type"]) == (200, "text/html")
        assert demo.chat("[demo: garbage=empty]", stream=streamed).body == b""
    assert demo.stream("[demo: garbage=other_kind]").json["object"] == "chat.completion"
    assert demo.chat("[demo: garbage=other_kind]").is_done
    assert b'"caf\xc3"' in demo.chat("[demo: garbage=half_utf8]").body
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(demo.chat("[demo: garbage=json]").body)


def test_an_ending_can_lack_done_or_the_finish(demo: DemoBackend) -> None:
    assert not demo.stream("[demo: no_done]").is_done
    unfinished = demo.stream("[demo: no_finish tokens=3]")
    assert [event["choices"][0]["finish_reason"] for event in unfinished.events] == [None] * 4
    assert unfinished.is_done


@pytest.mark.parametrize(("word", "reason"), [("abort", "abort"), ("null", None)])
def test_the_finish_reason_can_be_strange(demo: DemoBackend, word: str, reason: str | None) -> None:
    marker = f"[demo: finish_reason={word}]"
    assert demo.stream(marker).events[-1]["choices"][0]["finish_reason"] == reason
    assert demo.chat(marker).json["choices"][0]["finish_reason"] == reason


def test_the_form_of_a_stream_can_be_odd(demo: DemoBackend) -> None:
    roles = demo.stream("[demo: roles tokens=2]").events
    assert [event["choices"][0]["delta"].get("role") for event in roles] == ["assistant"] * 3 + [None]
    crlf = demo.stream("[demo: crlf comments=1]").body
    assert crlf.count(b"\r\n") == crlf.count(b"\n") > 4
    assert demo.stream("[demo: comments=3]").body.startswith(b": keep-alive\n\n" * 3 + b"data: ")
    assert demo.stream("[demo: comments_between tokens=5]").body.count(b": keep-alive") == 5
    assert max(len(line) for line in demo.stream("[demo: long_line=300000]").lines) > 300_000


def test_split_writes_small_pieces_and_loses_nothing(demo: DemoBackend) -> None:
    prompt = "Ünïcödé 🙂 please [demo: split=3 tokens=9]"
    plain = demo.chat(prompt, stream=False).json["choices"][0]["message"]["content"]
    assert "".join(demo.stream(prompt).deltas) == plain


def test_blank_lines_come_before_json(demo: DemoBackend) -> None:
    reply = demo.chat("[demo: blank_lines=3]")
    assert reply.body.startswith(b'\n\n\n{"id"')
    assert demo.entry(reply.call_id)["end"] == "done"


def test_a_marker_can_hold_for_the_first_attempts_only(demo: DemoBackend) -> None:
    def status(attempt: str) -> int:
        connection, _ = demo.begin("[demo: status=503 only_attempts=1]", headers={"X-Flint-Attempt": attempt})
        with connection.getresponse() as response:
            response.read()
        connection.close()
        return response.status

    assert [status("1"), status("2"), status("3")] == [503, 200, 200]


def test_a_control_holds_for_every_call_and_a_marker_wins(control: DemoBackend) -> None:
    words: dict[str, Any] = {"status": 500, "retry_after": "9", "no_usage": True, "usage_total": None}
    reply = control.ask("PUT", "/control", words)
    assert reply.json == {"status": "500", "retry_after": "9", "no_usage": "true", "usage_total": "null"}
    assert control.chat("Hello").status == 500
    assert control.chat("[demo: status=429]").status == 429
    assert control.ask("GET", "/control").json["status"] == "500"
    assert control.ask("DELETE", "/control").json == {}
    assert control.chat("Hello").status == 200


def test_a_control_can_hold_for_the_next_calls_only(control: DemoBackend) -> None:
    control.ask("PUT", "/control", {"status": 503, "calls": 2})
    assert [control.chat("Hello").status for _ in range(3)] == [503, 503, 200]


@pytest.mark.parametrize("document", [{"unknown": 1}, {"status": 200}, [1]])
def test_an_impossible_control_is_a_400_and_changes_nothing(control: DemoBackend, document: Any) -> None:
    control.ask("PUT", "/control", {"tokens": 3})
    assert control.ask("PUT", "/control", document).status == 400
    assert control.ask("GET", "/control").json == {"tokens": "3"}
