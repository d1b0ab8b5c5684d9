"""The slots of a backend as processes share them: never more than there are, and none is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

import pytest
import redis
from django.conf import settings
from pytest_django import Settings

from flint.sandbox import servers
from flint.sandbox.valkey import Valkey
from gateway import slots
from gateway.directory import Target
from gateway.errors import BackendUnavailable
from gateway.requests import Dialect
from gateway.slots import LEASE_SECONDS, MICRO, REDIS_KEY, Slots
from tests import factories

CROWD = 50


class Fleet:
    """Two processes, and a backend of their own with a cap."""

    def __init__(self, cap: int | None = None) -> None:
        self.backend = factories.unique("gpu")
        self.one, self.two = Slots(), Slots()
        self.set_cap(cap)

    def set_cap(self, cap: int | None) -> None:
        """Which both have heard of."""
        self.one.caps = self.two.caps = {} if cap is None else {self.backend: cap}

    async def take(self, by: Slots, calls: int = 1) -> list[UUID]:
        """Those of so many calls that got a slot."""
        asking = [uuid.uuid4() for _ in range(calls)]
        found = await asyncio.gather(*(by.take(self.backend, call) for call in asking))
        return [call for call, has_room in zip(asking, found, strict=True) if has_room]

    async def give_back(self, by: Slots, *calls: UUID) -> None:
        """And wait until every process can know of it."""
        for call in calls:
            by.give_back(self.backend, call)
        await asyncio.gather(*by._returning)
        self.forget_that_it_was_full()

    def forget_that_it_was_full(self) -> None:
        for process in (self.one, self.two):
            process._full_until.clear()

    def let_pass(self, seconds: float) -> None:
        """For Redis: as if the slots had been taken so long ago."""
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            for call in client.zrange(REDIS_KEY.format(self.backend), 0, -1):
                client.zincrby(REDIS_KEY.format(self.backend), -int(seconds * MICRO), call)

    def targets(self, *others: str) -> list[Target]:
        return [Target(name, "http://gpu/v1", None, "any", 0, 1, Dialect()) for name in (self.backend, *others)]

    @property
    def shared(self) -> int:
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            return int(client.zcard(REDIS_KEY.format(self.backend)))


def with_fleet(facts: Callable[[Fleet], Awaitable[None]], cap: int | None = None) -> None:
    async def run() -> None:
        fleet = Fleet(cap)
        try:
            await facts(fleet)
        finally:
            await fleet.one.close()
            await fleet.two.close()

    asyncio.run(run())


def test_two_processes_never_have_more_than_there_are() -> None:
    async def facts(fleet: Fleet) -> None:
        for _ in range(3):
            of_one, of_two = await asyncio.gather(fleet.take(fleet.one, CROWD), fleet.take(fleet.two, CROWD))
            assert len(of_one) + len(of_two) == fleet.shared == 4
            await fleet.give_back(fleet.one, *of_one)
            await fleet.give_back(fleet.two, *of_two)
            assert fleet.shared == 0

    with_fleet(facts, cap=4)


def test_a_dead_process_keeps_none_for_longer_than_a_lease_and_a_living_one_keeps_its_own() -> None:
    async def facts(fleet: Fleet) -> None:
        await fleet.take(fleet.one)
        await fleet.take(fleet.two)
        assert not await fleet.take(fleet.two)
        for _ in range(2):
            fleet.let_pass(LEASE_SECONDS / 2 + 1)
            await fleet.two.renew()
        fleet.forget_that_it_was_full()
        assert len(await fleet.take(fleet.two, CROWD)) == 1

    with_fleet(facts, cap=2)


def test_a_lowered_cap_holds_at_once_and_lets_go_on_what_runs() -> None:
    async def facts(fleet: Fleet) -> None:
        running = await fleet.take(fleet.one, 3)
        fleet.set_cap(2)
        await fleet.give_back(fleet.one, running[0])
        assert await fleet.take(fleet.two) == await fleet.take(fleet.one) == []
        await fleet.give_back(fleet.one, running[1])
        assert len(await fleet.take(fleet.two)) == 1
        fleet.set_cap(None)
        assert len(await fleet.take(fleet.two, CROWD)) == CROWD

    with_fleet(facts, cap=3)


def test_a_cap_that_comes_finds_what_runs_counted() -> None:
    async def facts(fleet: Fleet) -> None:
        running = await fleet.take(fleet.one, 3)
        assert fleet.shared == 0
        fleet.set_cap(3)
        assert not await fleet.take(fleet.one)
        await fleet.one.renew()
        assert not await fleet.take(fleet.two)
        await fleet.give_back(fleet.one, *running)
        assert fleet.shared == 0
        assert len(await fleet.take(fleet.two, CROWD)) == 3

    with_fleet(facts)


def test_where_redis_was_flushed_the_next_renewal_tells_it_all() -> None:
    async def facts(fleet: Fleet) -> None:
        running = await fleet.take(fleet.one, 2)
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            client.delete(REDIS_KEY.format(fleet.backend))
        await fleet.one.renew()
        assert not await fleet.take(fleet.two)
        await fleet.give_back(fleet.one, *running)
        await fleet.one.renew()
        assert fleet.shared == 0

    with_fleet(facts, cap=2)


def test_a_call_that_is_given_up_while_it_asks_keeps_nothing() -> None:
    async def facts(fleet: Fleet) -> None:
        asking = asyncio.create_task(fleet.one.take(fleet.backend, uuid.uuid4()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await fleet.give_back(fleet.one)
        assert (fleet.one.in_use(), fleet.shared) == ({fleet.backend: 0}, 0)

    with_fleet(facts, cap=1)


def test_who_is_known_to_be_full_is_not_asked_and_where_all_are_the_call_is_told_at_once() -> None:
    async def facts(fleet: Fleet) -> None:
        await fleet.take(fleet.one)
        assert not await fleet.take(fleet.two)
        for process in (fleet.one, fleet.two):
            assert [target.backend for target in process.sift(fleet.targets("spare"))] == ["spare"]
            with pytest.raises(BackendUnavailable) as refused:
                process.sift(fleet.targets())
            assert refused.value.retry_after == 1
        await asyncio.sleep(slots.FULL_SECONDS)
        assert len(fleet.two.sift(fleet.targets())) == 1  # Others may have given back.
        with pytest.raises(BackendUnavailable):
            fleet.one.sift(fleet.targets())

    with_fleet(facts, cap=1)


def test_a_backend_without_a_cap_costs_nothing_of_redis(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    async def facts(fleet: Fleet) -> None:
        await fleet.give_back(fleet.one, *await fleet.take(fleet.one, CROWD))
        await fleet.one.renew()

    with caplog.at_level(logging.WARNING):
        with_fleet(facts)
    assert not caplog.records


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with servers.valkey(tmp_path_factory.mktemp("slots") / "valkey") as own:
        yield own


def kill(valkey: Valkey) -> Callable[[], None]:
    valkey.kill()
    return valkey.start


def freeze(valkey: Valkey) -> Callable[[], None]:
    os.kill(valkey.pid, signal.SIGSTOP)
    return lambda: os.kill(valkey.pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [kill, freeze])
def test_without_redis_each_process_counts_by_itself_and_tells_what_it_has_when_it_is_back(
    valkey: Valkey, settings: Settings, fault: Callable[[Valkey], Callable[[], None]]
) -> None:
    settings.REDIS_URL = valkey.url

    async def facts(fleet: Fleet) -> None:
        before = await fleet.take(fleet.one)
        heal = fault(valkey)
        try:
            await fleet.give_back(fleet.one, *before)
            of_one, of_two = await fleet.take(fleet.one, CROWD), await fleet.take(fleet.two, CROWD)
            assert (len(of_one), len(of_two)) == (2, 2)
            await fleet.give_back(fleet.one, of_one.pop())
            async with asyncio.timeout(0.1):  # Nobody waits for one that is known to be away.
                of_one += await fleet.take(fleet.one)
                await fleet.give_back(fleet.one, of_one.pop())
        finally:
            heal()
        for process in (fleet.one, fleet.two):
            await process.renew()
        assert fleet.shared == 3
        assert not await fleet.take(fleet.one)
        await fleet.give_back(fleet.two, *of_two)
        assert len(await fleet.take(fleet.one)) == 1

    with_fleet(facts, cap=2)
