"""Step 4 of a call: requests/minute, tokens/minute and concurrent requests of an account, in one Redis round trip.

The state is shared by all processes and holds no money: if Redis is flushed, windows start again and nothing else
changes. While Redis is away calls are refused with 503, within a fraction of a second.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

CONNECTIONS = 32  # A burst waits for one of them, which takes less than a millisecond each.
REDIS_SECONDS = 0.25
LEASE_SECONDS = 30  # Renewed with every heartbeat; a dead process's leases are free after this.
MICRO = 1_000_000

_TAKE = Path(__file__).with_name("limits.lua").read_text()
_RETURN = Path(__file__).with_name("limits_return.lua").read_text()


@dataclass(slots=True)
class Lease:
    """What one call took of its account's limits, and what was left then."""

    key: KeyFacts
    call_id: UUID
    headers: dict[str, str]


class Limits:
    def __init__(self) -> None:
        # redis-py retries ten times by default, even after a timeout, so that an outage would cost every call seconds.
        # Once is enough for a connection that a restart left dead; the scripts take nothing twice.
        pool = BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=CONNECTIONS,
            timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._return = self._redis.register_script(_RETURN)

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
        limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests)
        try:
            answer = await self._take(keys=_keys(key), args=(*limits, tokens, call_id.hex, LEASE_SECONDS * MICRO))
        except RedisError as error:
            logger.warning("rate limits cannot be checked: %s", type(error).__name__)
            raise Unavailable("Rate limits cannot be checked for a moment. Please try again.", retry_after=1) from None
        refused, wait, *left = answer
        headers = _headers(key, *left)
        if refused:
            raise _refusal(key, refused.decode(), wait, headers)
        return Lease(key, call_id, headers)

    async def give_back(self, lease: Lease, *, used_tokens: int = 0, refused: bool = False) -> None:
        """End the lease and correct the tokens to those used; of a refused call the request comes back too."""
        try:
            await self._return(keys=_keys(lease.key), args=(lease.call_id.hex, int(refused), used_tokens))
        except RedisError as error:
            logger.info("a lease ends by itself: %s", type(error).__name__)

    async def renew(self, leases: Iterable[Lease]) -> None:
        """Keep the leases of running calls alive; never revive one that its call just gave back."""
        try:
            seconds, micro = await self._redis.time()
            expiry = seconds * MICRO + micro + LEASE_SECONDS * MICRO
            pipeline = self._redis.pipeline(transaction=False)
            for lease in leases:
                pipeline.zadd(_keys(lease.key)[2], {lease.call_id.hex: expiry}, xx=True)
            await pipeline.execute()
        except RedisError as error:
            logger.info("leases are not renewed: %s", type(error).__name__)


def _keys(key: KeyFacts) -> list[str]:
    return [f"limit:{{{key.account_id}}}:{kind}" for kind in ("window", "tokens", "leases")]


def _headers(key: KeyFacts, requests: int, requests_reset: int, tokens: int, tokens_reset: int) -> dict[str, str]:
    """As OpenAI spells them; resets are durations in Go's notation, which its clients parse."""
    return {
        "x-ratelimit-limit-requests": str(key.requests_per_minute),
        "x-ratelimit-limit-tokens": str(key.tokens_per_minute),
        "x-ratelimit-remaining-requests": str(requests),
        "x-ratelimit-remaining-tokens": str(tokens),
        "x-ratelimit-reset-requests": f"{-(-requests_reset // 1000)}ms",
        "x-ratelimit-reset-tokens": f"{-(-tokens_reset // 1000)}ms",
    }


def _refusal(key: KeyFacts, limit: str, wait: int, headers: dict[str, str]) -> RateLimited:
    figure = {
        "requests": f"{key.requests_per_minute} requests per minute",
        "tokens": f"{key.tokens_per_minute} tokens per minute",
        "concurrency": f"{key.concurrent_requests} concurrent requests",
    }[limit]
    refusal = RateLimited(
        f"You have reached your limit of {figure}. See Retry-After, or write to {settings.SUPPORT_EMAIL} for more.",
        limit=limit,
        retry_after=min(max(-(-wait // MICRO), 1), 60),
    )
    refusal.headers = headers
    return refusal
