"""Every attempt at a backend leaves a row that staff can find, also of calls that are free."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from billing import partitions
from gateway import attempts
from gateway.models import Attempt
from tests import factories
from tests.billing.stage import another_connection
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import web_process
from tests.gateway.scripted import DONE, chunk, usage
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

Result = Attempt.Result


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def made(call: UUID, number: int = 1) -> list[Attempt]:
    """The attempts of a call, once there are so many."""
    rows = Attempt.objects.filter(call_id=call).order_by("number")
    until(lambda: rows.count() == number)
    return list(rows)


@pytest.mark.parametrize(
    ("switches", "result", "status"),
    [
        ("status=503", Result.STATUS, 503),
        ("status=429 retry_after=1", Result.STATUS, 429),
        ("status=400", Result.PROMPT_REFUSED, 400),
        ("garbage=html", Result.GARBAGE, 200),
        ("garbage=empty", Result.GARBAGE, 200),
    ],
)
def test_an_attempt_of_a_free_call_says_how_it_failed(
    stack: Stack, alice: Customer, switches: str, result: Result, status: int
) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(f"[demo: {switches}]", stream=True))
    (attempt,) = made(answer.call_id)
    assert (attempt.result, attempt.status, attempt.backend) == (result, status, "demo")
    assert (attempt.input_tokens, attempt.output_tokens, attempt.first_event_ms) == (0, 0, None)
    assert not alice.records


def test_a_backend_that_is_not_there_is_no_connection(stack: Stack, lab: Lab, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_closed_port))
    (attempt,) = made(answer.call_id)
    assert (attempt.result, attempt.status) == (Result.NO_CONNECTION, None)


def test_the_failed_and_the_successful_attempt_of_a_call_are_rows(stack: Stack, lab: Lab, alice: Customer) -> None:
    body = chat("[demo: status=503 only_attempts=1]", model=lab.of_two, stream=True)
    head, _ = wire.whole(stack.webs[0], alice.secret, body)
    first, second = made(head.call_id, 2)
    record = alice.only_record()
    assert (first.backend, first.result, first.status) == (lab.first, Result.STATUS, 503)
    assert (second.backend, second.result, second.status) == (lab.second, Result.OK, 200)
    assert (second.input_tokens, second.output_tokens) == (record.input_tokens, record.output_tokens)
    assert not second.estimated
    assert second.first_event_ms is not None
    assert second.first_event_ms <= second.duration_ms


def test_a_broken_stream_and_one_that_the_customer_left_count_what_was_produced(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    lab.scripted.play(chunk("one"), chunk("two"))
    head, _ = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))
    (broken,) = made(head.call_id)
    assert (broken.result, broken.output_tokens, broken.estimated) == (Result.BROKEN, 2, True)
    with wire.stream(stack.webs[0], alice.secret, chat("[demo: tokens=500 tokens_per_second=50]")) as opened:
        opened.read(2)
    (left,) = made(opened.call_id)
    assert (left.result, left.status, left.estimated) == (Result.LEFT, 200, True)
    assert left.output_tokens >= 2


def test_who_leaves_before_the_first_token_leaves_the_cost_of_the_prompt_behind(stack: Stack, alice: Customer) -> None:
    with wire.begun(stack.webs[0], alice.secret, chat("[demo: hang_before]", stream=True)):
        until(lambda: alice.holds)
        until(lambda: stack.backend.entries(str(alice.holds[0].pk)) is not None)
        call = alice.holds[0].pk
    record = alice.only_record()
    (left,) = made(call)
    assert (left.result, left.output_tokens) == (Result.LEFT, 0)
    assert left.input_tokens == record.input_tokens > 0


def test_a_silent_backend_is_given_up_where_another_is_left(lab: Lab, alice: Customer, tmp_path: Path) -> None:
    first_token = {"GATEWAY_FIRST_TOKEN_SECONDS": "1"}
    with web_process(tmp_path, **first_token) as web:
        body = chat("[demo: first_token_ms=6000 only_attempts=1 tokens=3]", model=lab.of_two, stream=True)
        head, events = wire.whole(web, alice.secret, body)
        assert events[-1] is None
        silent, answered = made(head.call_id, 2)
        assert (silent.result, silent.backend, silent.output_tokens) == (Result.SILENT, lab.first, 0)
        assert silent.input_tokens > 0
        assert 900 < silent.duration_ms < 4_000
        assert (answered.result, answered.backend) == (Result.OK, lab.second)
        # The last one that is left may take its time, and so may one that has begun.
        patient = chat("[demo: first_token_ms=2000]")
        assert wire.whole(web, alice.secret, patient)[1][-1] is None
        begun = chat("[demo: tokens=30 tokens_per_second=15]", model=lab.of_two)
        assert len(made(wire.whole(web, alice.secret, begun)[0].call_id)) == 1
    assert [record.attempt for record in alice.settled(3)] == [2, 1, 1]


def test_attempts_that_cannot_be_written_hold_nobody_up_and_are_written_later(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
    with another_connection() as other:
        other.execute("LOCK TABLE gateway_attempt IN ACCESS EXCLUSIVE MODE")
        head, events = wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))
        assert events[-1] is None
        assert alice.only_record().output_tokens == 2
        other.execute("ROLLBACK")
    (attempt,) = made(head.call_id)
    assert attempt.result == Result.OK


def test_old_attempts_are_forgotten() -> None:
    model, at = factories.language_model(), datetime.now(UTC) - timedelta(days=attempts.KEPT_DAYS)
    old = factories.attempt(model, call_id=partitions.first_id(at - timedelta(minutes=1)))
    kept = factories.attempt(model, call_id=partitions.first_id(at + timedelta(minutes=1)))
    assert attempts.forget(now=datetime.now(UTC)) == 1
    assert not Attempt.objects.filter(pk=old.pk).exists()
    assert Attempt.objects.filter(pk=kept.pk).exists()
