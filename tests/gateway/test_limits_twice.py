"""Whatever calls come, in whatever order: the script in Redis and the window of one process decide the same.

And what a refusal says about time is true: a client that waits exactly as long as Retry-After gets in. Nobody waits in
these tests: the calls in Redis are made older instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck, given, seed
from hypothesis import strategies as st

from apikeys.keys import KeyFacts
from gateway import allowances, limits
from gateway.allowances import Look
from gateway.errors import RateLimited
from gateway.limits import MICRO, Lease, Limits
from gateway.local_limits import LocalWindow
from tests import seeds

EXAMPLES = int(os.environ.get("LIMITS_EXAMPLES", "50"))
STEP_SECONDS = 7  # No multiple of it is a minute, so that no call is just about to leave when the two look.

SIZES = st.sampled_from([1, 40, 100, 250])
LIMITS = st.tuples(st.integers(2, 8), st.sampled_from([250, 300, 500]), st.integers(2, 6))
OWN_LIMITS = st.tuples(
    st.none() | st.integers(1, 5), st.none() | st.sampled_from([250, 270]), st.none() | st.integers(1, 4)
)
DEEDS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 2), SIZES),
    st.tuples(st.just("take"), st.integers(0, 2), SIZES),
    st.tuples(st.just("end"), st.integers(0, 9), SIZES | st.just(0)),
    st.tuples(st.just("free"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 9), st.just(0)),
)


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine is not an outage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REDIS_SECONDS", 5)
        yield


@dataclass
class Both:
    """The same account in Redis and in a window of one process."""

    client: Any
    keys: list[KeyFacts]
    in_redis: Limits = field(default_factory=Limits)
    here: LocalWindow = field(default_factory=LocalWindow)
    passed: int = 0
    running: list[tuple[Lease, UUID]] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.passed + time.monotonic()

    async def take(self, key: KeyFacts, tokens: int) -> RateLimited | None:
        call = uuid4()
        look = self.here.take(key, call_id=call, tokens=tokens, now=self.now)
        expected = allowances.rate_limited(look.refusal) if look.refusal else None
        refusal = None
        try:
            lease = await self.in_redis.take(key, call_id=call, tokens=tokens)
        except RateLimited as raised:
            refusal, headers = raised, raised.headers
        else:
            self.running.append((lease, call))
            headers = lease.headers
        assert (refusal and refusal.code) == (expected and expected.code)
        if refusal and expected:
            assert without_seconds(refusal.message) == without_seconds(expected.message)
            assert refusal.retry_after == pytest.approx(expected.retry_after, abs=1)
        assert without_resets(headers) == without_resets(allowances.headers(look))
        return refusal

    async def end(self, which: int, *, used: int, refused: bool) -> None:
        if self.running:
            lease, call = self.running.pop(which % len(self.running))
            await self.in_redis.give_back(lease, used_tokens=used, refused=refused)
            self.here.give_back(call, used_tokens=used, refused=refused)

    def let_pass(self, seconds: int) -> None:
        self.passed += seconds
        for window in self.client.keys(f"limit:{{{self.keys[0].account_id}}}:*window"):
            for call in self.client.zrange(window, 0, -1):
                self.client.zincrby(window, -seconds * MICRO, call)

    async def compare(self) -> None:
        for key in self.keys:
            look = self.here.look(key, now=self.now)
            shared = await self.in_redis.look(key)
            assert in_use(shared) == in_use(look)
            assert resets(shared) == pytest.approx(resets(look), abs=1)


def without_seconds(message: str) -> str:
    return re.sub(r"in \d+ s", "soon", message)


def in_use(look: Look) -> list[Any]:
    return [(standing.allowance, standing.used) for standing in look.standings]


def resets(look: Look) -> list[float]:
    return [standing.reset for standing in look.standings]


def without_resets(headers: dict[str, str]) -> dict[str, str]:
    """They differ by the milliseconds that the test takes."""
    return {name: value for name, value in headers.items() if "-reset-" not in name}


async def tell(both: Both, story: list[tuple[str, int, int]]) -> None:
    try:
        await tell_all(both, story)
    finally:
        await both.in_redis.close()


async def tell_all(both: Both, story: list[tuple[str, int, int]]) -> None:
    for deed, number, tokens in story:
        if deed == "take":
            refusal = await both.take(both.keys[number], tokens)
            if refusal and refusal.limit != "concurrency":
                assert refusal.retry_after
                both.let_pass(refusal.retry_after)
                again = await both.take(both.keys[number], tokens)
                assert again is None or again.limit == "concurrency"
        elif deed == "pass":
            both.let_pass(number * STEP_SECONDS)
        else:
            await both.end(number, used=tokens, refused=deed == "free")
        await both.compare()


@seed(seeds.LIMITS)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(of_account=LIMITS, of_key=OWN_LIMITS, story=st.lists(DEEDS, min_size=20, max_size=50))
def test_redis_and_one_process_decide_the_same_and_tell_true_waits(
    of_account: tuple[int, int, int],
    of_key: tuple[int | None, int | None, int | None],
    story: list[tuple[str, int, int]],
) -> None:
    account = uuid4().int >> 66
    lowered = (max(of_account[0] // 2, 1), 250, max(of_account[2] // 2, 1))
    keys = [
        KeyFacts(1, account, False, False, *of_account, *of_key),
        KeyFacts(2, account, False, False, *of_account),
        KeyFacts(2, account, False, False, *lowered),  # As if operators changed the tier, and changed it back.
    ]
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        asyncio.run(tell(Both(client, keys), story))
