from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import pytest

from gateway.batching import Batcher


class Work:
    """Doubles numbers; keeps the batches it was given, and waits in each until it may go on."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()
        if not held:
            self.go_on.set()

    async def run(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.go_on.wait()
        if -1 in items:
            raise psycopg.errors.CheckViolation("a bad row")
        if -2 in items:
            raise psycopg.OperationalError("the database is away")
        return [2 * item for item in items]


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await test()

    asyncio.run(bounded())


async def all_of(batcher: Batcher[int, int], *items: int) -> list[int | BaseException]:
    return await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)


def test_a_lone_item_waits_for_nobody_and_the_next_ones_go_together() -> None:
    async def test() -> None:
        work = Work(held=True)
        batcher = Batcher(work.run, limit=3)
        first = asyncio.create_task(all_of(batcher, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = asyncio.create_task(all_of(batcher, 2, 3, 4, 5))
        await asyncio.sleep(0)
        work.go_on.set()
        assert await first == [2]
        assert await others == [4, 6, 8, 10]
        assert work.batches == [[1], [2, 3, 4], [5]]
        await asyncio.sleep(0)
        assert batcher.idle

    in_loop(test)


def test_one_bad_row_fails_alone() -> None:
    async def test() -> None:
        work = Work()
        results = await all_of(Batcher(work.run, limit=10), 1, -1, 3)
        assert results[::2] == [2, 6]
        assert isinstance(results[1], psycopg.errors.CheckViolation)
        assert work.batches == [[1, -1, 3], [1], [-1], [3]]

    in_loop(test)


def test_an_outage_fails_the_whole_batch_and_not_the_next() -> None:
    async def test() -> None:
        batcher = Batcher(Work().run, limit=10)
        results = await all_of(batcher, 1, -2)
        assert [type(result) for result in results] == [psycopg.OperationalError] * 2
        assert await batcher.submit(7) == 14

    in_loop(test)


def test_a_waiter_who_is_cancelled_does_not_disturb_the_others() -> None:
    async def test() -> None:
        work = Work(held=True)
        batcher = Batcher(work.run, limit=10)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        work.go_on.set()
        assert await tasks[0] == 2
        assert await tasks[2] == 6
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert await batcher.submit(4) == 8

    in_loop(test)


def test_too_few_answers_are_an_error_and_nobody_waits_for_ever() -> None:
    async def test() -> None:
        async def nothing(items: Sequence[int]) -> Sequence[int]:
            return []

        batcher = Batcher(nothing, limit=10)
        with pytest.raises(ValueError, match="shorter"):
            await batcher.submit(1)
        with pytest.raises(ValueError, match="shorter"):
            await batcher.submit(2)

    in_loop(test)


def test_ten_thousand_items_are_answered_in_order() -> None:
    async def test() -> None:
        work = Work()
        results = await all_of(Batcher(work.run, limit=200), *range(10_000))
        assert results == [2 * item for item in range(10_000)]
        assert max(len(batch) for batch in work.batches) == 200

    in_loop(test)
