"""Group commit: while one batch is in flight, the next one gathers.

A lone item waits for nobody; under load the batches grow by themselves, and with them the throughput.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from psycopg import DataError, IntegrityError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`run` gets the items of a batch and returns as many results, in the same order."""

    def __init__(self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], *, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._runner is None

    async def submit(self, item: Item) -> Result:
        """The item's result; raises what `run` raised for it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            # In a context of its own: what it logs is about no one item.
            self._runner = asyncio.create_task(self._run_batches(), context=Context())
        return await future

    async def _run_batches(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), self._limit)
                gathered = [self._waiting.popleft() for _ in range(count)]
                # Who asked may have given up meanwhile.
                if batch := [pair for pair in gathered if not pair[1].done()]:
                    await self._run_batch(batch)
        finally:
            self._runner = None

    async def _run_batch(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            answered = list(zip(batch, results, strict=True))
        except (IntegrityError, DataError) as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            # One bad row must not take its neighbours down.
            for pair in batch:
                await self._run_batch([pair])
        except Exception as error:
            for _, future in batch:
                _fail(future, error)
        else:
            for (_, future), result in answered:
                if not future.done():
                    future.set_result(result)


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
