"""Requests and tokens a minute and concurrent requests: true, shared by all processes, and never a matter of money."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from accounts.models import Tier
from apikeys import keys
from apikeys.keys import KeyFacts
from flint.sandbox import servers
from gateway.errors import RateLimited
from gateway.limits import Limits
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.customers import Customer, all_at_once, chat, customer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

HANG = "[demo: hang_after=1]"


def limited(*, requests: int = 100_000, tokens: int = 10_000_000, concurrent: int = 1_000) -> Customer:
    """A customer with a tier of its own."""
    tier = Tier.objects.create(
        name=factories.unique("tier"),
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        concurrent_requests=concurrent,
    )
    return customer(tier=tier.name)


def with_own_limits(
    of: Customer, *, requests: int | None = None, tokens: int | None = None, concurrent: int | None = None
) -> Customer:
    """The customer, whose key is given limits of its own."""
    keys.set_limits(key=of.key, requests_per_minute=requests, tokens_per_minute=tokens, concurrent_requests=concurrent)
    return of


def with_another_key(of: Customer) -> Customer:
    return Customer(of.account, *keys.create(account=of.account, name="another key", now=datetime.now(UTC)))


def seconds(duration: str) -> float:
    """What Go's time.ParseDuration would read."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", duration)
    assert found, duration
    assert duration
    minutes, whole, milliseconds = (float(part or 0) for part in found.groups())
    return minutes * 60 + whole + milliseconds / 1000


@contextmanager
def limiter() -> Iterator[Any]:
    with closing(redis.Redis.from_url(os.environ["REDIS_URL"])) as client:
        yield client


def grow_older(of: Customer, seconds: float) -> None:
    """As if the calls of the last minute had been made so much earlier."""
    with limiter() as client:
        for window in client.keys(f"limit:{{{of.account.pk}}}:*window"):
            for call in client.zrange(window, 0, -1):
                client.zincrby(window, -seconds * 10**6, call)


def leases_key(of: Customer) -> str:
    return f"limit:{{{of.account.pk}}}:leases"


def leases(of: Customer) -> list[int]:
    """How many calls run, by the account's count and by those of its keys."""
    with limiter() as client:
        return [client.zcard(counted) for counted in client.keys(f"limit:{{{of.account.pk}}}:*leases")]


@contextmanager
def hanging(web: WebProcess, of: Customer, calls: int) -> Iterator[None]:
    """So many accepted streams that do not end."""
    with ExitStack() as opened:
        for _ in range(calls):
            opened.enter_context(wire.stream(web, of.secret, chat(HANG))).read(1)
        yield


def test_the_61st_request_of_standard_is_429_and_its_retry_after_is_true(stack: Stack) -> None:
    alice = customer(tier="Standard")
    passed = 0
    while (answer := wire.ask(stack.webs[passed % 2], alice.secret, chat(max_tokens=1))).status == 200:
        passed += 1
        assert answer.left("requests") <= 60 - 1
    assert passed == 60
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded_requests")
    assert answer.error["type"] == "rate_limit_error"
    assert answer.headers["x-ratelimit-limit-requests"] == "60"
    assert answer.left("requests") == 0
    assert 55 < seconds(answer.headers["x-ratelimit-reset-requests"]) <= 60
    assert 30 <= answer.retry_after <= 60

    grow_older(alice, answer.retry_after - 2)
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1))
    assert (answer.status, answer.retry_after in (1, 2)) == (429, True)
    time.sleep(answer.retry_after)  # Exactly as long as it says.
    assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 200


def test_the_sixth_concurrent_request_of_standard_is_429_on_either_process(stack: Stack) -> None:
    alice = customer(tier="Standard")
    with hanging(stack.webs[0], alice, 2), hanging(stack.webs[1], alice, 3):
        for web in stack.webs:
            answer = wire.ask(web, alice.secret, chat(max_tokens=1))
            assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded_concurrency")
            assert answer.retry_after == 1
    until(lambda: wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 200)
    assert len(alice.settled(6)) == 6


