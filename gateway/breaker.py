"""Backends that fail are left alone for a while: a breaker for each model at a backend, shared by all processes.

It **opens** when half of at least five attempts of the last 30 seconds failed, after five failures in a row, when half
of the first tokens come late, and at once when a backend says that it wants to be left alone or that it does not know
us. After a pause one **probe** closes it, or opens it for longer: a worker's own (`gateway.probes`) or, where workers
make none, one call of a process that has calls for it.

What fails for one customer alone may be that customer's doing. Then the breaker is in **doubt** and stays closed until
a worker's probe fails as well; only if no worker makes one in time does it open without.

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from gateway import redis_clients
from gateway.directory import Target
from gateway.errors import BackendUnavailable
from gateway.models import Attempt

logger = logging.getLogger(__name__)

Result = Attempt.Result

SHARE_SECONDS = 1
WORDS_LIMIT = 200
SLOW_MS = 15_000  # A first token that comes later is a late one.
# Nothing that a repeat could mend: a wrong key, no balance there. An unknown model is a 404, but so is at some servers
# whatever goes wrong with one customer's request, and a 403 is what a firewall says to a prompt that it dislikes: these
# must not shut the backend for everybody at once.
OURS = frozenset({401, 402})
OURS_SECONDS = 30
BUSY = 429
BUSY_SECONDS, BUSY_SECONDS_AT_MOST = 1, 60  # How long a 429 keeps a backend out that does not say, or says too much.
PATIENCE_SECONDS = 15  # How long a worker's probe is waited for: until the next round, and for its answer.
REDIS_KEY, PROBES_KEY = "gateway:breakers", "gateway:probes"
SEVERAL = "several"  # Accounts; as breaker.lua has it.

_SCRIPT = Path(__file__).with_name("breaker.lua").read_text()


@dataclass(slots=True)
class _News:
    """What this process saw of a model at a backend since it last told."""

    good: int = 0
    bad: int = 0
    slow: int = 0
    streak: int = 0
    whose: str = ""  # The account whose attempts were bad, or SEVERAL.
    shut_ms: int = 0
    probe: str = ""
    is_wanted: bool = False  # Calls of this process would have gone there.

    def fail(self, account_id: int) -> None:
        self.bad += 1
        self.streak += 1
        self.whose = str(account_id) if self.whose in ("", str(account_id)) else SEVERAL


@dataclass(slots=True)
class _Open:
    """An open breaker. `until` is when the next probe is due, by the monotonic clock.

    Until `mine_until` this process may let one call through as the probe; then another one is asked.
    """

    why: str
    until: float
    mine_until: float = 0

    @property
    def may_probe(self) -> bool:
        return time.monotonic() < self.mine_until

    @property
    def is_slow(self) -> bool:
        """It does answer, so it is asked where nobody else is left."""
        return self.why == "slow"


@dataclass(frozen=True, slots=True)
class State:
    """What all processes know of a model at a backend.

    `why` is empty where the breaker is closed, else "failing" or "slow". `seconds` is until the next probe; `openings`
    counts how often it opened since it was last closed. `probed_at`, `probed` (a Result) and `words` tell of the last
    probe of a worker, if there was one; `seen_at` is when anything was last known of it.
    """

    model_id: int
    backend: str
    why: str
    seconds: int
    openings: int
    doubted: bool
    seen_at: datetime
    probed_at: datetime | None
    probed: str
    words: str


def states(redis: Redis) -> list[State]:
    """Of every model at a backend that was asked lately. `redis` decodes its answers. Raises RedisError."""
    seconds, microseconds = redis.time()
    now_ms = seconds * 1000 + microseconds // 1000
    return [_state(str(name), json.loads(known), now_ms) for name, known in sorted(redis.hgetall(REDIS_KEY).items())]


def tell(
    redis: Redis,
    model_id: int,
    backend: str,
    *,
    probe: Literal["begun", "good", "bad"],
    result: Result | None = None,
    words: str = "",
    shut_seconds: int = 0,
) -> None:
    """What a worker's probe does or has found. Raises RedisError."""
    news: list[str | int] = [
        _name(model_id, backend),
        0,
        0,
        0,
        0,
        "",
        shut_seconds * 1000,
        probe,
        result or "",
        words[:WORDS_LIMIT],
        0,
    ]
    redis.register_script(_SCRIPT)(keys=[REDIS_KEY, PROBES_KEY], args=["", *_pauses(), *news])


def shut_seconds(status: int | None, retry_after: int | None) -> int:
    """How long one that has said so itself is left alone."""
    if status == BUSY:
        return min(BUSY_SECONDS if retry_after is None else retry_after, BUSY_SECONDS_AT_MOST)
    return OURS_SECONDS if status in OURS else 0


