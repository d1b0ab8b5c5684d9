"""How many calls a backend takes at the same time, of all processes together.

A backend with a cap has so many **slots**. An attempt takes one just before it goes out and gives it back when it has
ended, however it ended; a call that finds none goes to the next backend, and waits for nobody. Redis counts them, as
leases that a dead process cannot keep. Attempts at backends without a cap are only noted in this process, so that a
cap that comes finds them counted.

Without Redis each process counts by itself, so that N processes may send N times as many; what they took then is told
to Redis when it is back. A renamed backend is another one here, until the calls that it had under its old name end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from redis.exceptions import RedisError

from gateway import metrics, redis_clients
from gateway.batching import Batcher
from gateway.directory import Target
from gateway.errors import BackendUnavailable

logger = logging.getLogger(__name__)

REDIS_SECONDS = 0.5  # More than a stall of our own, which would be taken for an outage.
LEASE_SECONDS = 30  # A dead process's slots are free after this; those of running calls are renewed every two seconds.
BATCH = 500
# A backend that was found full is taken for full so long, so that a crowd neither asks Redis nor holds money in vain.
FULL_SECONDS = 0.1
RETRY_SECONDS = 1  # What a customer is told where all are full; nobody knows when a running call ends.
MICRO = 1_000_000
REDIS_KEY = "gateway:{{slots}}:{}"  # One hash tag: one script asks about several backends.

_SCRIPT = Path(__file__).with_name("slots.lua").read_text()


@dataclass(slots=True)
class _Slot:
    """`asked`: Redis was asked for it and has not answered yet; `told`: it may have it."""

    asked: bool = False
    told: bool = False


class _Ask(NamedTuple):
    """What `slots.lua` is asked about one backend."""

    backend: str
    lease: int
    most: int
    calls: Sequence[UUID]


class Slots:
    def __init__(self) -> None:
        self._redis = redis_clients.one_connection(REDIS_SECONDS)
        self._script = self._redis.register_script(_SCRIPT)
        # One after the other, so that nothing is given back before it was taken, or renewed after it was given back.
        self._lane = Batcher(self._run, limit=BATCH)
        self.caps: Mapping[str, int] = {}  # By backend, as the directory was last read.
        self._running: defaultdict[str, dict[UUID, _Slot]] = defaultdict(dict)  # Attempts here, by backend.
        self._full_until: dict[str, float] = {}
        self._owed: list[_Ask] = []  # What Redis did not hear of.
        self._returning: set[asyncio.Task[None]] = set()
        self._away = False

    async def close(self) -> None:
        """What is on its way to Redis gets there."""
        await asyncio.gather(*self._returning)
        await self._redis.aclose()

    def sift(self, targets: Sequence[Target]) -> list[Target]:
        """Those that are not known to be full, in their order. Raises BackendUnavailable where there are none."""
        full = {target.backend for target in targets if self._is_full(target.backend)}
        for backend in full:
            metrics.count_full(backend=backend)
        if full and len(full) == len(targets):
            raise BackendUnavailable(RETRY_SECONDS)
        return [target for target in targets if target.backend not in full]

    async def take(self, backend: str, call_id: UUID) -> bool:
        """Whether there is room for an attempt, which counts until `give_back`."""
        if self._is_full(backend):
            metrics.count_full(backend=backend)
            return False
        slot = self._running[backend][call_id] = _Slot()
        if backend not in self.caps or self._away:
            return True
        slot.asked = slot.told = True
        try:
            has_room = bool(await self._lane.submit(_taking(backend, [call_id], most=self.caps[backend])))
        except RedisError as error:
            self._failed(error)
            has_room = True  # As far as this process knows.
        except BaseException:
            self.give_back(backend, call_id)
            raise
        slot.asked = False
        if not has_room:
            del self._running[backend][call_id]
            self._full_until[backend] = time.monotonic() + FULL_SECONDS
            metrics.count_full(backend=backend)
        return has_room

    def give_back(self, backend: str, call_id: UUID) -> None:
        """The attempt has ended. Nobody waits for Redis to hear of it."""
        slot = self._running[backend].pop(call_id)
        self._full_until.pop(backend, None)
        if slot.told:
            returning = asyncio.create_task(self._return(_Ask(backend, 0, 0, [call_id])), context=Context())
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)

    async def renew(self) -> None:
        """Keep the slots of what runs, and tell of those that Redis does not know: taken without it, or without a cap.

        What is owed since Redis was away is given back too.
        """
        owed, self._owed = self._owed, []
        asks = owed + [_taking(name, self._known(name)) for name in self.caps]
        if not asks:
            return
        try:
            await asyncio.gather(*map(self._lane.submit, asks))
        except RedisError as error:
            self._failed(error)
            self._owed += owed
            return
        if self._away:
            logger.warning("Redis is back: slots of backends are shared again")
        self._away = False

    def in_use(self) -> dict[str, int]:
        """How many slots this process has of each backend with a cap."""
        return {name: len(self._running[name]) for name in self.caps}

    def _is_full(self, backend: str) -> bool:
        """As far as is known here. One process may have them all, or have more than a cap that came later."""
        most = self.caps.get(backend)
        if most is None:
            return False
        return len(self._running[backend]) >= most or time.monotonic() < self._full_until.get(backend, 0)

    def _known(self, backend: str) -> list[UUID]:
        """Attempts that have a slot for certain; Redis hears of all of them now."""
        known = {call: slot for call, slot in self._running[backend].items() if not slot.asked}
        for slot in known.values():
            slot.told = True
        return list(known)

    async def _return(self, ask: _Ask) -> None:
        if self._away:
            self._owed.append(ask)
            return
        try:
            await self._lane.submit(ask)
        except RedisError as error:
            self._failed(error)
            self._owed.append(ask)

    async def _run(self, asks: Sequence[_Ask]) -> Sequence[int]:
        arguments: list[str | int] = []
        for ask in asks:
            arguments += [ask.lease, ask.most, len(ask.calls), *(call.hex for call in ask.calls)]
        answer: Sequence[int] = await self._script(keys=[REDIS_KEY.format(ask.backend) for ask in asks], args=arguments)
        return answer

    def _failed(self, error: RedisError) -> None:
        if not self._away:
            logger.error("Redis is away (%s): slots of backends are counted by each process", type(error).__name__)
        self._away = True


def _taking(backend: str, calls: Sequence[UUID], *, most: int = 0) -> _Ask:
    return _Ask(backend, LEASE_SECONDS * MICRO, most, calls)
