"""Step 4 of a call: requests/minute, tokens/minute and concurrent requests of an account, in one Redis round trip.

The state is shared by all processes and holds no money: if Redis is flushed, windows start again and nothing else
changes. While Redis is away (gone, hung, full or read-only) the setting GATEWAY_LIMITS_WITHOUT_REDIS decides: `closed`
refuses calls with 503, `local` lets each process limit by itself. Either way nobody waits for a Redis that is known to
be away: the next renewal of the leases finds out when it is back.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from apikeys.keys import KeyFacts
from gateway.errors import RateLimited, RequestNeverFits, Unavailable
from gateway.local_limits import LocalWindow, Look

logger = logging.getLogger(__name__)

CONNECTIONS = 32
CONNECTION_SECONDS = 1  # A burst waits for one of them, which takes less than a millisecond each.
REDIS_SECONDS = 0.25
RENEW_SECONDS = 2
LEASE_SECONDS = 30  # A dead process's leases are free after this.
AWAY_AFTER_SECONDS = 0.25  # Of nothing but failures. A stall of our own can fail many calls, but at one moment.
MICRO = 1_000_000

_TAKE = Path(__file__).with_name("limits.lua").read_text()
_RETURN = Path(__file__).with_name("limits_return.lua").read_text()


@dataclass(slots=True)
class Lease:
    """What one call took of its account's limits, and what was left then."""

    key: KeyFacts
    call_id: UUID
    headers: dict[str, str]
    local: bool = False


class Limits:
    def __init__(self) -> None:
        # redis-py retries ten times by default, even after a timeout, so that an outage would cost every call seconds.
        # Once is enough for a connection that a restart left dead; the scripts take nothing twice.
        pool = BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=CONNECTIONS,
            timeout=CONNECTION_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._return = self._redis.register_script(_RETURN)
        self._failing_since: float | None = None
        self._away = False
        self._local: dict[int, LocalWindow] = {}

    async def close(self) -> None:
        await self._redis.aclose()

    async def take(self, key: KeyFacts, *, call_id: UUID, tokens: int) -> Lease:
        """Take one request, `tokens` and a lease, all or nothing.

        Raises RequestNeverFits for a call larger than the whole limit, RateLimited, and Unavailable without Redis.
        """
        if tokens > key.tokens_per_minute:
            raise RequestNeverFits(
                f"This request can use {tokens} tokens, more than your limit of {key.tokens_per_minute} tokens per "
                f"minute. Ask for fewer max_tokens, or write to {settings.SUPPORT_EMAIL} for a higher limit.",
                param="max_tokens",
            )
        look = None if self._away else await self._take_in_redis(key, call_id, tokens)
        local = look is None
        if look is None:
            look = self._take_here(key, call_id, tokens)
        headers = _headers(key, look)
        if look.refused:
            raise _refusal(key, look, headers)
        return Lease(key, call_id, headers, local)

    async def give_back(self, lease: Lease, *, used_tokens: int = 0, refused: bool = False) -> None:
        """End the lease and correct the tokens to those used; of a refused call the request comes back too."""
        if lease.local:
            if window := self._local.get(lease.key.account_id):
                window.give_back(lease.call_id, used_tokens=used_tokens, refused=refused)
            return
        if self._away:
            return  # The lease ends by itself.
        try:
            await self._return(keys=_keys(lease.key), args=(lease.call_id.hex, int(refused), used_tokens))
        except RedisError as error:
            self._failed(error)

    async def renew(self, leases: Iterable[Lease]) -> None:
        """Keep the leases of running calls alive; never revive one that its call just gave back."""
        try:
            seconds, micro = await self._redis.time()
            expiry = seconds * MICRO + micro + LEASE_SECONDS * MICRO
            pipeline = self._redis.pipeline(transaction=False)
            for lease in leases:
                if not lease.local:
                    pipeline.zadd(_keys(lease.key)[2], {lease.call_id.hex: expiry}, xx=True)
            await pipeline.execute()
        except RedisError as error:
            self._failed(error)
        else:
            self._succeeded()
        now = time.monotonic()
        self._local = {account: window for account, window in self._local.items() if not window.idle(now=now)}

    async def _take_in_redis(self, key: KeyFacts, call_id: UUID, tokens: int) -> Look | None:
        """None where Redis does not answer."""
        limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests)
        try:
            answer = await self._take(keys=_keys(key), args=(*limits, tokens, call_id.hex, LEASE_SECONDS * MICRO))
        except RedisError as error:
            self._failed(error)
            return None
        self._succeeded()
        refused, wait, requests_left, tokens_left, reset = answer
        return Look(refused.decode(), wait / MICRO, requests_left, tokens_left, reset / MICRO)

    def _take_here(self, key: KeyFacts, call_id: UUID, tokens: int) -> Look:
        if settings.GATEWAY_LIMITS_WITHOUT_REDIS == "closed":
            raise Unavailable("Rate limits cannot be checked for a moment. Please try again.", retry_after=1)
        window = self._local.setdefault(key.account_id, LocalWindow())
        return window.take(key, call_id=call_id, tokens=tokens, now=time.monotonic())

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


def _keys(key: KeyFacts) -> list[str]:
    return [f"limit:{{{key.account_id}}}:{kind}" for kind in ("window", "tokens", "leases")]


def _headers(key: KeyFacts, look: Look) -> dict[str, str]:
    """As OpenAI spells them; resets are durations in Go's notation, which its clients parse."""
    reset = f"{math.ceil(look.reset * 1000)}ms"
    return {
        "x-ratelimit-limit-requests": str(key.requests_per_minute),
        "x-ratelimit-limit-tokens": str(key.tokens_per_minute),
        "x-ratelimit-remaining-requests": str(look.requests_left),
        "x-ratelimit-remaining-tokens": str(look.tokens_left),
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-reset-tokens": reset,
    }


def _refusal(key: KeyFacts, look: Look, headers: dict[str, str]) -> RateLimited:
    figure = {
        "requests": f"{key.requests_per_minute} requests per minute",
        "tokens": f"{key.tokens_per_minute} tokens per minute",
        "concurrency": f"{key.concurrent_requests} concurrent requests",
    }[look.refused]
    refusal = RateLimited(
        f"You have reached your limit of {figure}. See Retry-After, or write to {settings.SUPPORT_EMAIL} for more.",
        limit=look.refused,
        retry_after=min(max(math.ceil(look.wait), 1), 60),
    )
    refusal.headers = headers
    return refusal
