"""What backends do wrong: what the customer gets of it, the row that staff find, and what Prometheus is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from billing.models import UsageRecord
from billing.usage import Outcome, Source
from gateway.faults import Fault
from gateway.models import Attempt
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, HEAD, JSON_HEAD, Endless, Step, chunk, usage
from tests.gateway.torture import ERROR, answer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

Result = Attempt.Result

PAGE = b"\n<!doctype html>\n<html><body>Bad gateway</body></html>\n"
TEXT, FINISH = chunk("Hello"), chunk(finish="stop")
NOISE = Endless(b": " + b"x" * 1000 + b"\n\n")
TOKENS = (7, 1)


@dataclass(frozen=True)
class Free:
    """A call that nobody could serve."""

    fault: Fault
    script: Sequence[Step]
    head: bytes = HEAD
    result: Result = Result.GARBAGE


STREAMS_FREE = [
    Free(Fault.NOTHING, []),
    Free(Fault.NOTHING, [b": patience\n\n\n\n"]),
    Free(Fault.HTML, [PAGE]),
    Free(Fault.HTML, [PAGE.strip()], HEAD.replace(b"text/event-stream", b"text/html")),
    Free(Fault.NOT_JSON, [b"data: Hello\n\n"]),
    Free(Fault.NOT_JSON, [b"Hello"]),
    Free(Fault.NOT_JSON, [b'data: {"choices": [\xff\xfe]}\n\n']),
    Free(Fault.WRONG_SHAPE, [b"data: 7\n\n"]),
    Free(Fault.WRONG_SHAPE, [b'data: {"id": "x"}\n\n']),
    Free(Fault.ERROR, [ERROR]),
    Free(Fault.NO_FINISH, [DONE]),
    Free(Fault.TOO_LARGE, [b"data: ", Endless(b"x" * 65536)]),
    Free(Fault.TOO_LARGE, [Endless(b"data: x\n")]),
    Free(Fault.TOO_LARGE, [NOISE]),
]
WHOLES_FREE = [
    Free(Fault.NOTHING, [b"\r\n\n"]),
    Free(Fault.HTML, [PAGE]),
    Free(Fault.NOT_JSON, [answer({"content": "Hello"})[:-20]]),
    Free(Fault.NOT_JSON, [answer({"content": "Hello"}).replace(b"Hello", b"\xff\xfe")]),
    Free(Fault.WRONG_SHAPE, [b"[]"]),
    Free(Fault.WRONG_SHAPE, [b"{}"]),
    Free(Fault.ERROR, [b'{"error": {"message": "out of memory"}}']),
    Free(Fault.NO_FINISH, [answer({"content": "Hello"}, finish=None)]),
    Free(Fault.GIVEN_UP, [answer({"content": "Hello"}, finish="abort")]),
    Free(Fault.TOO_LARGE, [Endless(b"\n" * 65536)]),
]


@dataclass(frozen=True)
class Paid:
    """A call that ends with an error frame after some text, or whole."""

    fault: str
    script: Sequence[Step]
    result: Result = Result.OK
    tokens: tuple[int, int] | None = None  # That the backend told and we believed.


STREAMS_BROKEN = [
    Paid(Fault.NOT_JSON, [b"data: {\n\n"], Result.GARBAGE),
    Paid(Fault.ERROR, [ERROR], Result.GARBAGE),
    Paid(Fault.GIVEN_UP, [chunk(finish="abort")], Result.GARBAGE),
    Paid(Fault.WRONG_SHAPE, [chunk("no", index=4)], Result.GARBAGE),
    Paid(Fault.TOO_LARGE, [NOISE], Result.GARBAGE),
    Paid(Fault.NO_FINISH, [DONE], Result.BROKEN),
    Paid(Fault.NO_FINISH, [usage(*TOKENS)], Result.BROKEN, TOKENS),
]


def counted(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


USAGES: list[tuple[str, Any, tuple[int, int] | None]] = [
    ("", counted(*TOKENS), TOKENS),
    (Fault.USAGE_MISSING, None, None),
    (Fault.USAGE_NEGATIVE, counted(-7, 1), None),
    (Fault.USAGE_NEGATIVE, counted(7, -1), None),
    (Fault.USAGE_ABSURD, counted(7, 10**9), None),
    (Fault.USAGE_ABSURD, counted(10**30, 1), None),
    (Fault.USAGE_MALFORMED, counted("7", 1), None),
    (Fault.USAGE_MALFORMED, counted(7, 1.5), None),
    (Fault.USAGE_MALFORMED, {"prompt_tokens": 7}, None),
    (Fault.USAGE_MALFORMED, "7", None),
    (Fault.USAGE_ZERO, counted(0, 0), (0, 0)),
    (Fault.USAGE_ZERO, counted(7, 0), (7, 0)),
    (Fault.USAGE_ZERO, counted(0, 1), (0, 1)),
]


def told(given: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [], "usage": given}).encode() + b"\n\n"


REPEATED = [
    Paid("", [TEXT, FINISH, told(counted(*TOKENS)), told(counted(*TOKENS)), DONE], tokens=TOKENS),
    Paid("", [told(counted(7, 0)), TEXT, told(counted(*TOKENS)), FINISH, DONE], tokens=TOKENS),
    Paid("", [told(counted(-1, 0)), TEXT, FINISH, told(counted(*TOKENS)), DONE], tokens=TOKENS),
    Paid(Fault.USAGE_FELL, [TEXT, FINISH, told(counted(*TOKENS)), told(counted(0, 0)), DONE], tokens=TOKENS),
    Paid(Fault.USAGE_NEGATIVE, [TEXT, FINISH, told(counted(*TOKENS)), told(counted(7, -1)), DONE], tokens=TOKENS),
    Paid(Fault.USAGE_MISSING, [told(counted(*TOKENS)), TEXT, FINISH, DONE]),
]


def by_fault(row: Free | Paid | tuple[str, Any, Any]) -> str:
    return (row[0] if isinstance(row, tuple) else row.fault) or "no_fault"


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def counts(web: WebProcess) -> dict[str, float]:
    """Of faults, by their names, of all backends."""
    scraped = wire.ask(web, None, method="GET", path="/metrics").body.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            if sample.name == "flint_backend_faults_total":
                name = sample.labels["fault"]
                found[name] = found.get(name, 0) + sample.value
    return found


def played(stack: Stack, lab: Lab, alice: Customer, *script: Step, head: bytes, **asked: Any) -> tuple[Any, Attempt]:
    """The answer, and the row of its one attempt, which was counted once by the name of its fault."""
    before = counts(stack.webs[0])
    lab.scripted.play(*script, head=head)
    answered = wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_script, **asked))
    attempt = until(lambda: Attempt.objects.filter(call_id=answered.call_id).first())
    assert attempt is not None
    now = counts(stack.webs[0])
    risen = {name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)}
    assert risen == ({attempt.fault: 1} if attempt.fault else {})
    return answered, attempt


@pytest.mark.parametrize("row", STREAMS_FREE, ids=by_fault)
def test_a_stream_that_is_wrong_from_the_start_is_free(stack: Stack, lab: Lab, alice: Customer, row: Free) -> None:
    refused, attempt = played(stack, lab, alice, *row.script, head=row.head, stream=True)
    assert_free(refused, attempt, alice, row)


@pytest.mark.parametrize("row", WHOLES_FREE, ids=by_fault)
def test_a_json_answer_that_is_wrong_is_free(stack: Stack, lab: Lab, alice: Customer, row: Free) -> None:
    refused, attempt = played(stack, lab, alice, *row.script, head=JSON_HEAD)
    assert_free(refused, attempt, alice, row)


def assert_free(refused: wire.Answer, attempt: Attempt, alice: Customer, row: Free) -> None:
    assert (refused.status, refused.error["code"]) == (503, "model_unavailable")
    assert (attempt.result, attempt.fault, attempt.status) == (row.result, row.fault, 200)
    until(lambda: not alice.holds)
    assert not alice.records


@pytest.mark.parametrize("row", STREAMS_BROKEN, ids=by_fault)
def test_what_goes_wrong_later_is_an_error_frame_and_what_was_produced_is_paid(
    stack: Stack, lab: Lab, alice: Customer, row: Paid
) -> None:
    answered, attempt = played(stack, lab, alice, TEXT, *row.script, head=HEAD, stream=True)
    *_, last, done = wire.events_of(answered.body)
    assert (list(last or {}), done) == (["error"], None)
    record = assert_row(attempt, alice, row)
    assert record.outcome == Outcome.BACKEND_FAILED


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("row", USAGES, ids=by_fault)
def test_a_usage_is_charged_as_told_or_estimated(
    stack: Stack, lab: Lab, alice: Customer, row: tuple[str, Any, tuple[int, int] | None], streamed: bool
) -> None:
    fault, given, tokens = row
    whole = json.dumps(json.loads(answer({"content": "Hello"})) | {"usage": given}).encode()
    script, head = ([TEXT, FINISH, told(given), DONE], HEAD) if streamed else ([whole], JSON_HEAD)
    answered, attempt = played(stack, lab, alice, *script, head=head, stream=streamed)
    assert answered.status == 200
    record = assert_row(attempt, alice, Paid(fault, script, tokens=tokens))
    assert record.outcome == Outcome.COMPLETED


@pytest.mark.parametrize("row", REPEATED, ids=by_fault)
def test_of_a_usage_that_comes_again_the_last_one_counts_unless_it_falls(
    stack: Stack, lab: Lab, alice: Customer, row: Paid
) -> None:
    _, attempt = played(stack, lab, alice, *row.script, head=HEAD, stream=True)
    assert assert_row(attempt, alice, row).outcome == Outcome.COMPLETED


def assert_row(attempt: Attempt, alice: Customer, row: Paid) -> UsageRecord:
    """The record of the call, which says the same as the attempt."""
    record = alice.only_record()
    assert (attempt.result, attempt.fault, attempt.status) == (row.result, row.fault, 200)
    assert (attempt.input_tokens, attempt.output_tokens) == (record.input_tokens, record.output_tokens)
    assert record.source == (Source.ESTIMATED if row.tokens is None else Source.BACKEND)
    assert attempt.estimated == (row.tokens is None)
    if row.tokens is not None:
        assert (record.input_tokens, record.output_tokens) == row.tokens
    assert record.charge == record.input_tokens * INPUT_RATE + record.output_tokens * OUTPUT_RATE <= record.held
    return record


def test_an_answer_without_end_is_found_as_well(stack: Stack, lab: Lab, alice: Customer) -> None:
    _, attempt = played(stack, lab, alice, Endless(TEXT), head=HEAD, stream=True, max_tokens=5)
    assert (attempt.result, attempt.fault, attempt.output_tokens) == (Result.OK, Fault.ENDLESS, 5)
    whole = answer({"content": "word " * 500})
    _, attempt = played(stack, lab, alice, whole, head=JSON_HEAD, max_tokens=5)
    assert (attempt.result, attempt.fault, attempt.output_tokens) == (Result.OK, Fault.ENDLESS, 2)
