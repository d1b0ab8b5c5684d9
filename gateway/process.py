"""One gateway process: what it holds, and what it does beside answering calls.

It has a **boot** id, under which it writes a heartbeat, checkpoints its running calls, renews their leases, and gives
back holds of its own that it does not know. One that cannot beat stops admitting, before a sweeper can call it dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from uuid import UUID

from apikeys import keys
from billing import backlog, chores, holds, ledger, pricing, usage
from billing.backlog import Backlog
from billing.chores import Chores
from billing.usage import Outcome
from gateway import attempts, authentication, breaker, directory, limits, metrics
from gateway.admission import Admission
from gateway.attempts import Journal
from gateway.authentication import Keys
from gateway.breaker import Breaker
from gateway.call_state import Call
from gateway.database import AWAY, Pools
from gateway.directory import Directory
from gateway.doorbell import Doorbell
from gateway.errors import Unavailable
from gateway.forwarding import Backends
from gateway.idempotency import Idempotency
from gateway.limits import Limits
from gateway.recorder import Recorder
from gateway.slots import Slots
from gateway.upstream import Upstream

logger = logging.getLogger(__name__)

# What an admission's moment may differ from the database's. A process whose clock is further off admits nothing: its
# calls would get another moment's price.
CLOCK_SECONDS = 2
NAMED_HOLDS = 20  # In one line of the log.
BACKLOG_SECONDS = 10  # How often it is read, also for those who scrape.
READY_SECONDS = 2  # How long a call waits for a process that admits none.
START_SECONDS = 3  # What comes before the first beat and reading waits so long, in the socket's queue.
SHUTDOWN_SECONDS = 10  # For calls that were told to stop, and again for the records they leave.


class GatewayProcess:
    def __init__(self) -> None:
        self.boot: UUID = uuid.uuid4()
        self.pools = Pools()
        self.limits = Limits()
        self.keys = Keys(self.pools)
        self.admission = Admission(self.pools)
        self.idempotency = Idempotency(self.pools)
        self.doorbell = Doorbell()
        self.recorder = Recorder(self.pools, self.doorbell)
        self.journal = Journal(self.pools)
        self.upstream = Upstream()
        self.breaker = Breaker(self.boot)
        self.slots = Slots()
        self.backends = Backends(self.upstream, self.journal, self.breaker, self.slots)
        self.running: dict[UUID, Call] = {}
        self.refusals: Counter[tuple[int | None, int, str]] = Counter()
        self.backlog: tuple[Backlog | None, float] = (None, time.monotonic())  # And when it was read.
        self.chores: Chores | None = None  # Read with it.
        self._directory: Directory | None = None
        self._stopping = False
        self._read_at = self._beaten_at = -float("inf")
        self._heard = asyncio.Event()  # From the database: whoever waits looks again.
        self._clock_is_right = True
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Waits until calls can be admitted, but not for long: without its database it starts and answers 503."""
        await self.pools.open()
        self._loops = [
            asyncio.create_task(_repeat(self._read_directory, directory.REFRESH_SECONDS)),
            asyncio.create_task(_repeat(self._beat, holds.BEAT_SECONDS)),
            asyncio.create_task(_repeat(self._renew_leases, limits.RENEW_SECONDS)),
            asyncio.create_task(_repeat(self.keys.note_uses, authentication.NOTE_SECONDS)),
            asyncio.create_task(_repeat(self.journal.write, attempts.WRITE_SECONDS)),
            asyncio.create_task(_repeat(self.breaker.share, breaker.SHARE_SECONDS)),
            asyncio.create_task(_repeat(self._watch_backlog, BACKLOG_SECONDS)),
        ]
        await self.becomes_ready(START_SECONDS)

    def stop_calls(self) -> None:
        """Tell the calls that still run to end now, and admit no others."""
        self._stopping = True
        for call in list(self.running.values()):
            call.stop(Outcome.SERVER_STOPPED)

    async def stop(self) -> None:
        """Write what is unwritten, and leave."""
        await self.recorder.flush(SHUTDOWN_SECONDS)
        await self.doorbell.flush()
        for loop in self._loops:
            loop.cancel()
        await self._leave()
        with contextlib.suppress(*AWAY):
            await self.keys.note_uses()
        with contextlib.suppress(*AWAY):
            await self.journal.write()
        await self.upstream.close()
        await self.limits.close()
        await self.breaker.close()
        await self.slots.close()
        await self.pools.close()

    @property
    def ready(self) -> bool:
        """Whether calls can be admitted."""
        now = time.monotonic()
        alive = now - self._beaten_at < holds.SILENT_SECONDS
        # An older reading could miss a price that has started, by a clock that is ahead.
        informed = now - self._read_at < pricing.NOTICE.total_seconds() - CLOCK_SECONDS
        return alive and informed and self._clock_is_right and not self._stopping and not self.recorder.full

    async def becomes_ready(self, seconds: float = READY_SECONDS) -> bool:
        """Whether calls can be admitted now or soon: a process that was too busy to beat or to read will do so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ready and not self._stopping:
                    await self._heard.wait()
        return self.ready

    def _tell_waiting(self) -> None:
        self._heard.set()
        self._heard.clear()

    @property
    def directory(self) -> Directory:
        """Raises Unavailable before the first reading."""
        if self._directory is None:
            raise Unavailable("This server is starting. Please try again.")
        return self._directory

    def tell_breakers(self) -> None:
        """Tell the metrics of all breakers what this process heard."""
        models = self._directory.models.values() if self._directory else ()
        names = {model.id: model.public_id for model in models}
        metrics.tell_breakers(
            open_ones=[(names[model], backend, why) for model, backend, why in self.breaker.open if model in names],
            probes=[
                (names[model], backend, result, count)
                for model, backend, result, count in self.breaker.probes
                if model in names
            ],
        )

    async def release(self, call: Call, *, reason: str) -> None:
        """Give the hold of a free call back; if that fails now, the heartbeat finds it."""
        self.running.pop(call.id, None)
        try:
            await self._release([call.id], reason)
        except AWAY as error:
            logger.warning("the hold of call %s is released later: %s", call.id, type(error).__name__)

    async def _release(self, ids: list[UUID], reason: str) -> None:
        async with self.pools.waiting.connection() as database:
            await ledger.release(database, ids, reason=reason)

    async def _read_directory(self) -> None:
        async with self.pools.main.connection() as database:
            asked_at = time.monotonic()
            self._directory = await directory.read(database)
            self._read_at = asked_at
        self._tell_waiting()
        self.slots.caps = self._directory.caps
        await self.upstream.keep_only(self._directory.transports)

    async def _beat(self) -> None:
        calls = list(self.running.values())
        checkpoints = [point for call in calls if (point := call.checkpoint()) is not None]
        refusals = self.refusals.copy()
        async with self.pools.main.connection() as database:
            asked_at = time.monotonic()  # The beat is as old as the question.
            clock = time.time()
            moment = await holds.beat(database, boot=self.boot, host=socket.gethostname(), pid=os.getpid())
            self._compare_clocks(clock, moment.timestamp(), time.time())
            self._beaten_at = asked_at
            self._tell_waiting()
            await holds.checkpoint(database, checkpoints)
            await usage.count_refusals(database, refusals)
            self.refusals -= refusals
            forgotten = await holds.forgotten(database, boot=self.boot, known=self._known)
            disabled = await keys.disabled(database, {call.key.key_id for call in calls})
        for call in calls:
            if call.key.key_id in disabled:
                call.stop(Outcome.KEY_DISABLED)
        if forgotten:
            named = ", ".join(map(str, list(forgotten)[:NAMED_HOLDS]))
            logger.warning("giving back %d holds that no call here knows: %s", len(forgotten), named)
            await self._release(forgotten, "forgotten")

    async def _renew_leases(self) -> None:
        await self.limits.renew([call.lease for call in self.running.values()])
        await self.slots.renew()

    async def _watch_backlog(self) -> None:
        """Here, because without a worker there is nobody else who could say that it is missing."""
        async with self.pools.main.connection() as database:
            read_at = time.monotonic()
            found = await backlog.read(database)
            self.chores = await chores.read(database)
        self.backlog = found, read_at
        if (lag := found.settlement_lag_seconds) > backlog.BEHIND_SECONDS:
            logger.error("settlement is %.0f s behind: does a Celery worker run?", lag)

    def _compare_clocks(self, before: float, database: float, after: float) -> None:
        """The database's moment lies between ours before and after, if the clocks agree."""
        off = max(before - database, database - after)
        was_right, self._clock_is_right = self._clock_is_right, off <= CLOCK_SECONDS
        if was_right and not self._clock_is_right:
            logger.error("this host's clock is %.1f s off the database's: no calls are taken until it is right", off)
        if self._clock_is_right and not was_right:
            logger.warning("this host's clock agrees with the database's: calls are taken again")

    def _known(self) -> Set[UUID]:
        """The calls whose holds must stay: running, or recorded but not yet durable."""
        return self.running.keys() | self.recorder.unwritten.keys()

    async def _leave(self) -> None:
        try:
            async with self.pools.main.connection() as database:
                await holds.leave(database, boot=self.boot)
        except AWAY:
            logger.warning("left without a word; the sweeper will notice")


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Do the work for ever, whatever happens in it."""
    while True:
        started = time.monotonic()
        try:
            await work()
        except AWAY as error:
            logger.warning("%s: the database is away: %s", work.__name__, type(error).__name__)
        except Exception:
            logger.exception("%s failed", work.__name__)
        await asyncio.sleep(max(seconds - (time.monotonic() - started), 0.1))
