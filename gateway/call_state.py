"""What is known of one call from its limits to its end, and how it is ended early.

A **Call** is built once its limits are taken. What runs it writes down here how far it came; the heartbeat reads what
it owes so far, and whoever must end it (a hang-up, a disabled key, a server that stops) interrupts it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from apikeys.keys import KeyFacts
from billing.holds import Checkpoint
from billing.pricing import Price, Usage
from billing.usage import Outcome
from gateway.answers import Chunks
from gateway.directory import Model, Target
from gateway.exchange import Exchange
from gateway.frames import Frames
from gateway.limits import Lease
from gateway.metering import Meter
from gateway.requests import Parsed

USAGE_SECONDS = 1  # A backend that has finished gets this long to send its usage to a customer who hung up,
GOODBYE_SECONDS = 3  # and this long, for one who waits, to send it and to end the stream.


@dataclass(slots=True)
class Call:
    """One admitted call, from its hold to its end."""

    exchange: Exchange
    key: KeyFacts
    parsed: Parsed
    model: Model
    price: Price
    held: int
    lease: Lease
    meter: Meter
    admitted_at: datetime
    target: Target | None = None
    attempt: int = 0
    sent: bool = False
    accepted: bool = False
    stopped: Outcome | None = None
    first_token_ms: int | None = None
    answer: dict[str, Any] | None = None
    frames: Frames = field(init=False)
    chunks: Chunks = field(init=False)
    _started: float = field(default_factory=time.monotonic)
    waiting: asyncio.Timeout | None = None  # For the first event of a backend, while another could be asked.
    _scope: asyncio.Timeout | None = None
    _hastened: bool = False

    def __post_init__(self) -> None:
        request = self.parsed.request
        self.frames = Frames(request, call_id=self.id, model=self.model.public_id, admitted_at=self.admitted_at)
        self.chunks = Chunks(request)

    @property
    def id(self) -> UUID:
        return self.exchange.call_id

    @property
    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self._started) * 1000)

    def stop(self, outcome: Outcome) -> None:
        """End the call now, for a reason of ours."""
        self.stopped = outcome
        self.interrupt()

    def interrupt(self) -> None:
        """The customer is gone, or we must go. A backend that has finished may still send its usage."""
        if self._scope is not None and not self._scope.expired():
            grace = USAGE_SECONDS if self.meter.finished and self.meter.reported is None else 0
            self._scope.reschedule(asyncio.get_running_loop().time() + grace)

    def hasten(self) -> None:
        """The answer is complete: what is left of the stream may not take long."""
        if self._scope is not None and not self._hastened:
            self._hastened = True
            self._scope.reschedule(asyncio.get_running_loop().time() + GOODBYE_SECONDS)

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Bounds the call in time; inside, `interrupt` raises TimeoutError out of whatever is waited for."""
        async with asyncio.timeout(settings.GATEWAY_LONGEST_CALL_SECONDS) as self._scope:
            self.exchange.on_close = self.interrupt
            try:
                if self.exchange.closed or self.stopped is not None:
                    raise TimeoutError  # It happened before the call was admitted, so nothing was sent yet.
                yield
            finally:
                self._scope = None

    def mark_sent(self) -> None:
        self.sent = True

    def accept(self) -> None:
        """No other backend will be asked, so a large body makes room for others while this call goes on."""
        self.accepted = True
        if self.waiting is not None:
            self.waiting.reschedule(None)
        self.parsed.sent()
        self.exchange.forget_body()

    async def open_stream(self) -> None:
        if not self.exchange.streaming:
            await self.exchange.start_stream(self.lease.headers)

    def checkpoint(self) -> Checkpoint | None:
        """What is owed so far, once the backend has accepted."""
        if not self.accepted or self.target is None:
            return None
        usage = self.meter.usage()
        return Checkpoint(self.id, self.target.backend, self.attempt, usage.input_tokens, usage.output_tokens)

    def cost_at(self, target: Target, usage: Usage) -> int | None:
        """What the backend charges us, by its price at the admission; None where we do not know."""
        price = target.price(self.admitted_at)
        return price.charge(usage) if price else None
