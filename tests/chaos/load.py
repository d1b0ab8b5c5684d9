"""The load: customers who call all the time, in an event loop of their own, so that faults can be plain functions.

For each fault three accounts of its own call: `streams` and `questions` have more money than they need, `poor` has
enough for a few calls at a time and sends more of them at once, so that the guard of the wallet works under the fault.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import random
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from tests.chaos.client import Client, Customer, Gateway
from tests.chaos.ledger import Ledger

T = TypeVar("T")

BACK_OFF_SECONDS = 0.2
HANG_UP_ONE_IN = 10
POOR_TOKENS = 25
POOR_MAX_TOKENS = 2_000  # Each holds far more than it costs, so that few are admitted together.


@dataclass(frozen=True)
class Cast:
    """The accounts of one fault. `narrow` may have few concurrent calls; only some faults use it."""

    streams: Customer
    questions: Customer
    poor: Customer
    narrow: Customer

    @property
    def account_ids(self) -> list[int]:
        return [who.account_id for who in (self.streams, self.questions, self.poor, self.narrow)]


@dataclass(frozen=True)
class Shape:
    """How much load: running streams with their tokens (least, most), questions per second, poor calls at once."""

    streams: int
    tokens: tuple[int, int]
    questions_per_second: float
    poor_burst: int


class Load:
    """One event loop for all clients of the run. `begin` and `end` are called for each fault."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._session = self.run(_session())
        self._callers: list[concurrent.futures.Future[None]] = []
        self._ending = False

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let the work run in the loop of the clients."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.start(work).result()

    def client(self, fault: str) -> Client:
        return Client(self._ledger, self._session, fault)

    def begin(
        self,
        client: Client,
        cast: Cast,
        shape: Shape,
        *,
        gateways: Sequence[Gateway],
        streaming_at: Sequence[Gateway],
        dice: random.Random,
    ) -> None:
        self._ending = False
        homes = itertools.cycle(streaming_at)
        self._callers = [
            self.start(self._stream(client, cast.streams, next(homes), shape, random.Random(dice.random())))
            for _ in range(shape.streams)
        ]
        self._callers.append(self.start(self._ask(client, cast.questions, gateways, shape)))
        self._callers.append(self.start(self._burst(client, cast.poor, gateways, shape)))

    def end(self, patience_seconds: float) -> bool:
        """Begin no further calls, and wait until those that run have ended; whether they did."""
        self._ending = True
        _, running = concurrent.futures.wait(self._callers, patience_seconds)
        for caller in running:
            caller.cancel()
        for caller in self._callers:
            if not caller.cancelled():
                caller.result()
        return not running

    def close(self) -> None:
        self.run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stream(
        self, client: Client, customer: Customer, gateway: Gateway, shape: Shape, dice: random.Random
    ) -> None:
        """One stream after the other; now and then the customer hangs up."""
        while not self._ending:
            tokens = dice.randint(*shape.tokens)
            leave_after = dice.randint(1, tokens - 1) if dice.randrange(HANG_UP_ONE_IN) == 0 else None
            call = await client.stream(gateway, customer, tokens=tokens, leave_after=leave_after)
            if call.end not in ("done", "hung_up"):
                await asyncio.sleep(BACK_OFF_SECONDS)

    async def _ask(self, client: Client, customer: Customer, gateways: Sequence[Gateway], shape: Shape) -> None:
        """Questions at a steady rate, whether the former ones were answered or not."""
        async with asyncio.TaskGroup() as asked:
            for number in itertools.count():
                if self._ending:
                    return
                asked.create_task(client.ask(gateways[number % len(gateways)], customer))
                await asyncio.sleep(1 / shape.questions_per_second)

    async def _burst(self, client: Client, customer: Customer, gateways: Sequence[Gateway], shape: Shape) -> None:
        async with asyncio.TaskGroup() as asked:
            while not self._ending:
                for number in range(shape.poor_burst):
                    gateway = gateways[number % len(gateways)]
                    slow = client.ask(
                        gateway,
                        customer,
                        tokens=POOR_TOKENS,
                        marker="tokens_per_second=50",
                        max_tokens=POOR_MAX_TOKENS,
                    )
                    asked.create_task(slow)
                await asyncio.sleep(1)


async def _session() -> aiohttp.ClientSession:
    # A connection for each call: one that is kept may be closed by the other side just when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5))
