"""The lean road: ASGI in, /v1 out, without the site's middleware and without hops between threads.

Each exchange runs in a task of its own, which the server cannot cancel: what happens at a hang-up or a shutdown is
decided by the call, at moments of its choosing.
"""

from __future__ import annotations

import asyncio
import logging
import time

from django.urls import resolve
from structlog.contextvars import bind_contextvars, clear_contextvars

from gateway import errors, metrics
from gateway.bodies import Room
from gateway.exchange import Exchange, Receive, Scope, Send
from gateway.process import SHUTDOWN_SECONDS, GatewayProcess

logger = logging.getLogger(__name__)


class Gateway:
    def __init__(self) -> None:
        self.process: GatewayProcess | None = None
        self._room = Room()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.process = GatewayProcess()
        await self.process.start()

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.stop_calls()
        if self._serving:
            await asyncio.wait(self._serving, timeout=SHUTDOWN_SECONDS)
        await self.process.stop()

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.ready

    def metrics(self) -> bytes:
        assert self.process is not None  # noqa: S101  # The server starts us before it serves.
        self.process.tell_breakers()
        backlog, read_at = self.process.backlog
        return metrics.exposition(
            ready=self.process.ready,
            running=len(self.process.running),
            unwritten=len(self.process.recorder.unwritten),
            slots=self.process.slots.in_use(),
            backlog=backlog,
            chores=self.process.chores,
            read_at=read_at,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.process is not None  # noqa: S101  # The server starts us before it serves.
        serving = asyncio.create_task(_serve(Exchange(scope, receive, send, self._room), self.process))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            # The server's patience at a shutdown is over, and it calls `stop` next. Leaving now would make it close the
            # connection, before the customer was told how the answer ends.
            await asyncio.wait([serving], timeout=SHUTDOWN_SECONDS)


async def _serve(exchange: Exchange, process: GatewayProcess) -> None:
    clear_contextvars()
    bind_contextvars(request_id=exchange.id)
    began, url = time.monotonic(), "an unknown URL"  # Whose text may be anything, keys included.
    try:
        exchange.get_host()  # Refuses host names that are not ours, which nothing else on this road would.
        match = resolve(exchange.path_info.removesuffix("/"), urlconf="gateway.urls")
        url = match.route
        response = await match.func(exchange, process=process, **match.kwargs)
    except Exception as error:
        response = errors.response_to(errors.translate(error, request_id=exchange.id))
    try:
        if response is not None:
            await exchange.answer(response)
    finally:
        exchange.end()
        facts = {"status": exchange.status, "duration_ms": int((time.monotonic() - began) * 1000)}
        logger.info("%s of %s has ended", exchange.method, url, extra=facts)
