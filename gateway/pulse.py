"""What a stream does while nothing comes, or nothing is taken.

While the backend is silent the customer gets a **keep-alive** now and then: a chunk that says nothing. Clients and
proxies end connections on which nothing comes, and their parsers stumble over comments. The first one opens the
stream, so that a failure after it is told in an error frame; until then a failure has a status of its own. A customer
who reads nothing for too long is given up like one who hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.conf import settings

from gateway.call_state import Call


@asynccontextmanager
async def kept_alive(call: Call) -> AsyncIterator[None]:
    """Inside, the stream has a pulse. A JSON call has none: there is nothing that could be sent before its answer."""
    if not call.parsed.request.streamed:
        yield
        return
    call.exchange.stir()
    beating = asyncio.create_task(_beat(call))
    try:
        yield
    finally:
        beating.cancel()


async def _beat(call: Call) -> None:
    exchange = call.exchange
    while True:
        most = settings.GATEWAY_SLOW_READER_SECONDS if exchange.sending else settings.GATEWAY_KEEPALIVE_SECONDS
        left = most - exchange.quiet_seconds
        if left > 0:
            await asyncio.sleep(left)
        elif exchange.sending:
            exchange.give_up()
            return
        else:
            await _keep_alive(call)


async def _keep_alive(call: Call) -> None:
    piece = call.chunks.silence()
    if piece is None:  # Only the usage is missing, and nobody waits for it long.
        call.exchange.stir()
        return
    try:
        async with asyncio.timeout(settings.GATEWAY_SLOW_READER_SECONDS):
            await call.open_stream()
            await call.exchange.send_frame(call.frames.chunks([piece]))
    except TimeoutError:
        call.exchange.give_up()