def test_five_requests_at_once_pass_and_their_places_are_free_again_at_their_ends(stack: Stack) -> None:
    alice = customer(tier="Standard")
    urls = [web.url for web in stack.webs]
    for _ in range(5):
        answers = all_at_once([*urls, *urls, urls[0]], alice.secret, chat(max_tokens=1))
        assert [status for status, _ in answers] == [200] * 5


def test_a_burst_larger_than_the_pool_of_connections_is_answered(stack: Stack) -> None:
    alice = limited()
    answers = all_at_once([stack.webs[0].url] * 200, alice.secret, chat(max_tokens=1))
    assert {(status, str(answer.get("error"))) for status, answer in answers} == {(200, "None")}
    with limiter() as client:
        until(lambda: client.zcard(leases_key(alice)) == 0)


def test_tokens_a_minute_are_taken_as_asked_and_corrected_to_what_was_used(stack: Stack) -> None:
    alice = limited(tokens=1_000)
    first = wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5]", max_tokens=900))
    assert first.left("tokens") < 100  # The call was still running then.
    used = first.json["usage"]["total_tokens"]
    second = wire.ask(stack.webs[1], alice.secret, chat("[demo: tokens=600]", max_tokens=600))
    assert second.status == 200
    assert 380 - 2 * used <= second.left("tokens") <= 400
    third = wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=600]", max_tokens=600))
    assert (third.status, third.error["code"]) == (429, "rate_limit_exceeded_tokens")
    # 1,000 tokens a minute: 600 are used, 600 more are asked for, so those of the second call must come back first.
    assert 50 <= third.retry_after <= 60


def test_tokens_beyond_the_estimate_are_taken_afterwards(stack: Stack) -> None:
    alice = limited(tokens=10_000)
    wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5 usage_prompt=9000]", max_tokens=10))
    assert wire.ask(stack.webs[1], alice.secret, chat(max_tokens=10)).left("tokens") < 1_100


def test_the_longer_of_two_waits_is_told(stack: Stack) -> None:
    alice = limited(requests=2, tokens=1_000)
    assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 200
    grow_older(alice, 45)
    assert wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=900]", max_tokens=900)).status == 200
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1))
    assert (answer.error["code"], answer.retry_after <= 15) == ("rate_limit_exceeded_requests", True)
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=900))
    assert (answer.error["code"], answer.retry_after > 40) == ("rate_limit_exceeded_tokens", True)


def test_a_call_larger_than_the_whole_limit_is_400(stack: Stack) -> None:
    alice = limited(tokens=1_000)
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1_000))
    assert (answer.status, answer.error["code"]) == (400, "request_exceeds_limit")
    assert answer.error["param"] == "max_tokens"


@pytest.mark.parametrize("failing", ["402", "503", "400"])
def test_refused_calls_give_back_what_they_took(stack: Stack, failing: str) -> None:
    alice = customer(tier="Standard", pico=0 if failing == "402" else 10**12)
    body = chat(f"[demo: status={failing}]" if failing != "402" else "hello")
    for _ in range(10):
        assert wire.ask(stack.webs[0], alice.secret, body).status == int(failing)
    factories.credit(alice.account, 10**12)
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=10))
    assert (answer.status, answer.left("requests")) == (200, 59)
    assert answer.left("tokens") > 99_900
    with limiter() as client:
        assert client.zcard(leases_key(alice)) == 0


def test_the_lease_of_a_process_that_died_is_free_after_its_time(stack: Stack) -> None:
    alice = limited(concurrent=1)
    with limiter() as client:
        seconds, micro = client.time()
        client.zadd(leases_key(alice), {"a call of a dead process": seconds * 10**6 + micro + 20 * 10**6})
        assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 429
        client.zadd(leases_key(alice), {"a call of a dead process": seconds * 10**6 + micro})
    assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 200


def test_the_lease_of_a_running_call_is_renewed(stack: Stack) -> None:
    alice = limited()
    with limiter() as client:
        with hanging(stack.webs[0], alice, 1):
            ((_, first),) = client.zrange(leases_key(alice), 0, -1, withscores=True)
            until(lambda: client.zrange(leases_key(alice), 0, -1, withscores=True)[0][1] > first)
        until(lambda: client.zcard(leases_key(alice)) == 0)


