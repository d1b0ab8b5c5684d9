"""Clients of Redis that give up soon: whatever it holds can be done without, so nobody waits for it for long.

redis-py retries ten times by default, even after a timeout, so that an outage would cost everybody seconds.
"""

from __future__ import annotations

from django.conf import settings
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

REDIS_SECONDS = 0.25


def once_more() -> AsyncRetry:
    """Enough for a connection that a restart left dead. What is asked must do nothing twice."""
    return AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))


def one_connection(seconds: float = REDIS_SECONDS) -> AsyncRedis:
    """For who asks one thing after the other."""
    return AsyncRedis.from_url(
        settings.REDIS_URL,
        max_connections=1,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=once_more(),
    )


def for_a_moment() -> Redis:
    """For a page or a task. It decodes its answers; closing is the caller's."""
    return Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
