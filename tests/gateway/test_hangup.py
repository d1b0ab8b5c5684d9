"""The abort rule: what a customer pays who hangs up, and that nothing is left behind.

Nothing before the request was sent; then the prompt at the fair estimate and the tokens produced; from the last token
on the exact usage; never more than the hold. The backend is stopped within a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis

from billing.models import ReleasedHolds, UsageRecord
from billing.usage import Outcome, Source
from tests.billing.stage import assert_books_hold, wait_until_blocked_by
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, chunk, usage
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

# Exactly: the text is 30 bytes, so 8 tokens, and 4 around the message.
PROMPT, PROMPT_ESTIMATE = "The tide is high, but I go on.", 12


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def leases(of: Customer) -> int:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        count: Any = client.zcard(f"limit:{{{of.account.pk}}}:leases")
        return int(count)


def nothing_left(of: Customer) -> None:
    until(lambda: not of.holds and not of.wallet.held and not leases(of))


def charge(record: UsageRecord) -> int:
    """At the prices of the lab's models."""
    return record.input_tokens * INPUT_RATE + record.output_tokens * OUTPUT_RATE


@contextmanager
def stopped_within_a_second(stack: Stack) -> Iterator[list[Any]]:
    """Put the call's id into the list, then hang up; the backend must notice."""
    calls: list[Any] = []
    yield calls
    started = time.monotonic()
    (call,) = calls
    entry = stack.backend.entry(str(call))
    assert entry["end"] == "client_gone"
    assert time.monotonic() - started < 1


def accepted(stack: Stack, before: int) -> bool:
    return int(stack.backend.stats()["accepted"]) > before


def sent_call_of(of: Customer) -> Any:
    """The id of the customer's only call, from its hold."""
    (hold,) = until(lambda: of.holds)
    return hold.pk


@pytest.mark.parametrize("streamed", [False, True])
def test_before_acceptance_the_prompt_is_paid(stack: Stack, lab: Lab, alice: Customer, streamed: bool) -> None:
    body = chat(f"{PROMPT}[demo: hang_before]", model=lab.of_two, stream=streamed)
    estimate = -(-len(f"{PROMPT}[demo: hang_before]") // 4) + 4
    with wire.begun(stack.webs[0], alice.secret, body):
        call = sent_call_of(alice)
        until(lambda: stack.backend.entries(str(call)))
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.CLIENT_CLOSED, Source.ESTIMATED)
    assert (record.input_tokens, record.output_tokens) == (estimate, 0)
    assert record.charge == estimate * INPUT_RATE
    nothing_left(alice)


def test_before_the_first_token_of_a_stream_the_backend_is_stopped(stack: Stack, lab: Lab, alice: Customer) -> None:
    body = chat(f"{PROMPT}[demo: first_token_ms=9000]", model=lab.of_two, stream=True)
    with stopped_within_a_second(stack) as calls, wire.begun(stack.webs[0], alice.secret, body):
        calls.append(sent_call_of(alice))
        until(lambda: stack.backend.entries(str(calls[0])))
    record = alice.only_record()
    assert (record.outcome, record.output_tokens) == (Outcome.CLIENT_CLOSED, 0)
    nothing_left(alice)


@pytest.mark.parametrize("tokens", [1, 20])
def test_after_some_tokens_the_prompt_and_those_tokens_are_paid(
    stack: Stack, lab: Lab, alice: Customer, tokens: int
) -> None:
    body = chat(f"{PROMPT}[demo: hang_after={tokens}]", model=lab.of_two)
    with wire.stream(stack.webs[0], alice.secret, body) as opened:
        opened.read(tokens)
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.CLIENT_CLOSED, Source.ESTIMATED)
    assert tokens <= record.output_tokens <= 2 * tokens  # Ours to count: a token each, or by their bytes.
    assert record.charge == charge(record) <= record.held
    nothing_left(alice)


def test_a_running_stream_is_stopped_at_the_backend(stack: Stack, alice: Customer) -> None:
    body = chat("[demo: tokens=3000 tokens_per_second=100]", max_tokens=3000)
    with stopped_within_a_second(stack) as calls, wire.stream(stack.webs[0], alice.secret, body) as opened:
        opened.read(5)
        calls.append(opened.call_id)
    record = alice.only_record()
    served = stack.backend.entry(str(calls[0]))
    assert record.outcome == Outcome.CLIENT_CLOSED
    assert 5 <= record.output_tokens <= 2 * served["tokens_written"]
    nothing_left(alice)


def test_running_usage_of_the_backend_is_believed(stack: Stack, alice: Customer) -> None:
    with wire.stream(stack.webs[0], alice.secret, chat("[demo: hang_after=7 usage_at=every]")) as opened:
        opened.read(7)
    record = alice.only_record()
    assert (record.outcome, record.source, record.output_tokens) == (Outcome.CLIENT_CLOSED, Source.BACKEND, 7)


