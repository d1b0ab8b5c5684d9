"""Step 4 of a call: requests/minute, tokens/minute and concurrent requests, in one Redis round trip.

They are those of the account, for all of its keys together, and those that the key has of its own, if it has any. A
call is let in by both or takes nothing of either, so calls that were refused do not count. What costs nothing is not
limited: lists of models and figures about the account.

The state is shared by all processes and holds no money: if Redis is flushed, windows start again and nothing else
changes. While Redis is away (gone, hung, full or read-only) the setting GATEWAY_LIMITS_WITHOUT_REDIS decides: `closed`
refuses calls with 503, `local` lets each process limit by itself. Either way nobody waits for a Redis that is known to
be away: the next renewal of the leases finds out when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from redis.asyncio import ConnectionPool, Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from apikeys.keys import KeyFacts
from gateway import allowances
from gateway.allowances import Allowance, Amounts, Look, Refusal, Standing
from gateway.errors import Unavailable
from gateway.local_limits import LocalWindow
from gateway.redis_clients import REDIS_SECONDS, once_more

logger = logging.getLogger(__name__)

CONNECTIONS = 32
# A crowd takes turns at the connections. Redis takes less than a millisecond for each, but all that this process does
# in between counts, too: who waits in vain met a process that is too busy, which says nothing of Redis.
TURN_SECONDS = 5
LATE_SECONDS = 0.05
RENEW_SECONDS = 2
LEASE_SECONDS = 30  # A dead process's leases are free after this.
AWAY_AFTER_SECONDS = 0.25  # Of nothing but failures. A stall of our own can fail many calls, but at one moment.
MICRO = 1_000_000

_TAKE = Path(__file__).with_name("limits.lua").read_text()
_RETURN = Path(__file__).with_name("limits_return.lua").read_text()


@dataclass(slots=True)
class Lease:
    """What one call took of its account's and its key's limits, and what was left then."""

    key: KeyFacts
    call_id: UUID
    headers: dict[str, str]
    redis_keys: Sequence[str]  # None where it was taken here.


class _Return(NamedTuple):
    """What `limits_return.lua` is asked."""

    keys: Sequence[str]
    args: tuple[str, int, int]


class Limits:
    def __init__(self) -> None:
        pool = ConnectionPool.from_url(
            settings.REDIS_URL,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=once_more(),
        )
        self._redis = Redis.from_pool(pool)
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._take = self._redis.register_script(_TAKE)
        self._return = self._redis.register_script(_RETURN)
        self._failing_since: float | None = None
        self._away = False
        self._local: dict[int, LocalWindow] = {}
        self._owed: list[_Return] = []  # What Redis did not hear of.

    async def close(self) -> None:
        await self._redis.aclose()

    async def take(self, key: KeyFacts, *, call_id: UUID, tokens: int) -> Lease:
        """Take one request, `tokens` and a lease, all or nothing.

        Raises RequestNeverFits for a call larger than a whole limit, RateLimited, and Unavailable without Redis.
        """
        permitted = allowances.of(key)
        allowances.insist_that_fits(permitted, tokens=tokens)
        redis_keys = _redis_keys(key, permitted)
        look = await self._ask_redis(redis_keys, permitted, call_id=call_id, tokens=tokens, lease_seconds=LEASE_SECONDS)
        if look is None:
            redis_keys = ()
            look = self._window(key).take(key, call_id=call_id, tokens=tokens, now=time.monotonic())
        headers = allowances.headers(look)
        if look.refusal:
            refused = allowances.rate_limited(look.refusal)
            refused.headers = headers
            raise refused
        return Lease(key, call_id, headers, redis_keys)

    async def look(self, key: KeyFacts) -> Look:
        """What a key and its account have in use and left now; takes nothing. Raises Unavailable without Redis."""
        permitted = allowances.of(key)
        look = await self._ask_redis(_redis_keys(key, permitted), permitted)
        return look or self._window(key).look(key, now=time.monotonic())

    async def give_back(self, lease: Lease, *, used_tokens: int = 0, refused: bool = False) -> None:
        """End the lease and correct the tokens to those used; of a refused call the request comes back too."""
        if not lease.redis_keys:
            if window := self._local.get(lease.key.account_id):
                window.give_back(lease.call_id, used_tokens=used_tokens, refused=refused)
            return
        owed = _Return(lease.redis_keys, (lease.call_id.hex, int(refused), used_tokens))
        if self._away:
            self._owed.append(owed)
            return
        try:
            await self._run(self._return, owed.keys, owed.args)
        except RedisError as error:
            self._failed(error)
            self._owed.append(owed)
        except TimeoutError:
            self._owed.append(owed)

    async def renew(self, leases: Iterable[Lease]) -> None:
        """Keep the leases of running calls alive; never revive one that its call just gave back.

        What is owed since Redis was away is given back too; twice does no harm.
        """
        owed, self._owed = self._owed, []
        try:
            seconds, micro = await self._redis.time()
            expiry = seconds * MICRO + micro + LEASE_SECONDS * MICRO
            pipeline = self._redis.pipeline(transaction=False)
            for one in owed:
                await self._return(keys=one.keys, args=one.args, client=pipeline)
            for lease in leases:
                for redis_key in lease.redis_keys[2::3]:
                    pipeline.zadd(redis_key, {lease.call_id.hex: expiry}, xx=True)
            await pipeline.execute()
        except RedisError as error:
            self._failed(error)
            self._owed += owed
        else:
            self._succeeded()
        now = time.monotonic()
        self._local = {account: window for account, window in self._local.items() if not window.idle(now=now)}

    async def _ask_redis(
        self,
        redis_keys: Sequence[str],
        permitted: Sequence[Allowance],
        *,
        call_id: UUID | None = None,
        tokens: int = 0,
        lease_seconds: int = 0,
    ) -> Look | None:
        """What Redis says, and does where a lease is wanted; None where it does not answer."""
        if self._away:
            return None
        arguments: list[str | int] = [call_id.hex if call_id else "", tokens, lease_seconds * MICRO]
        for allowance in permitted:
            limits = allowance.limits
            arguments += (limits.requests, limits.tokens, limits.concurrency)
        try:
            answer = await self._run(self._take, redis_keys, arguments)
        except TimeoutError:
            self._owe_return(redis_keys, call_id)
            raise Unavailable("This server is too busy at the moment. Please try again.") from None
        except RedisError as error:
            self._failed(error)
            self._owe_return(redis_keys, call_id)
            return None
        self._succeeded()
        return _read(answer, permitted)

    def _owe_return(self, redis_keys: Sequence[str], call_id: UUID | None) -> None:
        """One that only hangs has the question, and takes for a call that is refused, or limited here instead."""
        if call_id:
            self._owed.append(_Return(redis_keys, (call_id.hex, 1, 0)))

    async def _run(self, script: AsyncScript, redis_keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """The script's answer, in its turn. Raises RedisError, and TimeoutError where this process is too busy."""
        async with asyncio.timeout(TURN_SECONDS), self._turns:
            while not self._away:
                asked_at = time.monotonic()
                try:
                    return await script(keys=redis_keys, args=arguments)
                except RedisTimeoutError:
                    if time.monotonic() - asked_at < REDIS_SECONDS + LATE_SECONDS:
                        raise
                    # It rang late: this process was busy, and the answer may be here, unread. Twice does no harm.
        raise RedisConnectionError("it was found to be away")

    def _window(self, key: KeyFacts) -> LocalWindow:
        """Raises Unavailable where no process may limit by itself."""
        if settings.GATEWAY_LIMITS_WITHOUT_REDIS == "closed":
            raise Unavailable("Rate limits cannot be checked for a moment. Please try again.", retry_after=1)
        return self._local.setdefault(key.account_id, LocalWindow())

    def _failed(self, error: RedisError) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if not self._away and now - self._failing_since >= AWAY_AFTER_SECONDS:
            self._away = True
            logger.error(
                "Redis is away (%s): rate limits are %s",
                type(error).__name__,
                "closed, calls get 503"
                if settings.GATEWAY_LIMITS_WITHOUT_REDIS == "closed"
                else "kept by each process by itself",
            )

    def _succeeded(self) -> None:
        if self._away:
            logger.warning("Redis is back: rate limits are shared again")
        self._failing_since, self._away = None, False


def _redis_keys(key: KeyFacts, permitted: Sequence[Allowance]) -> Sequence[str]:
    """Three for each allowance; those of one account lie on one node, which their hash tag sees to."""
    names = {"account": f"limit:{{{key.account_id}}}", "key": f"limit:{{{key.account_id}}}:key:{key.key_id}"}
    return [f"{names[allowance.holder]}:{kind}" for allowance in permitted for kind in ("window", "tokens", "leases")]


def _read(answer: Sequence[Any], permitted: Sequence[Allowance]) -> Look:
    """The answer of `limits.lua`."""
    refused, by, wait, *figures = answer
    standings = [
        Standing(allowance, Amounts(*figures[at : at + 3]), figures[at + 3] / MICRO)
        for at, allowance in zip(range(0, len(figures), 4), permitted, strict=True)
    ]
    return Look(standings, Refusal(refused.decode(), permitted[by - 1], wait / MICRO) if refused else None)
