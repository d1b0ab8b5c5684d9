"""The journal is what the client saw, and it can be trusted by someone who only has the file."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable

import pytest

from tests.demo_backend.process import AT_ONCE, DemoBackend, until


def test_the_journal_equals_what_the_client_saw(demo: DemoBackend) -> None:
    reply = demo.stream("Tell me more", max_tokens=30, stream_options={"include_usage": True})
    usage = reply.events[-1]["usage"]
    entry = demo.entry(reply.call_id)
    assert entry["usage"] == usage
    assert entry["tokens_written"] == entry["completion_tokens"] == len(reply.deltas) == usage["completion_tokens"]
    assert (entry["prompt_tokens"], entry["cached_tokens"]) == (usage["prompt_tokens"], 0)
    assert (entry["model"], entry["stream"], entry["choices"], entry["max_tokens"]) == ("glm-5", True, 1, 30)
    assert (entry["attempt"], entry["status"], entry["end"]) == ("1", 200, "done")
    accepted_at, ended_at = (datetime.datetime.fromisoformat(entry[name]) for name in ("accepted_at", "ended_at"))
    assert accepted_at < ended_at <= datetime.datetime.now(datetime.UTC)


def test_a_json_answer_is_journalled_like_a_stream(demo: DemoBackend) -> None:
    reply = demo.chat("Tell me more", max_tokens=30)
    entry = demo.entry(reply.call_id)
    assert entry["usage"] == reply.json["usage"]
    assert (entry["stream"], entry["tokens_written"], entry["end"]) == (False, 30, "done")


def test_a_call_is_in_the_file_before_its_first_byte(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: hang_before]", stream=True)
    lines = until(lambda: [line for line in demo.journal_path.read_text().splitlines() if call_id in line])
    connection.close()
    assert [json.loads(line)["event"] for line in lines] == ["accepted"]
    demo.entry(call_id)


def test_the_file_carries_no_word_of_prompts_and_answers(demo: DemoBackend) -> None:
    reply = demo.chat("My secret is xyzzyplugh")
    assert b"xyzzyplugh" in reply.body
    demo.entry(reply.call_id)
    assert "xyzzyplugh" not in demo.journal_path.read_text()


def test_every_attempt_of_a_call_has_its_entry(demo: DemoBackend) -> None:
    for attempt in ("1", "2"):
        connection, _ = demo.begin(headers={"X-Flint-Call-Id": "shared", "X-Flint-Attempt": attempt})
        with connection.getresponse() as response:
            response.read()
        connection.close()
    entries = demo.entries("shared")
    assert [entry["attempt"] for entry in entries] == ["1", "2"]
    assert len({(entry["boot"], entry["serial"]) for entry in entries}) == 2


def test_a_call_without_our_headers_is_journalled_too(demo: DemoBackend) -> None:
    before = demo.stats()["accepted"]
    message = {"role": "user", "content": "Hello"}
    assert demo.ask("POST", "/v1/chat/completions", {"model": "anonymous", "messages": [message]}).status == 200
    assert demo.stats()["accepted"] == before + 1
    entry = next(entry for entry in reversed(demo.ask("GET", "/journal").json) if entry["model"] == "anonymous")
    assert (entry["call_id"], entry["attempt"]) == (None, None)


def test_a_client_that_hangs_up_is_noticed_while_tokens_are_paced(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: tokens_per_second=20 tokens=1000]", stream=True)
    response = connection.getresponse()
    seen = b""
    while seen.count(b'"content":"') < 4:
        seen += response.read1()
    response.close()
    connection.close()
    gone_at = time.monotonic()
    entry = demo.entry(call_id)
    assert time.monotonic() - gone_at < 0.5
    assert entry["end"] == "client_gone"
    assert 3 <= entry["tokens_written"] <= entry["completion_tokens"] <= 20
    assert entry["usage"] is None


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_before_the_first_token_got_nothing(demo: DemoBackend, streamed: bool) -> None:
    connection, call_id = demo.begin("[demo: first_token_ms=60000]", stream=streamed)
    until(lambda: demo.entries(call_id))
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["completion_tokens"], entry["tokens_written"]) == ("client_gone", 0, 0)


def test_a_client_that_leaves_a_json_answer_got_no_token(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: tokens_per_second=200 tokens=100000]")
    until(lambda: demo.entries(call_id))
    time.sleep(0.1)
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["tokens_written"], entry["status"]) == ("client_gone", 0, None)
    assert 0 < entry["completion_tokens"] < 100_000


def test_tokens_that_the_client_does_not_read_are_not_written(demo: DemoBackend) -> None:
    connection, call_id = demo.begin("[demo: endless]", stream=True)
    written = [0]

    def stands_still() -> bool:
        time.sleep(0.05)
        written.extend(entry["tokens_written"] for entry in demo.entries(call_id))
        return written[-1] > 0 and len(set(written[-4:])) == 1

    until(stands_still)
    connection.close()
    entry = demo.entry(call_id)
    assert (entry["end"], entry["tokens_written"]) == ("client_gone", written[-1])
    assert entry["completion_tokens"] > written[-1]


def test_the_stats_count_every_end(demo: DemoBackend) -> None:
    before = demo.stats()
    for marker in ("tokens=3", "status=503", "cut_after=0", "error_after=0"):
        reply = demo.stream(f"[demo: {marker}]")
        demo.entry(reply.call_id)
    after = demo.stats()
    grown = {name: after[name] - before[name] for name in after if name != "boot" and after[name] != before[name]}
    assert grown == {"accepted": 3, "refused": 1, "done": 1, "cut": 1, "error": 1, "tokens_written": 3}


def test_the_journal_survives_a_kill_and_goes_on(start: Callable[..., DemoBackend]) -> None:
    first = start(*AT_ONCE)
    done = first.chat("Hello").call_id
    first.entry(done)
    connection, running = first.begin("[demo: hang_after=3]", stream=True)
    until(lambda: first.entries(running))
    first.process.kill()
    first.stop()
    connection.close()
    with first.journal_path.open("a") as journal:
        journal.write('{"event":"accep')

    second = start(*AT_ONCE)
    assert second.entries(done)[0]["end"] == "done"
    assert second.entries(running)[0]["end"] is None
    again = second.chat("Hello").call_id
    assert second.entry(again)["boot"] != second.entry(done)["boot"]
    events = [json.loads(line)["event"] for line in first.journal_path.read_text().splitlines() if line.endswith("}")]
    assert events == ["accepted", "ended", "accepted", "accepted", "ended"]
