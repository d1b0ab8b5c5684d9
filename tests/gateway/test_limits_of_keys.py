"""Limits of one key beside those of its account: the tighter counts, and a refusal by either takes nothing of both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from apikeys import keys
from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, all_at_once, chat, customer
from tests.gateway.test_limits import (
    HANG,
    grow_older,
    hanging,
    leases,
    limited,
    limiter,
    seconds,
    with_another_key,
    with_own_limits,
)
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

SHORT = chat(max_tokens=1)


def taken_by_key(of: Customer) -> tuple[int, int]:
    """Requests and tokens of the last minute that count against the key."""
    with limiter() as client:
        own = f"limit:{{{of.account.pk}}}:key:{of.key.pk}"
        return client.zcard(f"{own}:window"), int(client.hget(f"{own}:tokens", "total") or 0)


def test_a_key_at_its_own_limit_of_requests_is_refused_on_either_process_and_its_account_goes_on(stack: Stack) -> None:
    alice = with_own_limits(limited(requests=10), requests=2)
    other = with_another_key(alice)
    lefts = [wire.ask(web, alice.secret, SHORT).left("requests") for web in stack.webs]
    assert lefts == [1, 0]
    for web in stack.webs:
        answer = wire.ask(web, alice.secret, SHORT)
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded_requests")
        assert answer.error["type"] == "rate_limit_error"
        assert "2 requests per minute of this API key" in answer.error["message"]
        assert "on the dashboard" in answer.error["message"]
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.left("requests") == 0
        assert 50 < answer.retry_after <= 60
    answer = wire.ask(stack.webs[0], other.secret, SHORT)
    assert (answer.status, answer.headers["x-ratelimit-limit-requests"], answer.left("requests")) == (200, "10", 7)


def test_a_key_at_its_own_limit_of_tokens_is_refused_and_its_account_goes_on(stack: Stack) -> None:
    alice = with_own_limits(limited(tokens=5_000), tokens=1_000)
    other = with_another_key(alice)
    body = chat("[demo: tokens=600]", max_tokens=600)
    assert wire.ask(stack.webs[0], alice.secret, body).status == 200
    answer = wire.ask(stack.webs[1], alice.secret, body)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded_tokens")
    assert "1,000 tokens per minute of this API key" in answer.error["message"]
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 0 < answer.left("tokens") < 400
    assert wire.ask(stack.webs[1], other.secret, body).status == 200


def test_a_key_with_all_its_places_taken_is_refused_and_its_account_goes_on(stack: Stack) -> None:
    alice = with_own_limits(limited(concurrent=5), concurrent=1)
    other = with_another_key(alice)
    with hanging(stack.webs[0], alice, 1):
        answer = wire.ask(stack.webs[1], alice.secret, SHORT)
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded_concurrency")
        assert "1 concurrent requests of this API key" in answer.error["message"]
        assert "when a running request has ended" in answer.error["message"]
        assert answer.retry_after == 1
        assert wire.ask(stack.webs[1], other.secret, SHORT).status == 200
    until(lambda: wire.ask(stack.webs[1], alice.secret, SHORT).status == 200)


def test_limits_of_a_key_that_are_looser_than_its_accounts_change_nothing(stack: Stack) -> None:
    alice = with_own_limits(limited(requests=1), requests=1_000, tokens=2**31 - 1, concurrent=2**31 - 1)
    assert wire.ask(stack.webs[0], alice.secret, SHORT).headers["x-ratelimit-limit-requests"] == "1"
    answer = wire.ask(stack.webs[1], alice.secret, SHORT)
    assert answer.status == 429
    assert "1 requests per minute of your account" in answer.error["message"]
    assert "write to" in answer.error["message"]


def test_what_is_told_is_what_the_tighter_of_the_two_has_left(stack: Stack) -> None:
    alice = with_own_limits(limited(requests=6, tokens=100_000), requests=4, tokens=50_000)
    other = with_another_key(alice)
    told = []
    for secret in (alice.secret, other.secret, other.secret, other.secret, alice.secret):
        headers = wire.ask(stack.webs[0], secret, SHORT).headers
        told.append((headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]))
    assert told == [("4", "3"), ("6", "4"), ("6", "3"), ("6", "2"), ("6", "1")]
    assert headers["x-ratelimit-limit-tokens"] == "50000"


def test_a_refusal_by_one_of_the_two_takes_nothing_of_the_other(stack: Stack) -> None:
    alice = with_own_limits(limited(requests=3), requests=2)
    other = with_another_key(alice)
    for _ in range(2):
        wire.ask(stack.webs[0], alice.secret, SHORT)
    for web in stack.webs * 2:  # By the key's.
        assert wire.ask(web, alice.secret, SHORT).status == 429
    assert alice.taken()[0] == 2
    grow_older(alice, 60)
    for _ in range(3):
        assert wire.ask(stack.webs[0], other.secret, SHORT).status == 200
    for web in stack.webs * 2:  # By the account's.
        answer = wire.ask(web, alice.secret, SHORT)
        assert "of your account" in answer.error["message"]
    assert taken_by_key(alice) == (0, 0)


def test_of_a_burst_on_both_processes_exactly_as_many_pass_as_the_key_may_send(stack: Stack) -> None:
    alice = with_own_limits(limited(requests=30), requests=7)
    answers = all_at_once([web.url for web in stack.webs] * 20, alice.secret, SHORT)
    assert Counter(status for status, _ in answers) == {200: 7, 429: 33}
    assert alice.taken()[0] == 7


@pytest.mark.parametrize(("own", "holder"), [(500, "this API key"), (None, "your account")])
def test_a_call_larger_than_a_whole_limit_is_400_and_says_whose(stack: Stack, own: int | None, holder: str) -> None:
    alice = with_own_limits(limited(tokens=1_000), tokens=own)
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=own or 1_000))
    assert (answer.status, answer.error["code"]) == (400, "request_exceeds_limit")
    assert answer.error["param"] == "max_tokens"
    assert f"{own or 1_000:,} tokens per minute of {holder}" in answer.error["message"]
    assert answer.headers["retry-after"] is None
    assert alice.taken() == (0, 0, 0)
    assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=400)).status == 200


def test_limits_that_a_key_is_given_and_loses_are_in_force_within_a_second(stack: Stack) -> None:
    alice = limited()

    def told(web: WebProcess) -> str:
        return wire.ask(web, alice.secret, SHORT).headers["x-ratelimit-limit-requests"]

    assert told(stack.webs[0]) == "100000"
    for own in (5_000, None):
        keys.set_limits(key=alice.key, requests_per_minute=own, tokens_per_minute=None, concurrent_requests=None)
        time.sleep(1.0)  # As long as a process may rely on what it knows of a key.
        assert {told(web) for web in stack.webs} == {str(own or 100_000)}


def done(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.ask(stack.webs[0], of.secret, SHORT).status == 200


def streamed(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.whole(stack.webs[0], of.secret, SHORT)[1][-1] is None


def left_at_done(stack: Stack, lab: Lab, of: Customer) -> None:
    """As the OpenAI SDK does: the socket is closed on [DONE]."""
    with wire.stream(stack.webs[0], of.secret, SHORT) as opened:
        for event in opened.events():
            if event is None:
                break


def left_in_mid_stream(stack: Stack, lab: Lab, of: Customer) -> None:
    with wire.stream(stack.webs[0], of.secret, chat(HANG)) as opened:
        opened.read(1)


def left_before_the_headers(stack: Stack, lab: Lab, of: Customer) -> None:
    with wire.begun(stack.webs[0], of.secret, chat("[demo: first_token_ms=5000]", stream=True)):
        until(lambda: of.holds and stack.backend.entries(str(of.holds[0].id)))
        assert leases(of) == [1, 1]


def left_before_the_answer(stack: Stack, lab: Lab, of: Customer) -> None:
    with wire.begun(stack.webs[0], of.secret, chat("[demo: first_token_ms=5000]")):
        until(lambda: of.holds and stack.backend.entries(str(of.holds[0].id)))
        assert leases(of) == [1, 1]


def cut_in_mid_stream(stack: Stack, lab: Lab, of: Customer) -> None:
    _, events = wire.whole(stack.webs[0], of.secret, chat("[demo: cut_after=2 tokens=9]"))
    assert events[-2]
    assert "error" in events[-2]


def unfunded(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.ask(stack.webs[0], of.secret, chat(max_tokens=8_000, model=lab.of_two)).status == 402


def refused_by_the_backend(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.ask(stack.webs[0], of.secret, chat("[demo: status=400]")).status == 400


def failed(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.ask(stack.webs[0], of.secret, chat("[demo: status=503]")).status == 503


def without_a_backend(stack: Stack, lab: Lab, of: Customer) -> None:
    assert wire.ask(stack.webs[0], of.secret, chat(model=lab.of_closed_port)).status == 503


CHARGED = [done, streamed, left_at_done, left_in_mid_stream, left_before_the_headers, left_before_the_answer,
           cut_in_mid_stream]  # fmt: skip
FREE = [unfunded, refused_by_the_backend, failed, without_a_backend]


@pytest.mark.parametrize("ending", CHARGED + FREE)
def test_however_a_call_ends_its_place_is_free_again_and_it_took_what_it_used(
    stack: Stack, lab: Lab, ending: Callable[[Stack, Lab, Customer], None]
) -> None:
    alice = customer(tier=limited().account.tier.name, pico=50_000 if ending is unfunded else 10**12)
    with_own_limits(alice, requests=50, tokens=90_000, concurrent=1)
    ending(stack, lab, alice)
    until(lambda: leases(alice) in ([], [0, 0]) and not alice.holds)
    records = alice.settled(1) if ending in CHARGED else alice.records
    used = sum(record.input_tokens + record.output_tokens for record in records)
    until(lambda: alice.taken() == (len(records), used, 0))
    assert taken_by_key(alice) == (len(records), used)
    assert len(records) == (ending in CHARGED)
    factories.credit(alice.account, 10**12)
    assert wire.ask(stack.webs[1], alice.secret, SHORT).status == 200


def test_lists_of_models_are_served_to_a_key_that_is_over_its_limits(stack: Stack) -> None:
    alice = with_own_limits(limited(), requests=1, tokens=2_000, concurrent=1)
    with hanging(stack.webs[0], alice, 1):
        assert wire.ask(stack.webs[0], alice.secret, SHORT).status == 429
        for path in ("/v1/models", "/v1/models/deepseek-v4-flash"):
            assert wire.ask(stack.webs[0], alice.secret, method="GET", path=path).status == 200
    assert alice.taken()[0] == 1


def test_a_stream_an_answer_and_a_refusal_carry_the_same_headers(stack: Stack) -> None:
    alice = with_own_limits(limited(tokens=40_000), requests=2, tokens=30_000)
    with wire.stream(stack.webs[0], alice.secret, chat(HANG)) as opened:
        opened.read(1)  # It runs still.
        answers = [opened.answer]
        answers += [wire.ask(web, alice.secret, SHORT) for web in stack.webs]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.left("requests") for answer in answers] == [1, 0, 0]
    for answer in answers:
        told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}
        assert told.pop("x-ratelimit-limit-requests") == "2"
        assert told.pop("x-ratelimit-limit-tokens") == "30000"
        assert 28_000 < int(told.pop("x-ratelimit-remaining-tokens")) < 30_000
        for kind in ("requests", "tokens"):
            assert 50 < seconds(told.pop(f"x-ratelimit-reset-{kind}")) <= 60
        assert told.keys() == {"x-ratelimit-remaining-requests"}
