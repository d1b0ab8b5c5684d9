"""What customers get when backends behave, misbehave and break, and that it is what was recorded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from billing import money
from billing.models import UsageRecord
from billing.usage import Outcome, Source
from gateway import call_state
from tests.billing.stage import nothing_can_be_recorded, wait_until_blocked_by
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, Endless, chunk, usage
from tests.gateway.wire import texts_of
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")

ASK_USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def text(events: list[dict[str, Any] | None]) -> str:
    return "".join(piece for event in events for piece in texts_of(event))


def error_of(events: list[dict[str, Any] | None]) -> dict[str, Any]:
    """The error frame, which is the last one before [DONE]."""
    *_, frame, done = events
    assert done is None
    assert frame is not None
    assert list(frame) == ["error"]
    assert set(frame["error"]) == {"message", "type", "param", "code"}
    return dict(frame["error"])


def assert_figures(shown: dict[str, Any], record: UsageRecord) -> None:
    assert shown["prompt_tokens"] == record.input_tokens
    assert shown["completion_tokens"] == record.output_tokens
    assert shown["total_tokens"] == record.input_tokens + record.output_tokens
    assert shown["prompt_tokens_details"] == {"cached_tokens": record.cached_input_tokens}
    assert shown["cost"] == money.usd(record.charge)


def test_the_first_text_arrives_before_the_backend_writes_the_second(stack: Stack, lab: Lab, alice: Customer) -> None:
    second = threading.Event()
    lab.scripted.play(chunk("one"), second, chunk(" two"), chunk(finish="stop"), usage(3, 2), DONE)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
        assert opened.read(1) == ["one"]
        assert b"accept-encoding: identity" in lab.scripted.head_lines
        second.set()
        assert text(opened.rest()) == " two"


def test_usage_comes_only_if_asked_for_and_is_what_is_recorded(stack: Stack, alice: Customer) -> None:
    _, asked = wire.whole(stack.webs[0], alice.secret, chat(**ASK_USAGE))
    _, unasked = wire.whole(stack.webs[0], alice.secret, chat())
    assert text(asked) == text(unasked) != ""
    assert asked[-1] is None
    assert unasked[-1] is None
    *others, last = [event for event in asked if event is not None]
    assert last["choices"] == []
    assert_figures(last["usage"], alice.settled(2)[0])
    assert all(event["usage"] is None for event in others)
    assert all(event is None or ("usage" not in event and event["choices"]) for event in unasked)


def test_all_chunks_carry_our_id_the_public_name_and_the_time_of_admission(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    head, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_two, **ASK_USAGE))
    record = alice.only_record()
    assert record.id == head.call_id
    identity = {
        "id": f"chatcmpl-{record.id.hex}",
        "object": "chat.completion.chunk",
        "created": int(record.admitted_at.timestamp()),
        "model": lab.of_two,
    }
    assert all(event is None or identity.items() <= event.items() for event in events)
    answer = wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_two))
    assert (answer.json["id"], answer.json["model"]) == (f"chatcmpl-{answer.call_id.hex}", lab.of_two)
    assert answer.json["object"] == "chat.completion"
    assert_figures(answer.json["usage"], alice.settled(2)[1])


def test_a_stream_is_not_cached_and_tells_the_limits(stack: Stack, alice: Customer) -> None:
    head, _ = wire.whole(stack.webs[0], alice.secret, chat(max_tokens=3))
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "no-cache" in head.headers["cache-control"]
    assert head.left("requests") > 0


@pytest.mark.parametrize("cut", ["fin", "rst", "eof"])
def test_a_cut_after_five_tokens_is_an_error_frame_and_a_charge_for_five(
    stack: Stack, lab: Lab, alice: Customer, cut: str
) -> None:
    body = chat(f"[demo: cut_after=5 cut={cut} tokens_per_second=100]", model=lab.of_two)
    _, events = wire.whole(stack.webs[0], alice.secret, body)
    assert error_of(events)["code"] == "service_unavailable"
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.BACKEND_FAILED, Source.ESTIMATED)
    # A backend that resets its connection may take the last bytes with it.
    delivered = sum(len(texts_of(event)) for event in events)
    assert delivered <= record.output_tokens <= delivered + 2
    if cut != "rst":
        assert delivered == 5
    assert record.charge == record.input_tokens * INPUT_RATE + record.output_tokens * OUTPUT_RATE


@pytest.mark.parametrize(
    "switches", ["error_after=3", "garbage=json", "garbage=half_utf8", "no_finish"], ids=lambda words: words[:17]
)
def test_whatever_breaks_after_acceptance_is_an_error_frame_and_one_record(
    stack: Stack, alice: Customer, switches: str
) -> None:
    _, events = wire.whole(stack.webs[0], alice.secret, chat(f"[demo: {switches}]"))
    assert "worker" not in error_of(events)["message"]
    record = alice.only_record()
    assert record.outcome == Outcome.BACKEND_FAILED
    assert record.charge > 0


@pytest.mark.parametrize(
    "switches",
    ["usage_at=finish no_done", "usage_at=every", "usage_style=deepseek", "usage_style=flat", "crlf", "comments=40",
     "comments_between", "split=7", "garbage=sse", "no_done", "long_line=1000000"],
)  # fmt: skip
def test_odd_but_well_formed_streams_are_exact(stack: Stack, alice: Customer, switches: str) -> None:
    head, events = wire.whole(stack.webs[0], alice.secret, chat(f"[demo: tokens=20 {switches}]", **ASK_USAGE))
    record = alice.only_record()
    served = stack.backend.entry(str(head.call_id))
    assert events[-1] is None
    assert events[-2] is not None
    assert_figures(events[-2]["usage"], record)
    assert (record.outcome, record.source) == (Outcome.COMPLETED, Source.BACKEND)
    assert (record.input_tokens, record.output_tokens) == (served["prompt_tokens"], 20)
    assert record.cached_input_tokens == served["cached_tokens"]
    assert sum(len(texts_of(event)) for event in events) == 20


def test_roles_come_once_and_every_choice_has_its_own(stack: Stack, alice: Customer) -> None:
    _, events = wire.whole(stack.webs[0], alice.secret, chat("[demo: roles tokens=4]", n=2))
    choices = [choice for event in events if event for choice in event["choices"]]
    assert sorted(choice["index"] for choice in choices if "role" in choice["delta"]) == [0, 1]


@pytest.mark.parametrize(
    "switches",
    ["no_usage", "usage_null", "usage_prompt=-5", "usage_completion=1.5", "usage_completion=true", "usage_prompt=many",
     "usage_completion=99999999999", "usage_prompt=omit"],
)  # fmt: skip
def test_missing_or_absurd_usage_is_estimated_and_shown_as_charged(
    stack: Stack, alice: Customer, switches: str
) -> None:
    _, events = wire.whole(stack.webs[0], alice.secret, chat(f"[demo: tokens=20 {switches}]", **ASK_USAGE))
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.COMPLETED, Source.ESTIMATED)
    assert 20 <= record.output_tokens <= 40
    assert record.charge > 0
    assert events[-2] is not None
    assert_figures(events[-2]["usage"], record)


def test_a_prompt_of_more_tokens_than_estimated_is_charged_in_full(stack: Stack, lab: Lab, alice: Customer) -> None:
    wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_prompt=40]", model=lab.of_two, max_tokens=5))
    record = alice.only_record()
    assert (record.charge, record.clamped) == (40 * INPUT_RATE + 5 * OUTPUT_RATE, False)


def test_a_believable_usage_beyond_the_hold_is_clamped_and_flagged(stack: Stack, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_completion=5000]", max_tokens=10))
    record = alice.only_record()
    assert_figures(answer.json["usage"], record)
    assert record.clamped
    assert record.charge == record.held
    assert record.output_tokens == 5000


def test_a_json_answer_says_what_it_cost_in_its_head_too(stack: Stack, lab: Lab, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_prompt=40]", model=lab.of_two))
    assert answer.json["usage"]["cost"] == answer.headers["x-flint-cost-usd"] == "0.000000000155"
    assert alice.only_record().charge == 40 * INPUT_RATE + 5 * OUTPUT_RATE == 155


@pytest.mark.parametrize("streamed", [False, True])
def test_a_replayed_answer_says_in_its_head_that_it_cost_nothing(stack: Stack, alice: Customer, streamed: bool) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = [wire.ask(stack.webs[0], alice.secret, chat(stream=streamed), headers=headers) for _ in range(2)]
    assert second.body == first.body
    assert second.headers["x-flint-cost-usd"] == "0"


def test_an_explicit_zero_is_a_value(stack: Stack, alice: Customer) -> None:
    wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_prompt=0 usage_completion=0 usage_cached=0]"))
    record = alice.only_record()
    assert (record.source, record.charge) == (Source.BACKEND, 0)


def test_a_json_answer_after_blank_lines_is_exact(stack: Stack, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat("[demo: blank_lines=5]"))
    assert answer.json["choices"][0]["message"]["content"]
    assert_figures(answer.json["usage"], alice.only_record())


@pytest.mark.parametrize("choices", [1, 2])
def test_an_endless_answer_ends_as_if_max_tokens_had_been_kept_to_and_costs_no_more(
    stack: Stack, alice: Customer, choices: int
) -> None:
    body = chat("[demo: endless]", max_tokens=50, n=choices, **ASK_USAGE)
    head, events = wire.whole(stack.webs[0], alice.secret, body)
    finishes = [choice["finish_reason"] for event in events if event for choice in event["choices"]]
    assert [finish for finish in finishes if finish] == ["length"] * choices
    record = alice.only_record()
    assert events[-2] is not None
    assert_figures(events[-2]["usage"], record)
    assert (record.outcome, record.finish_reason) == (Outcome.COMPLETED, "length")
    assert record.output_tokens == 50 * choices
    assert record.charge <= record.held
    assert stack.backend.entry(str(head.call_id))["end"] == "client_gone"


@pytest.mark.parametrize("piece", [chunk(""), usage(3, 1), chunk(finish=None)], ids=["empty", "usage", "nothing"])
def test_a_stream_that_says_nothing_for_ever_ends(stack: Stack, lab: Lab, alice: Customer, piece: bytes) -> None:
    lab.scripted.play(Endless(piece))
    _, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script, max_tokens=5))
    assert text(events) == ""
    record = alice.only_record()
    assert (record.outcome, record.finish_reason) == (Outcome.COMPLETED, "length")
    assert record.output_tokens <= 1


def test_a_stream_with_one_choice_unfinished_is_not_complete(stack: Stack, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(chunk("a"), chunk("b", index=1), chunk(finish="stop"))
    _, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script, n=2))
    assert error_of(events)
    assert alice.only_record().outcome == Outcome.BACKEND_FAILED


def test_a_backend_that_finishes_but_does_not_end_does_not_keep_the_customer(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    lab.scripted.play(chunk("a"), chunk(finish="stop"), usage(3, 1), threading.Event())
    started = time.monotonic()
    _, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))
    assert time.monotonic() - started < 8
    assert text(events) == "a"
    assert alice.only_record().charge == 3 * INPUT_RATE + 1 * OUTPUT_RATE


def test_a_backend_that_writes_one_choice_after_the_other_has_time_for_all(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    thought = threading.Event()
    first = [chunk("a"), chunk(finish="stop")]
    lab.scripted.play(*first, thought, chunk("b", index=1), chunk(finish="stop", index=1), usage(3, 2), DONE)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script, n=2)) as opened:
        events = opened.events()
        assert texts_of(next(events)) == ["a"]
        threading.Timer(call_state.GOODBYE_SECONDS + 1, thought.set).start()
        assert text(list(events)) == "b"
    assert alice.only_record().outcome == Outcome.COMPLETED


def test_a_line_that_does_not_end_breaks_the_stream_within_bounds(stack: Stack, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(chunk("a"), b"data: " + b"x" * (5 * 2**20), threading.Event())
    _, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))
    assert error_of(events)


def test_odd_fields_in_a_chunk_do_no_harm(stack: Stack, lab: Lab, alice: Customer) -> None:
    odd = b'data: {"choices": [{"index": [], "delta": {"content": "a", "tool_calls": 5}, "finish_reason": 7}]}\n\n'
    lab.scripted.play(odd, chunk(finish="st\0op"), usage(3, 1), DONE)
    _, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))
    assert text(events) == "a"
    record = alice.only_record()
    assert (record.outcome, record.finish_reason, record.output_tokens) == (Outcome.COMPLETED, "stop", 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_last_bytes_wait_for_the_record(stack: Stack, alice: Customer, streamed: bool) -> None:
    with ThreadPoolExecutor() as pool:
        with nothing_can_be_recorded() as other:
            asked = pool.submit(wire.ask, stack.webs[0], alice.secret, chat(stream=streamed))
            wait_until_blocked_by(other)
            other.execute("SELECT pg_sleep(0.2)")
            assert not asked.done()
        answer = asked.result()
    assert answer.status == 200
    assert [record.pk for record in alice.records] == [answer.call_id]


def test_the_sdk_reads_a_stream_and_its_error(stack: Stack, alice: Customer) -> None:
    started = time.monotonic()
    messages: Any = [{"role": "user", "content": "[demo: cut_after=5]"}]
    with alice.openai(stack.api_base) as client, pytest.raises(openai.APIError, match="backend failed"):
        list(client.chat.completions.create(model="glm-5", messages=messages, stream=True))
    assert time.monotonic() - started < 5
