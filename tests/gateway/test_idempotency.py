"""Idempotency-Key: a repeat gets the first answer and costs nothing; a call that gave none leaves its key free."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F
from openai import OpenAI

from apikeys import keys
from billing import settlement
from gateway import idempotency
from gateway.models import IdempotentCall
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import boot_of, sweep_as_dead, web_process
from tests.gateway.scripted import DONE, chunk, usage
from tests.gateway.wire import Answer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


@pytest.fixture
def key() -> str:
    return factories.unique("order")


def ask(stack: Stack, who: Customer, key: str, body: Any = None, *, web: int = 0, **options: Any) -> Answer:
    headers = {"Idempotency-Key": key, **options.pop("headers", {})}
    return wire.ask(stack.webs[web], who.secret, chat() if body is None else body, headers=headers, **options)


def claim(of: Customer) -> IdempotentCall:
    return IdempotentCall.objects.get(account_id=of.account.pk)


def age(of: Customer, by: timedelta) -> None:
    IdempotentCall.objects.filter(account_id=of.account.pk).update(claimed_at=F("claimed_at") - by)


@contextmanager
def running(lab: Lab, stack: Stack, who: Customer, key: str) -> Iterator[threading.Event]:
    """A call that has answered one word, and goes on when the event is set."""
    go_on = threading.Event()
    lab.scripted.play(chunk("one"), go_on, chunk(" two"), chunk(finish="stop"), usage(5, 2), DONE)
    body = {**chat(), "model": lab.of_script, "stream": True}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, stack, who, key, body)
        until(lambda: who.holds and lab.scripted.calls == 1)
        yield go_on
        go_on.set()
        assert first.result().status == 200


def test_the_same_values_in_another_order_are_the_same_body(stack: Stack, alice: Customer, key: str) -> None:
    body = chat(metadata={"a": 1, "b": {"c": 2, "d": 3}}, user="u")
    shuffled = {name: body[name] for name in reversed(body)} | {"metadata": {"b": {"d": 3, "c": 2}, "a": 1}}
    ask(stack, alice, key, body)
    assert ask(stack, alice, key, json.dumps(shuffled, indent=2).encode()).headers["idempotency-replayed"] == "true"


def test_a_repeat_gets_the_first_answer_and_costs_nothing(stack: Stack, alice: Customer, key: str) -> None:
    first = ask(stack, alice, key)
    again = ask(stack, alice, key, web=1)
    assert (again.status, again.body) == (200, first.body)
    assert (first.headers["idempotency-replayed"], again.headers["idempotency-replayed"]) == (None, "true")
    assert again.headers["content-type"] == "application/json"
    assert again.call_id != first.call_id
    record = alice.only_record()
    assert record.pk == first.call_id
    assert alice.taken() == (2, record.input_tokens + record.output_tokens, 0)
    assert again.left("requests") == first.left("requests") - 1
    assert_books_hold()


def test_a_repeated_stream_gets_the_same_events(stack: Stack, alice: Customer, key: str) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    first = ask(stack, alice, key, body)
    again = ask(stack, alice, key, body)
    assert again.body == first.body
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert again.headers["content-type"] == first.headers["content-type"] == "text/event-stream; charset=utf-8"
    alice.only_record()


def test_the_openai_client_may_repeat_what_it_asked(stack: Stack, alice: Customer, key: str) -> None:
    with OpenAI(base_url=stack.api_base, api_key=alice.secret) as client:
        first, again = [
            client.chat.completions.create(
                model="deepseek-v4-flash",
                messages=[{"role": "user", "content": "Tides"}],
                extra_headers={"Idempotency-Key": key},
            )
            for _ in range(2)
        ]
    assert first.id == again.id
    alice.only_record()


def test_another_body_is_a_422(stack: Stack, alice: Customer, key: str) -> None:
    ask(stack, alice, key)
    answer = ask(stack, alice, key, chat("Something else"))
    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    alice.only_record()


def test_keys_of_other_accounts_and_endpoints_never_meet(stack: Stack, lab: Lab, alice: Customer, key: str) -> None:
    bob = customer()
    assert ask(stack, alice, key).headers["idempotency-replayed"] is None
    assert ask(stack, bob, key, chat("Bob's")).status == 200
    text = {"model": lab.completion, "prompt": "x"}
    assert ask(stack, alice, key, text, path="/v1/completions").status == 200


def test_keys_of_one_account_meet_whatever_api_key_asks(stack: Stack, alice: Customer, key: str) -> None:
    _, secret = keys.create(account=alice.account, name="another", now=datetime.now(UTC))
    first = ask(stack, alice, key)
    assert ask(stack, Customer(alice.account, alice.key, secret), key).body == first.body


def test_repeats_keep_to_the_limits_and_refused_ones_do_not_count(stack: Stack, lab: Lab, key: str) -> None:
    slow = customer(tier="Standard")
    body = {**chat(), "model": lab.of_script, "stream": True}
    with running(lab, stack, slow, key):
        assert [ask(stack, slow, key, body).status for _ in range(3)] == [409] * 3
        assert slow.taken()[::2] == (1, 1)
    statuses = [ask(stack, slow, key, body).status for _ in range(61)]
    assert statuses == [200] * 59 + [429] * 2


@pytest.mark.parametrize("bad", ["", " ", "x" * 256, "käse"])
def test_a_key_that_is_none_is_a_400(stack: Stack, alice: Customer, bad: str) -> None:
    answer = ask(stack, alice, bad)
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")
    assert not alice.records


def test_a_repeat_of_a_running_call_is_told_to_wait(stack: Stack, lab: Lab, alice: Customer, key: str) -> None:
    body = {**chat(), "model": lab.of_script, "stream": True}
    with running(lab, stack, alice, key):
        for web in (0, 1):
            waits = ask(stack, alice, key, body, web=web)
            assert (waits.status, waits.error["code"]) == (409, "idempotency_key_in_use")
            assert 1 <= waits.retry_after <= 60
        other = ask(stack, alice, key, chat("Another body"))
        assert other.status == 422
    again = ask(stack, alice, key, body)
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")
    assert lab.scripted.calls == 1
    alice.only_record()


def test_a_running_call_keeps_its_key_however_long_it_takes(stack: Stack, lab: Lab, alice: Customer, key: str) -> None:
    with running(lab, stack, alice, key):
        age(alice, timedelta(minutes=9))
        assert ask(stack, alice, key, {**chat(), "model": lab.of_script, "stream": True}).status == 409


def test_of_repeats_at_the_same_time_one_is_a_call(stack: Stack, alice: Customer, key: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: ask(stack, alice, key, web=n % 2), range(12)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert len({answer.body for answer in answers if answer.status == 200}) == 1
    assert ask(stack, alice, key).status == 200
    alice.only_record()
    assert_books_hold()


def test_a_refused_call_leaves_its_key_free(stack: Stack, key: str) -> None:
    poor = customer(pico=0)
    assert ask(stack, poor, key).status == 402
    assert not IdempotentCall.objects.filter(account_id=poor.account.pk).exists()
    factories.credit(poor.account, 10**12)
    assert ask(stack, poor, key, chat("Another body, since nothing was done")).status == 200


def test_a_call_that_failed_free_leaves_its_key_free(stack: Stack, lab: Lab, alice: Customer, key: str) -> None:
    assert ask(stack, alice, key, {**chat(), "model": lab.of_closed_port}).status == 503
    assert ask(stack, alice, key).status == 200


def test_a_stream_that_broke_leaves_its_key_free(stack: Stack, alice: Customer, key: str) -> None:
    body = chat("[demo: error_after=2]", stream=True)
    assert b'"error"' in ask(stack, alice, key, body).body
    assert ask(stack, alice, key, body).headers["idempotency-replayed"] is None
    assert len(alice.settled(2)) == 2


def test_a_hang_up_in_mid_stream_leaves_the_key_free(stack: Stack, alice: Customer, key: str) -> None:
    body = chat("[demo: endless tokens_per_second=50]")
    with wire.stream(stack.webs[0], alice.secret, body, headers={"Idempotency-Key": key}) as stream:
        stream.read(2)
    until(lambda: not IdempotentCall.objects.filter(account_id=alice.account.pk).exists())
    assert alice.only_record().outcome == "client_closed"


def test_an_answer_that_is_too_large_is_not_kept_and_not_made_again(
    stack: Stack, lab: Lab, alice: Customer, key: str
) -> None:
    word = "x" * 400_000
    lab.scripted.play(chunk(word), chunk(word), chunk(word), chunk(finish="stop"), usage(5, 3), DONE)
    body = {**chat(), "model": lab.of_script, "stream": True, "max_tokens": 10_000, "n": 16}
    first = ask(stack, alice, key, body)
    assert len(first.body) > idempotency.ANSWER_LIMIT
    again = ask(stack, alice, key, body)
    assert (again.status, again.error["code"]) == (409, "idempotent_answer_not_kept")
    assert first.call_id.hex in again.error["message"]
    assert again.headers["x-should-retry"] == "false"
    assert claim(alice).answer is None
    assert alice.only_record().pk == first.call_id


def test_after_a_day_a_key_is_new(stack: Stack, alice: Customer, key: str) -> None:
    first = ask(stack, alice, key)
    age(alice, timedelta(hours=23, minutes=59))
    assert ask(stack, alice, key).body == first.body
    age(alice, timedelta(minutes=2))
    assert ask(stack, alice, key, chat("Another body")).headers["idempotency-replayed"] is None
    assert len(alice.settled(2)) == 2


def test_what_is_older_than_a_day_is_forgotten(stack: Stack, alice: Customer, key: str) -> None:
    bob = customer()
    ask(stack, alice, key)
    ask(stack, bob, key)
    age(alice, timedelta(hours=24, minutes=1))
    assert idempotency.forget(now=datetime.now(UTC)) >= 1
    assert not IdempotentCall.objects.filter(account_id=alice.account.pk).exists()
    assert claim(bob)


def test_the_key_of_a_dead_process_is_free_once_its_call_is_closed(
    stack: Stack, lab: Lab, alice: Customer, key: str, tmp_path: Path
) -> None:
    body = {**chat("[demo: endless tokens_per_second=20]"), "stream": True}
    with web_process(tmp_path) as web:
        boot = boot_of(web)
        with wire.stream(web, alice.secret, body, headers={"Idempotency-Key": key}) as stream:
            stream.read(2)
            web.kill()
    age(alice, timedelta(seconds=idempotency.CLAIM_SECONDS + 1))
    assert ask(stack, alice, key, body).status == 409
    sweep_as_dead(boot)
    settlement.settle_accounts(account_ids=[alice.account.pk])
    with wire.stream(stack.webs[0], alice.secret, body, headers={"Idempotency-Key": key}) as stream:
        assert stream.status == 200
        stream.read(1)
    assert_books_hold()


def test_a_claim_without_a_hold_lapses(stack: Stack, alice: Customer, key: str) -> None:
    """Its process died, or lost the database, between the claim and the hold."""
    ask(stack, alice, key)
    # As if the key belonged to another call, which never was admitted.
    IdempotentCall.objects.filter(account_id=alice.account.pk).update(
        call_id=factories.call_id(datetime.now(UTC)), answered_at=None, answer=None
    )
    assert ask(stack, alice, key).status == 409
    age(alice, timedelta(seconds=idempotency.CLAIM_SECONDS + 1))
    assert ask(stack, alice, key).status == 200


def test_a_charged_call_whose_answer_was_lost_is_never_made_again(stack: Stack, alice: Customer, key: str) -> None:
    ask(stack, alice, key)
    alice.only_record()
    IdempotentCall.objects.filter(account_id=alice.account.pk).update(answered_at=None, answer=None)
    age(alice, timedelta(hours=1))
    assert ask(stack, alice, key).error["code"] == "idempotent_answer_not_kept"
    alice.only_record()
