"""A failure before a backend has accepted is free, and another backend is tried; afterwards neither."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from billing.models import ReleasedHolds
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import REFUSAL, Endless
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def assert_free(of: Customer, reason: str) -> None:
    """The hold was released for this reason, and nothing else happened."""
    until(lambda: not of.holds)
    assert not of.records
    wallet = of.wallet
    assert (wallet.posted, wallet.held, wallet.holds_released) == (10 * 10**12, 0, 1)
    assert ReleasedHolds.objects.get(account=of.account).reason == reason


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "switches",
    ["close_before", "status=500", "status=503", "status=429 retry_after=7", "status=401", "status=302",
     "garbage=html", "garbage=empty", "garbage=other_kind", "status=500 error_body=html"],
)  # fmt: skip
def test_a_failure_before_acceptance_is_503_and_free(
    stack: Stack, alice: Customer, switches: str, streamed: bool
) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(f"[demo: {switches}]", stream=streamed))
    assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
    assert answer.retry_after >= 1
    assert_free(alice, "model_unavailable")


@pytest.mark.parametrize("switches", ["error_after=0", "cut_after=1", "garbage=json", "garbage=half_utf8"])
def test_a_broken_json_answer_is_503_and_free(stack: Stack, alice: Customer, switches: str) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(f"[demo: {switches}]"))
    assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
    assert_free(alice, "model_unavailable")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b"500 Internal Server Error", b'{"error":{"code":500,"message":"image input is not supported - hint: ..."}}'),
        (b"404 Not Found", b'{"error": "Only \'text\' content type is supported."}'),
    ],
)
def test_an_image_that_the_backend_cannot_read_is_400_whatever_it_answers(
    stack: Stack, lab: Lab, alice: Customer, status: bytes, words: bytes
) -> None:
    lab.scripted.play(words, head=REFUSAL.replace(b"400 Bad Request", status))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer = wire.ask(
        stack.webs[0], alice.secret, chat(model=lab.of_script, messages=[{"role": "user", "content": [picture]}])
    )
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_prompt", "messages")
    assert_free(alice, "invalid_prompt")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_the_backend_refuses_is_400_and_free(stack: Stack, alice: Customer, status: int) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(f"[demo: status={status}]"))
    assert (answer.status, answer.error["code"]) == (400, "invalid_prompt")
    assert "worker" not in answer.error["message"]
    assert_free(alice, "invalid_prompt")


def test_a_prompt_that_is_too_long_for_the_backend_is_told_so(stack: Stack, lab: Lab, alice: Customer) -> None:
    words = b"This model's maximum context length is 4096 tokens at /srv/m. However, you requested 5000 tokens"
    lab.scripted.play(b'{"object":"error","message":"%b","code":400}' % words, head=REFUSAL)
    answer = wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_script))
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 100000 tokens" in answer.error["message"]
    assert b"4096" not in answer.body
    assert_free(alice, "context_length_exceeded")


def test_a_refusal_that_does_not_end_is_not_waited_for(stack: Stack, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(b'{"error": {"param": "temperature"', threading.Event(), head=REFUSAL)
    started = time.monotonic()
    answer = wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_script, temperature=0.5))
    assert (answer.status, answer.error["code"]) == (400, "invalid_prompt")
    assert time.monotonic() - started < 3
    lab.scripted.play(Endless(b"x" * 2**16), head=REFUSAL)
    assert wire.ask(stack.webs[0], alice.secret, chat(model=lab.of_script)).status == 400
    assert lab.scripted.sent < 16 * 2**20


@pytest.mark.parametrize(("asked", "told"), [("7", 7), ("0", 1), ("900", 60), ("soon", 2), ("-5", 2)])
def test_a_busy_backend_says_when_to_come_again(stack: Stack, alice: Customer, asked: str, told: int) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(f"[demo: status=429 retry_after={asked}]"))
    assert (answer.status, answer.retry_after) == (503, told)


def test_a_model_without_a_backend_or_with_a_dead_one_is_503_and_free(stack: Stack, lab: Lab) -> None:
    bob, charlie = customer(), customer()
    assert wire.ask(stack.webs[0], bob.secret, chat(model=lab.of_closed_port)).status == 503
    assert_free(bob, "model_unavailable")
    assert wire.ask(stack.webs[0], charlie.secret, chat(model=lab.of_nobody)).status == 503
    assert charlie.wallet.holds_opened == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_second_backend_answers_where_the_first_fails_before_acceptance(
    stack: Stack, lab: Lab, alice: Customer, streamed: bool
) -> None:
    for switches in ("status=503", "close_before", "garbage=html"):
        body = chat(f"[demo: {switches} only_attempts=1]", model=lab.of_two, stream=streamed)
        answer = wire.ask(stack.webs[0], alice.secret, body)
        assert answer.status == 200
        attempts = until(lambda call=answer.call_id: _both(stack, str(call)))  # type: ignore[misc]
        assert [entry["attempt"] for entry in attempts] == ["1", "2"]
    assert {(record.backend, record.attempt) for record in alice.settled(3)} == {(lab.second, 2)}


def _both(stack: Stack, call: str) -> list[dict[str, Any]] | None:
    found = stack.backend.entries(call)
    return found if len(found) == 2 else None


def test_nobody_else_is_asked_once_a_backend_has_accepted(stack: Stack, lab: Lab, alice: Customer) -> None:
    body = chat("[demo: cut_after=1 only_attempts=1 tokens_per_second=200]", model=lab.of_two)
    head, events = wire.whole(stack.webs[0], alice.secret, body)
    assert events[-2] is not None
    assert "error" in events[-2]
    assert len(stack.backend.entries(str(head.call_id))) == 1
    assert alice.only_record().backend == lab.first
