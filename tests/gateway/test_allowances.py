"""What a key may use, and how it is told."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from pytest_django import Settings

from apikeys.keys import KeyFacts
from gateway import allowances
from gateway.allowances import Allowance, Amounts, Look
from gateway.errors import Unavailable
from gateway.limits import Limits

ACCOUNT = Allowance("account", Amounts(60, 100_000, 5))


def facts(*own: int | None) -> KeyFacts:
    """A key of an account that nobody else uses."""
    return KeyFacts(7, uuid4().int >> 66, False, False, 60, 100_000, 5, *own)


@pytest.mark.parametrize(
    ("own", "permitted"),
    [
        ((None, None, None), None),
        ((60, 100_000, 5), None),
        ((61, 200_000, 6), None),
        ((6, None, None), Amounts(6, 100_000, 5)),
        ((None, 99_999, 9), Amounts(60, 99_999, 5)),
        ((600, 1_000_000, 1), Amounts(60, 100_000, 1)),
    ],
)
def test_a_key_has_an_allowance_of_its_own_where_that_is_tighter_than_its_accounts(
    own: tuple[int | None, ...], permitted: Amounts | None
) -> None:
    assert allowances.of(facts(*own)) == ((ACCOUNT, Allowance("key", permitted)) if permitted else (ACCOUNT,))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0ms"), (0.0001, "1ms"), (0.06, "60ms"), (0.9991, "1s"), (1.5, "1.5s"), (45.0, "45s"), (59.9991, "1m0s"),
        (60.0, "1m0s"), (360.25, "6m0.25s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_go_reads_them_and_never_too_short(seconds: float, told: str) -> None:
    assert allowances.duration(seconds) == told


@pytest.mark.parametrize("redis", ["there", "away"])
def test_a_look_says_what_is_in_use_and_takes_nothing(settings: Settings, redis: str) -> None:
    if redis == "away":
        settings.REDIS_URL = "redis://127.0.0.1:1/0"
        settings.GATEWAY_LIMITS_WITHOUT_REDIS = "local"
    key = facts(6, None, 2)

    async def looks() -> tuple[Look, Look, Look]:
        limits = Limits()
        before = await limits.look(key)
        lease = await limits.take(key, call_id=uuid4(), tokens=1_000)
        await limits.look(key)
        during = await limits.look(key)
        await limits.give_back(lease, used_tokens=300)
        after = await limits.look(key)
        await limits.close()
        return before, during, after

    before, during, after = asyncio.run(looks())
    assert [[standing.used for standing in look.standings] for look in (before, during, after)] == [
        [Amounts(0, 0, 0)] * 2, [Amounts(1, 1_000, 1)] * 2, [Amounts(1, 300, 0)] * 2,
    ]  # fmt: skip
    assert [standing.allowance for standing in during.standings] == list(allowances.of(key))
    assert [standing.reset for standing in before.standings] == [0, 0]
    assert all(55 < standing.reset <= 60 for standing in after.standings)
    tightest = during.tightest("requests"), during.tightest("tokens"), during.tightest("concurrency")
    assert [standing.allowance.holder for standing in tightest] == ["key", "account", "key"]
    assert [standing.left("concurrency") for standing in during.standings] == [4, 1]


def test_without_redis_a_look_is_unavailable_where_calls_are(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    async def look() -> None:
        limits = Limits()
        try:
            await limits.look(facts())
        finally:
            await limits.close()

    with pytest.raises(Unavailable):
        asyncio.run(look())
