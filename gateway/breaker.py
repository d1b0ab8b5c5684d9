"""Backends that fail are left alone for a while: a breaker for each model at a backend, shared by all processes.

It **opens** when half of at least five attempts of the last 30 seconds failed, after five failures in a row, when half
of the first tokens come late, and at once when a backend says that it wants to be left alone or that it does not know
us. After a pause one process lets one call through, the **probe**: it closes the breaker, or opens it for longer.

No call waits for this. Processes tell Redis every second what they saw and hear what all of them know; `breaker.lua`
decides. Without Redis every breaker is closed.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.directory import Target
from gateway.errors import BackendUnavailable
from gateway.models import Attempt

logger = logging.getLogger(__name__)

Result = Attempt.Result

SHARE_SECONDS = 1
REDIS_SECONDS = 0.25
SLOW_MS = 15_000  # A first token that comes later is a late one.
# Nothing that a repeat could mend: a wrong key, no balance there. An unknown model is a 404, but so is at some servers
# whatever goes wrong with one customer's request, and that must not shut the backend for everybody.
OURS = frozenset({401, 402, 403})
OURS_SECONDS = 30
BUSY_SECONDS, BUSY_SECONDS_AT_MOST = 1, 60  # How long a 429 keeps a backend out that does not say, or says too much.
REDIS_KEY = "gateway:breakers"

_SCRIPT = Path(__file__).with_name("breaker.lua").read_text()


@dataclass(slots=True)
class _News:
    """What this process saw of a model at a backend since it last told."""

    good: int = 0
    bad: int = 0
    slow: int = 0
    streak: int = 0
    shut_ms: int = 0
    probe: str = ""


@dataclass(slots=True)
class _Open:
    """An open breaker. `until` is when the next probe is due, by the monotonic clock."""

    why: str
    until: float
    may_probe: bool = False

    @property
    def is_slow(self) -> bool:
        """It does answer, so it is asked where nobody else is left."""
        return self.why == "slow"


@dataclass(frozen=True, slots=True)
class State:
    """What all processes know of a model at a backend.

    `why` is empty where the breaker is closed, else "failing" or "slow". `seconds` is until the next probe; `openings`
    counts how often it opened since it was last closed.
    """

    model_id: int
    backend: str
    why: str
    seconds: int
    openings: int


def states(redis: SyncRedis) -> list[State]:
    """Of every model at a backend that was asked lately, for pages. `redis` decodes its answers. Raises RedisError."""
    seconds, microseconds = redis.time()
    now_ms = seconds * 1000 + microseconds // 1000
    return [_state(str(name), json.loads(known), now_ms) for name, known in sorted(redis.hgetall(REDIS_KEY).items())]


class Breaker:
    def __init__(self, boot: UUID) -> None:
        self._boot = boot.hex
        self._redis = Redis.from_url(
            settings.REDIS_URL,
            max_connections=1,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._script = self._redis.register_script(_SCRIPT)
        self._news: dict[str, _News] = {}
        self._open: dict[str, _Open] = {}
        self._probes: dict[str, UUID] = {}  # The calls that are probes.

    async def close(self) -> None:
        await self._redis.aclose()

    def sift(self, model_id: int, targets: Sequence[Target]) -> list[Target]:
        """Those that a call may go to, in their order, the slow ones behind the others.

        Raises BackendUnavailable where there are none, with the seconds until the next probe.
        """
        found = [(target, self._open.get(_name(model_id, target.backend))) for target in targets]
        well = [target for target, known in found if known is None or known.may_probe]
        slow = [target for target, known in found if known and not known.may_probe and known.is_slow]
        if not well and not slow:
            waits = [known.until - time.monotonic() for _, known in found if known is not None]
            raise BackendUnavailable(math.ceil(min(waits)) if waits else None)
        return well + slow

    def enter(self, model_id: int, backend: str, call_id: UUID) -> bool:
        """Whether this call may go there now; it may be the one that finds out whether others may."""
        name = _name(model_id, backend)
        found = self._open.get(name)
        if found is not None and found.may_probe:
            found.may_probe = False
            self._probes[name] = call_id
            return True
        return found is None or found.is_slow

    def accepted(self, model_id: int, backend: str, call_id: UUID, *, first_token_ms: int | None) -> None:
        """The backend has begun to answer, or given its whole answer."""
        news = self._news_of(_name(model_id, backend))
        news.good += 1
        news.streak = 0
        is_slow = first_token_ms is not None and first_token_ms > SLOW_MS
        news.slow += is_slow
        self._probed(_name(model_id, backend), call_id, "bad" if is_slow else "good")

    def ended(
        self, model_id: int, backend: str, call_id: UUID, *, result: Result, status: int | None, retry_after: int | None
    ) -> None:
        """An attempt is over."""
        name = _name(model_id, backend)
        if result is Result.PROMPT_REFUSED:
            self.accepted(model_id, backend, call_id, first_token_ms=None)
        elif result not in (Result.OK, Result.LEFT):
            news = self._news_of(name)
            news.bad += 1
            news.streak += 1
            self._shut(name, news, status, retry_after)
            self._probed(name, call_id, "bad")
        self._probed(name, call_id, "none")

    async def share(self) -> None:
        """Tell what was seen here, hear what is known everywhere."""
        if not settings.GATEWAY_BREAKER_SECONDS:
            self._news.clear()
            return
        news, self._news = self._news, {}
        arguments: list[str | int] = [self._boot, settings.GATEWAY_BREAKER_SECONDS * 1000]
        for name, seen in news.items():
            arguments += [name, seen.good, seen.bad, seen.slow, seen.streak, seen.shut_ms, seen.probe]
        try:
            answer = await self._script(keys=[REDIS_KEY], args=arguments)
        except RedisError:
            self._open.clear()
            return
        self._hear(answer)

    def _hear(self, answer: list[tuple[bytes, bytes, int, int]]) -> None:
        now, before = time.monotonic(), self._open
        self._open = {
            name.decode(): _Open(why.decode(), now + wait / 1000, bool(may_probe))
            for name, why, wait, may_probe in answer
        }
        for name, known in self._open.items():
            # What was not used yet may be used still, until another process is asked.
            known.may_probe |= name in before and before[name].may_probe and known.until > now
        for name in self._open.keys() - before.keys():
            logger.error("breaker open: model and backend %s are left alone (%s)", name, self._open[name].why)
        for name in before.keys() - self._open.keys():
            logger.warning("breaker closed: model and backend %s are asked again", name)

    def _shut(self, name: str, news: _News, status: int | None, retry_after: int | None) -> None:
        """One that has said so itself is left alone at once, here as well."""
        if not settings.GATEWAY_BREAKER_SECONDS:
            return
        if status == 429:
            seconds = min(BUSY_SECONDS if retry_after is None else retry_after, BUSY_SECONDS_AT_MOST)
        else:
            seconds = OURS_SECONDS if status in OURS else 0
        if seconds:
            news.shut_ms = seconds * 1000
            self._open[name] = _Open("failing", time.monotonic() + seconds)

    def _probed(self, name: str, call_id: UUID, found: str) -> None:
        if self._probes.get(name) == call_id:
            del self._probes[name]
            self._news_of(name).probe = found

    def _news_of(self, name: str) -> _News:
        return self._news.setdefault(name, _News())


def _state(name: str, known: dict[str, Any], now_ms: int) -> State:
    model_id, _, backend = name.partition(" ")
    seconds = max(math.ceil((known["until_"] - now_ms) / 1000), 0) if known["open"] else 0
    return State(int(model_id), backend, known["open"], seconds, known["openings"])


def _name(model_id: int, backend: str) -> str:
    return f"{model_id} {backend}"
