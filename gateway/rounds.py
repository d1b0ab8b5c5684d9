"""The rounds of workers: they probe the backends of which nobody knows how they do.

That is one that nobody called for GATEWAY_PROBE_SECONDS, one whose breaker is in doubt, and one whose breaker is open
and has been so for its pause. So a dead backend is known before a customer meets it, and a mended one comes back
without a customer's call. One round runs at a time, whoever makes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta

from django.conf import settings
from redis import Redis
from redis.exceptions import LockError, RedisError

from gateway import breaker, directory, probes, redis_clients
from gateway.breaker import BUSY, State
from gateway.database import AWAY, one_connection
from gateway.directory import Directory, Model, Target
from gateway.models import Attempt
from gateway.probes import Probe

logger = logging.getLogger(__name__)

Result = Attempt.Result

AT_ONCE = 32  # The others wait for the next round.
ROUND_KEY, ROUND_SECONDS = "gateway:round", 30  # Longer than a probe takes: whoever dies in a round holds up the next.
_WELL = frozenset({Result.OK, Result.PROMPT_REFUSED})


async def make() -> None:
    """Probe what is due, if no other worker does. Without Redis there is nobody to tell, so nothing is done."""
    if not settings.GATEWAY_PROBE_SECONDS or not settings.GATEWAY_BREAKER_SECONDS:
        return
    try:
        with redis_clients.for_a_moment() as redis:
            lock = redis.lock(ROUND_KEY, timeout=ROUND_SECONDS, blocking=False)
            if lock.acquire():
                try:
                    await _probe_due(redis)
                finally:
                    lock.release()
    except (RedisError, LockError) as error:
        logger.warning("no backends are probed: Redis is away: %s", type(error).__name__)
    except AWAY as error:
        logger.warning("no backends are probed: the database is away: %s", type(error).__name__)


async def _probe_due(redis: Redis) -> None:
    known = {(state.model_id, state.backend): state for state in breaker.states(redis)}
    now = datetime.now(UTC)
    served = _served(await _read_directory())
    due = [(model, target) for model, target in served if _is_due(known.get((model.id, target.backend)), now)]
    due = random.sample(due, min(len(due), AT_ONCE))
    for model, target in due:
        state = known.get((model.id, target.backend))
        if state is not None and state.why:
            breaker.tell(redis, model.id, target.backend, probe="begun")
    for ended in asyncio.as_completed([_found(model, target) for model, target in due]):
        _tell(redis, *await ended)


async def _read_directory() -> Directory:
    async with one_connection("gateway-probes") as database:
        return await directory.read(database)


def _served(known: Directory) -> list[tuple[Model, Target]]:
    return [(model, target) for model in known.models.values() for target in known.targets.get(model.id, ())]


def _is_due(state: State | None, now: datetime) -> bool:
    if state is None:
        return True
    if state.why:
        return state.seconds == 0
    return state.doubted or now - state.seen_at >= timedelta(seconds=settings.GATEWAY_PROBE_SECONDS)


async def _found(model: Model, target: Target) -> tuple[Model, Target, Probe]:
    return model, target, await probes.probe(target, model)


def _tell(redis: Redis, model: Model, target: Target, found: Probe) -> None:
    """One that is busy is well, and left alone for as long as it says: a probe takes no slot, so it may be one more
    than the cap of a backend that is full."""
    is_well = found.result in _WELL or found.status == BUSY
    level = logging.INFO if is_well else logging.WARNING
    logger.log(level, "probe of %s at %s: %s in %d ms", model.public_id, target.backend, found.words, found.duration_ms)
    breaker.tell(
        redis,
        model.id,
        target.backend,
        probe="good" if is_well else "bad",
        result=found.result,
        words=found.words,
        shut_seconds=breaker.shut_seconds(found.status, found.retry_after),
    )