def test_a_lease_that_was_given_back_is_not_revived_by_a_renewal_on_its_way() -> None:
    alice = limited()
    facts = KeyFacts(alice.key.pk, alice.account.pk, False, False, 10, 1_000, 1)

    async def ended_while_the_heartbeat_asked() -> None:
        limits = Limits()
        lease = await limits.take(facts, call_id=uuid4(), tokens=1)
        await limits.give_back(lease)
        await limits.renew([lease])
        await limits.close()

    asyncio.run(ended_while_the_heartbeat_asked())
    with limiter() as client:
        assert client.zcard(leases_key(alice)) == 0


def test_flushall_in_the_middle_of_calls_changes_no_money(stack: Stack) -> None:
    alice = customer()
    body = chat("[demo: tokens=30 tokens_per_second=60]", max_tokens=30)
    with ExitStack() as opened:
        streams = [opened.enter_context(wire.stream(web, alice.secret, body)) for web in stack.webs * 3]
        for one in streams:
            one.read(1)
        with limiter() as client:
            client.flushall()
        assert wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=30]")).status == 200
        assert [one.rest()[-1] for one in streams] == [None] * 6
    records = alice.settled(7)
    assert [record.output_tokens for record in records] == [30] * 7
    assert alice.wallet.posted == 10 * 10**12 - sum(record.charge for record in records)
    assert_books_hold()


def test_without_redis_calls_are_503_at_once_and_come_back_with_it(stack: Stack, tmp_path: Path) -> None:
    alice = customer()
    with servers.valkey(tmp_path / "valkey") as own:
        web = WebProcess(tmp_path / "web.log", REDIS_URL=own.url)
        try:
            web.wait_until_ready()
            assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
            own.stop()
            started = time.monotonic()
            answer = wire.ask(web, alice.secret, chat(max_tokens=1))
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            assert answer.retry_after == 1
            assert time.monotonic() - started < 1
            own.start()
            until(lambda: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200)
        finally:
            assert web.stop() in (0, -15)
    assert not alice.wallet.held or alice.settled(2)


def test_a_restart_of_redis_costs_no_call_however_many_connections_it_left_dead(stack: Stack, tmp_path: Path) -> None:
    alice = customer()
    with servers.valkey(tmp_path / "valkey") as own:
        web = WebProcess(tmp_path / "web.log", REDIS_URL=own.url)
        try:
            web.wait_until_ready()
            for _ in range(2):
                answers = all_at_once([web.url] * 8, alice.secret, chat("[demo: first_token_ms=50]", max_tokens=1))
                assert {(status, str(answer.get("error"))) for status, answer in answers} == {(200, "None")}
                own.kill()
                own.start()
            assert len(alice.settled(16)) == 16
        finally:
            web.stop()


def test_a_take_whose_answer_was_lost_is_not_taken_twice() -> None:
    alice = limited()
    facts = KeyFacts(alice.key.pk, alice.account.pk, False, False, 10, 1_000, 5)

    async def taken_twice() -> str:
        limits = Limits()
        call = uuid4()
        await limits.take(facts, call_id=call, tokens=100)
        lease = await limits.take(facts, call_id=call, tokens=100)
        await limits.close()
        return lease.headers["x-ratelimit-remaining-tokens"]

    assert asyncio.run(taken_twice()) == "900"


def test_the_window_slides_call_by_call() -> None:
    alice = limited()
    facts = KeyFacts(alice.key.pk, alice.account.pk, False, False, 3, 1_000, 5)

    async def left_after(calls: int) -> str:
        limits = Limits()
        try:
            for _ in range(calls):
                lease = await limits.take(facts, call_id=uuid4(), tokens=100)
                await limits.give_back(lease, used_tokens=150)
        finally:
            await limits.close()
        return lease.headers["x-ratelimit-remaining-tokens"]

    assert asyncio.run(left_after(2)) == "750"
    grow_older(alice, 59)
    asyncio.run(left_after(1))
    with pytest.raises(RateLimited) as refused:
        asyncio.run(left_after(1))
    assert (refused.value.limit, refused.value.retry_after) == ("requests", 1)
    grow_older(alice, 1)  # The first two leave, with their tokens.
    assert asyncio.run(left_after(1)) == "750"
