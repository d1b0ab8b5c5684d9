"""Faults of the Redis that keeps the limits. No money may change; gateway one refuses, gateway two limits by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.scene import Fault, Scene, configured, frozen, store_of

# A call loses half a second at most; nobody may wait for Redis as long as its client would by default, 3.2 s.
REDIS_WAIT = 2.5
AWAY_AFTER_SECONDS = 1.0  # Until a gateway has noticed, calls of either setting may be refused.


def killed(scene: Scene) -> None:
    """kill -9 and a start, three times; the last time it stays away for a while."""
    limits = scene.product.limits
    for _ in range(2):
        limits.kill()
        time.sleep(scene.dice.uniform(0.2, 1))
        limits.start()
        time.sleep(scene.dice.uniform(0.2, 1))
    limits.kill()
    with limits_follow_the_setting(scene):
        scene.hold(full=6, short=3)
    limits.start()


def host_frozen(scene: Scene) -> None:
    with frozen(scene.product.limits.pid), limits_follow_the_setting(scene):
        scene.hold(full=10, short=3)


def paused(scene: Scene) -> None:
    """CLIENT PAUSE: it takes commands and answers none, not even UNPAUSE."""
    seconds = scene.size(full=10, short=4)
    with store_of(scene.product.limits) as store:
        store.client_pause(seconds * 1000)
        ends_at = time.monotonic() + seconds
        with limits_follow_the_setting(scene):
            time.sleep(seconds - 1)
        time.sleep(max(ends_at - time.monotonic(), 0))


def flushed(scene: Scene) -> None:
    """FLUSHALL, again and again under load."""
    with store_of(scene.product.limits) as store:
        for _ in range(scene.size(full=20, short=5)):
            store.flushall()
            time.sleep(0.2)


def full(scene: Scene) -> None:
    """Not a byte is left, and noeviction: limits go on, since they free what is old before they write."""
    with configured(scene.product.limits, "maxmemory", "1"):
        begun_at = time.time()
        scene.hold(full=8, short=3)
        ended_at = time.time()
    calls = scene.calls_sent_in(begun_at, ended_at)
    scene.expect(all(call.status != 503 for call in calls), "calls were refused")


def read_only(scene: Scene) -> None:
    """It wants a replica that is not there before it writes."""
    with configured(scene.product.limits, "min-replicas-to-write", "1"), limits_follow_the_setting(scene):
        scene.hold(full=8, short=3)


@contextmanager
def limits_follow_the_setting(scene: Scene) -> Iterator[None]:
    """Meanwhile `closed` refuses all calls and `local` serves them."""
    begun_at = time.time() + AWAY_AFTER_SECONDS
    yield
    ended_at = time.time()
    time.sleep(0.5)  # For answers on their way.
    closed = scene.calls_sent_in(begun_at, ended_at, scene.one)
    local = scene.calls_sent_in(begun_at, ended_at, scene.two)
    refused = sum(call.status == 503 for call in closed)
    served = sum(call.status in (200, 402) for call in local)
    scene.note(f"closed refused {refused} of {len(closed)}, local served {served} of {len(local)}")
    scene.expect(refused == len(closed), "gateway one (closed) let calls in")
    scene.expect(served == len(local), "gateway two (local) refused calls")


FAULTS = (
    Fault("redis-killed", "kill -9 and start, three times", killed, refuses=True, longest_wait=REDIS_WAIT),
    Fault("redis-frozen", "SIGSTOP", host_frozen, refuses=True, longest_wait=REDIS_WAIT),
    Fault("redis-paused", "CLIENT PAUSE", paused, refuses=True, longest_wait=REDIS_WAIT),
    Fault("redis-flushed", "FLUSHALL", flushed, longest_wait=REDIS_WAIT),
    Fault("redis-full", "maxmemory and noeviction", full, longest_wait=REDIS_WAIT),
    Fault("redis-read-only", "it wants a replica", read_only, refuses=True, longest_wait=REDIS_WAIT),
)
