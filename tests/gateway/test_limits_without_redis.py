"""Redis gone, hung, full or read-only: the setting decides, nobody waits, no money moves, and it heals by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest
import redis
from pytest_django import Settings

from apikeys.keys import KeyFacts
from flint.sandbox import servers
from flint.sandbox.valkey import Valkey
from gateway.allowances import Amounts
from gateway.errors import RateLimited, Unavailable
from gateway.limits import Limits
from gateway.local_limits import LocalWindow
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

STALL_SECONDS = 1.0  # A call that meets a hung Redis loses half a second at most; the rest is for a busy machine.


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with servers.valkey(tmp_path_factory.mktemp("limits") / "valkey") as own:
        yield own


@pytest.fixture(scope="module")
def webs(stack: Stack, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WebProcess]]:
    """One process for each policy, on a Redis of their own."""
    folder = tmp_path_factory.mktemp("without-redis")
    with ExitStack() as started:
        webs = {}
        for policy in ("closed", "local"):
            environment = {"REDIS_URL": valkey.url, "GATEWAY_LIMITS_WITHOUT_REDIS": policy}
            webs[policy] = WebProcess(folder / f"{policy}.log", **environment)
            started.callback(webs[policy].stop)
        for web in webs.values():
            web.wait_until_ready()
        yield webs


@contextmanager
def gone(valkey: Valkey) -> Iterator[None]:
    valkey.kill()
    yield
    valkey.start()


@contextmanager
def hung(valkey: Valkey) -> Iterator[None]:
    os.kill(valkey.pid, signal.SIGSTOP)
    yield
    os.kill(valkey.pid, signal.SIGCONT)


@contextmanager
def configured(valkey: Valkey, name: str, value: str, afterwards: str) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set(name, value)
        yield
        client.config_set(name, afterwards)


FAULTS: dict[str, Callable[[Valkey], object]] = {
    "gone": gone,
    "hung": hung,
    "read-only": lambda valkey: configured(valkey, "min-replicas-to-write", "1", "0"),
}


def ask(web: WebProcess, of: Customer) -> tuple[wire.Answer, float]:
    started = time.monotonic()
    answer = wire.ask(web, of.secret, chat(max_tokens=1))
    return answer, time.monotonic() - started


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", ["closed", "local"])
def test_calls_are_refused_or_limited_here_at_once_and_shared_again_when_it_is_back(
    webs: dict[str, WebProcess], valkey: Valkey, policy: str, fault: str
) -> None:
    alice, web = customer(), webs[policy]
    until(lambda: ask(web, alice)[0].status == 200)
    before = len(alice.records)
    with FAULTS[fault](valkey):  # type: ignore[attr-defined]
        answers = [ask(web, alice) for _ in range(8)]
    assert max(seconds for _, seconds in answers) < STALL_SECONDS
    if policy == "closed":
        assert {answer.status for answer, _ in answers} == {503}
        assert {answer.retry_after for answer, _ in answers} == {1}
    else:
        assert {answer.status for answer, _ in answers} == {200}
        assert len(alice.records) == before + len(answers)
        lefts = [answer.left("requests") for answer, _ in answers]
        assert lefts == sorted(lefts, reverse=True)
        assert len(set(lefts)) == len(answers)  # Each one counts.

    def shared() -> bool:
        answer, _ = ask(web, alice)
        with redis.Redis.from_url(valkey.url) as client:
            return answer.status == 200 and bool(client.exists(f"limit:{{{alice.account.pk}}}:window"))

    until(shared)
    until(lambda: not alice.holds)
    assert alice.wallet.posted == 10 * 10**12 - sum(record.charge for record in alice.records)
    assert_books_hold()


@pytest.mark.parametrize("policy", ["closed", "local"])
def test_a_full_redis_still_limits(webs: dict[str, WebProcess], valkey: Valkey, policy: str) -> None:
    """It refuses new memory only to scripts that have written nothing yet, and the first thing ours does is to tidy."""
    alice, web = customer(), webs[policy]
    with configured(valkey, "maxmemory", "1", "0"), redis.Redis.from_url(valkey.url) as client:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("more", "memory")
        until(lambda: ask(web, alice)[0].status == 200 and client.exists(f"limit:{{{alice.account.pk}}}:window"))
        assert {ask(web, alice)[0].status for _ in range(4)} == {200}


def test_while_redis_is_known_to_be_hung_nobody_waits_for_it(webs: dict[str, WebProcess], valkey: Valkey) -> None:
    alice, web = customer(), webs["local"]
    with hung(valkey):
        until(lambda: b"Redis is away" in web.log.read_bytes() or not ask(web, alice))
        waits = sorted(ask(web, alice)[1] for _ in range(5))
    assert waits[2] < 0.2, waits


def test_a_stream_that_began_with_redis_ends_well_without_it(webs: dict[str, WebProcess], valkey: Valkey) -> None:
    alice, web = customer(), webs["closed"]
    until(lambda: ask(web, alice)[0].status == 200)
    with wire.stream(web, alice.secret, chat("[demo: tokens=30 tokens_per_second=60]", max_tokens=30)) as opened:
        opened.read(1)
        with gone(valkey):
            assert opened.rest()[-1] is None
    assert {record.outcome for record in alice.settled(2)} == {"completed"}


def facts(of: Customer, *, requests: int = 3, tokens: int = 1_000, concurrent: int = 2) -> KeyFacts:
    return KeyFacts(of.key.pk, of.account.pk, False, False, requests, tokens, concurrent)


def test_what_a_hung_redis_takes_too_late_and_what_it_did_not_hear_of_is_put_right_when_it_is_back(
    valkey: Valkey, settings: Settings
) -> None:
    settings.REDIS_URL = valkey.url
    key = facts(customer())

    async def used() -> Amounts:
        limits = Limits()
        running = await limits.take(key, call_id=uuid4(), tokens=100)
        with hung(valkey):
            with pytest.raises(Unavailable):
                await limits.take(key, call_id=uuid4(), tokens=10)
            await limits.give_back(running, used_tokens=30)
            await limits.renew([])
        for _ in range(2):
            await limits.renew([])
        (standing,) = (await limits.look(key)).standings
        await limits.close()
        return standing.used

    assert asyncio.run(used()) == Amounts(requests=1, tokens=30, concurrency=0)


def test_here_the_same_calls_are_refused_for_the_same_reasons_as_in_redis(settings: Settings) -> None:
    key = facts(customer(), requests=6, tokens=1_000, concurrent=2)
    story = [("take", 100), ("take", 300), ("take", 1), ("end", 50), ("take", 850), ("take", 60), ("end", 900),
             ("take", 10), ("free", 0), ("take", 20), ("end", 0), ("take", 1), ("take", 1), ("end", 0),
             ("take", 1), ("take", 1)]  # fmt: skip

    async def told(limits: Limits) -> list[str]:
        answers, leases = [], []
        for deed, tokens in story:
            if deed == "take":
                try:
                    lease = await limits.take(key, call_id=uuid4(), tokens=tokens)
                except RateLimited as refusal:
                    answers.append(f"{refusal.limit} {refusal.headers['x-ratelimit-remaining-tokens']}")
                    continue
                leases.append(lease)
                left = [lease.headers[f"x-ratelimit-remaining-{kind}"] for kind in ("requests", "tokens")]
                answers.append(" ".join(left))
            else:
                await limits.give_back(leases.pop(0), used_tokens=tokens, refused=deed == "free")
        await limits.close()
        return answers

    in_redis = asyncio.run(told(Limits()))
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.GATEWAY_LIMITS_WITHOUT_REDIS = "local"
    assert asyncio.run(told(Limits())) == in_redis
    refused = {answer.split()[0] for answer in in_redis if not answer[0].isdigit()}
    assert refused == {"requests", "tokens", "concurrency"}


def test_here_too_the_window_slides_call_by_call_and_the_longer_wait_is_told() -> None:
    window, key = LocalWindow(), facts(customer(), requests=3, tokens=1_000, concurrent=10)
    calls = [uuid4() for _ in range(3)]

    def told(tokens: int, now: float) -> tuple[str, float] | None:
        refusal = window.take(key, call_id=uuid4(), tokens=tokens, now=now).refusal
        return (refusal.limit, refusal.wait) if refusal else None

    for second, call in zip((0.0, 10.0, 20.0), calls, strict=True):
        (standing,) = window.take(key, call_id=call, tokens=300, now=second).standings
    assert (standing.left("requests"), standing.left("tokens"), standing.reset) == (0, 100, 60.0)

    assert told(50, 30.0) == ("requests", 30.0)
    assert told(600, 30.0) == ("tokens", 40.0)
    assert told(50, 60.0) is None
    for call in calls:
        window.give_back(call, used_tokens=1, refused=False)
    assert not window.idle(now=119.9)  # One has not been given back,
    assert not window.idle(now=1000.0)  # and may run for long.