def test_after_the_finish_the_usage_is_waited_for_and_exact(stack: Stack, lab: Lab, alice: Customer) -> None:
    gone = threading.Event()
    lab.scripted.play(chunk("Hello"), chunk(finish="stop"), gone, usage(77, 5), DONE)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
        assert opened.read(1) == ["Hello"]
        next(opened.events())  # The finish.
    gone.set()
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.COMPLETED, Source.BACKEND)
    assert record.charge == 77 * INPUT_RATE + 5 * OUTPUT_RATE
    nothing_left(alice)


def test_after_the_finish_a_backend_without_usage_is_waited_for_a_second(
    stack: Stack, lab: Lab, alice: Customer
) -> None:
    lab.scripted.play(chunk("Hello"), chunk(finish="stop"), threading.Event())
    with wire.stream(stack.webs[0], alice.secret, chat(PROMPT, model=lab.of_script)) as opened:
        opened.read(1)
        next(opened.events())
    left_at = time.monotonic()
    record = alice.only_record()
    assert (record.outcome, record.source) == (Outcome.COMPLETED, Source.ESTIMATED)
    assert (record.input_tokens, record.output_tokens) == (PROMPT_ESTIMATE, 2)
    assert until(lambda: lab.scripted.left_at) - left_at < 2
    nothing_left(alice)


def test_right_after_done_the_call_is_complete_and_exact(stack: Stack, alice: Customer) -> None:
    with wire.stream(stack.webs[0], alice.secret, chat("[demo: tokens=30]")) as opened:
        while next(opened.events()) is not None:
            pass
    record = alice.only_record()
    assert (record.outcome, record.source, record.output_tokens) == (Outcome.COMPLETED, Source.BACKEND, 30)


def test_the_real_sdk_hangs_up_at_done_and_is_not_an_abort(stack: Stack, alice: Customer) -> None:
    messages: Any = [{"role": "user", "content": "[demo: tokens=30]"}]
    with alice.openai(stack.api_base) as client:
        for _ in client.chat.completions.create(model="deepseek-v4-flash", messages=messages, stream=True):
            pass
    assert alice.only_record().outcome == Outcome.COMPLETED


def test_a_json_call_pays_the_prompt_and_stops_the_backend(stack: Stack, lab: Lab, alice: Customer) -> None:
    body = chat(f"{PROMPT}[demo: first_token_ms=9000]", model=lab.of_two)
    with stopped_within_a_second(stack) as calls, wire.begun(stack.webs[0], alice.secret, body):
        calls.append(sent_call_of(alice))
        until(lambda: stack.backend.entries(str(calls[0])))
    record = alice.only_record()
    assert record.outcome == Outcome.CLIENT_CLOSED
    assert record.charge == charge(record) == record.input_tokens * INPUT_RATE
    nothing_left(alice)


def test_a_body_that_is_never_whole_leaves_no_trace(stack: Stack, alice: Customer) -> None:
    with wire.begun(stack.webs[0], alice.secret, chat()) as connection:
        connection.close()
        head = f"POST {wire.CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {alice.secret}\r\n"
        connection.connect()
        connection.send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    nothing_left(alice)


def test_while_the_wallet_is_locked_nothing_is_sent_and_nothing_stays(stack: Stack, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(chunk("Hello"))
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR UPDATE", [alice.account.pk])
        with wire.begun(stack.webs[0], alice.secret, chat(model=lab.of_script)):
            wait_until_blocked_by(other)
        # The hang-up is long known when the lock is free.
        until(lambda: leases(alice) == 1)
        other.execute("SELECT pg_sleep(0.2)")
        other.rollback()
    until(lambda: ReleasedHolds.objects.filter(account=alice.account, reason="client_closed").exists())
    nothing_left(alice)
    assert not alice.records
    assert lab.scripted.calls == 0


def test_fifty_hang_ups_at_any_moment_leave_the_books_in_order(stack: Stack, alice: Customer) -> None:
    body = chat("[demo: tokens=200 tokens_per_second=2000]", stream=True, max_tokens=200)
    for number in range(50):
        with wire.begun(stack.webs[number % 2], alice.secret, body):
            time.sleep(number * 0.002)  # The moment is what this test varies.
    nothing_left(alice)
    until(lambda: all(record.settled_at for record in alice.records))
    wallet = alice.wallet
    assert wallet.holds_opened == wallet.holds_recorded + wallet.holds_released
    assert wallet.posted == 10 * 10**12 - sum(record.charge for record in alice.records)
    for record in alice.records:
        (entry,) = stack.backend.entries(str(record.pk))
        assert record.output_tokens <= max(2 * entry["completion_tokens"], 1)
    assert_books_hold()