class Breaker:
    def __init__(self, boot: UUID) -> None:
        self._boot = boot.hex
        self._redis = redis_clients.one_connection()
        self._script = self._redis.register_script(_SCRIPT)
        self._news: dict[str, _News] = {}
        self._open: dict[str, _Open] = {}
        self._probes: dict[str, UUID] = {}  # The calls that are probes.
        self._away = ""  # Why Redis does not share what is known, as it was logged.
        self.probes: list[tuple[int, str, str, int]] = []  # Of workers: how often which result, by model and backend.

    async def close(self) -> None:
        await self._redis.aclose()

    @property
    def open(self) -> list[tuple[int, str, str]]:
        """The model, the backend and why, of each open one."""
        return [(*_parts(name), known.why) for name, known in self._open.items()]

    def sift(self, model_id: int, targets: Sequence[Target]) -> list[Target]:
        """Those that a call may go to, in their order, the slow ones behind the others.

        Those it may not go to are noted as wanted: this process is one that could probe them. Raises BackendUnavailable
        where there are none, with the seconds until the next probe.
        """
        found = [(target, self._open.get(_name(model_id, target.backend))) for target in targets]
        for target, known in found:
            if known is not None and not known.may_probe:
                self._news_of(_name(model_id, target.backend)).is_wanted = True
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
            found.mine_until = 0
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
        self._probed(_name(model_id, backend), call_id, "slow" if is_slow else "good")

    def ended(
        self,
        model_id: int,
        backend: str,
        call_id: UUID,
        *,
        account_id: int,
        result: Result,
        status: int | None,
        retry_after: int | None,
    ) -> None:
        """An attempt is over."""
        name = _name(model_id, backend)
        if result is Result.PROMPT_REFUSED:
            self.accepted(model_id, backend, call_id, first_token_ms=None)
        elif result not in (Result.OK, Result.LEFT):
            news = self._news_of(name)
            news.fail(account_id)
            self._shut(name, news, status, retry_after)
            self._probed(name, call_id, "bad")
        self._probed(name, call_id, "none")

    async def share(self) -> None:
        """Tell what was seen here, hear what is known everywhere."""
        if not settings.GATEWAY_BREAKER_SECONDS:
            self._news.clear()
            return
        news, self._news = self._news, {}
        arguments: list[str | int] = [self._boot, *_pauses()]
        for name, seen in news.items():
            arguments += [name, seen.good, seen.bad, seen.slow, seen.streak, seen.whose, seen.shut_ms, seen.probe]
            arguments += ["", "", int(seen.is_wanted)]  # The first two are a worker's.
        try:
            answer, probes = await self._script(keys=[REDIS_KEY, PROBES_KEY], args=arguments)
        except RedisError as error:
            self._failed(error)
            return
        self._succeeded()
        self._hear(answer)
        self.probes = [
            _counted(name.decode(), int(count)) for name, count in zip(probes[::2], probes[1::2], strict=True)
        ]

    def _failed(self, error: RedisError) -> None:
        """Log it once, and again where another fault takes its place. An answer that is an error is ours to mend."""
        self._open.clear()
        why = str(error) if isinstance(error, ResponseError) else type(error).__name__
        if not self._away or (isinstance(error, ResponseError) and why != self._away):
            logger.error("breakers are not shared (%s): every backend is asked", why)
            self._away = why

    def _succeeded(self) -> None:
        if self._away:
            logger.warning("breakers are shared again")
        self._away = ""

    def _hear(self, answer: list[tuple[bytes, bytes, int, int]]) -> None:
        now, before = time.monotonic(), self._open
        self._open = {
            name.decode(): _Open(why.decode(), now + wait / 1000, now + wait / 1000 if is_mine else 0)
            for name, why, wait, is_mine in answer
        }
        for name in self._open.keys() & before.keys():
            self._open[name].mine_until = max(self._open[name].mine_until, before[name].mine_until)
        for name in self._open.keys() - before.keys():
            logger.error("breaker open: model and backend %s are left alone (%s)", name, self._open[name].why)
        for name in before.keys() - self._open.keys():
            logger.warning("breaker closed: model and backend %s are asked again", name)

    def _shut(self, name: str, news: _News, status: int | None, retry_after: int | None) -> None:
        """One that has said so itself is left alone at once, here as well."""
        if settings.GATEWAY_BREAKER_SECONDS and (seconds := shut_seconds(status, retry_after)):
            news.shut_ms = seconds * 1000
            self._open[name] = _Open("failing", time.monotonic() + seconds)

    def _probed(self, name: str, call_id: UUID, found: str) -> None:
        if self._probes.get(name) == call_id:
            del self._probes[name]
            self._news_of(name).probe = found

    def _news_of(self, name: str) -> _News:
        return self._news.setdefault(name, _News())


def _state(name: str, known: dict[str, Any], now_ms: int) -> State:
    model_id, backend = _parts(name)
    next_probe = max(known["until_"], known["probe_until"] if known["prober"] else 0)
    seconds = max(math.ceil((next_probe - now_ms) / 1000), 0) if known["open"] else 0
    return State(
        model_id,
        backend,
        known["open"],
        seconds,
        known["openings"],
        doubted=known["doubted_at"] > 0,
        seen_at=_moment(known["seen"]),
        probed_at=_moment(known["probed_at"]) if known["probed_at"] else None,
        probed=known["probed"],
        words=known["words"],
    )


def _moment(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _pauses() -> tuple[int, int]:
    patience = PATIENCE_SECONDS if settings.GATEWAY_PROBE_SECONDS else 0
    return settings.GATEWAY_BREAKER_SECONDS * 1000, patience * 1000


def _name(model_id: int, backend: str) -> str:
    return f"{model_id} {backend}"


def _parts(name: str) -> tuple[int, str]:
    model_id, _, backend = name.partition(" ")
    return int(model_id), backend


def _counted(name: str, count: int) -> tuple[int, str, str, int]:
    name, _, result = name.rpartition(" ")
    return (*_parts(name), result, count)
