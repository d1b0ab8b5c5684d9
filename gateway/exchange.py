"""One HTTP exchange with a customer: the request, how its body is read, how the answer goes out, and the hang-up.

An **Exchange** is Django's request with the two ends of its socket. An answer is an ordinary `HttpResponse`, or a
stream of server-sent events: sending waits while the customer reads slowly, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import uuid_utils.compat as uuids
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from apikeys.keys import KeyFacts
from gateway.errors import BodyTooLarge, ClientGone

if TYPE_CHECKING:
    from gateway.process import GatewayProcess

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_LIMIT = 32 * 2**20  # Bytes; room for images in base64.

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Exchange(ASGIRequest):
    """The id is the id of the call, of its hold and of its usage record; customers see it as x-request-id."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, process: GatewayProcess) -> None:
        super().__init__(scope, io.BytesIO())
        self.process = process
        self.call_id: UUID = uuids.uuid7()
        self.key: KeyFacts | None = None
        self.closed = False
        self.streaming = False
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._on_close: Callable[[], None] | None = None

    @property
    def id(self) -> str:
        return f"req_{self.call_id.hex}"

    async def read_body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, before reading where the length is announced; ClientGone."""
        announced = self.META.get("CONTENT_LENGTH") or "0"
        if not announced.isdigit() or int(announced) > BODY_LIMIT:
            raise _too_large()
        pieces, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The connection was closed.")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            more = message.get("more_body", False)
            if size > BODY_LIMIT:
                raise _too_large()
        return b"".join(pieces)

    def watch(self, on_close: Callable[[], None]) -> None:
        """From now on call `on_close` when the customer hangs up. The body must have been read."""
        self._on_close = on_close
        if self.closed:
            on_close()
        elif self._watch is None:
            self._watch = asyncio.create_task(self._wait_for_close())

    async def _wait_for_close(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.closed = True
        if self._on_close is not None:
            self._on_close()

    async def answer(self, response: HttpResponse) -> None:
        """Send a whole response. A customer who is gone makes no difference."""
        await self._start(response.status_code, dict(response.items()) | {"Content-Length": str(len(response.content))})
        await self._send({"type": "http.response.body", "body": response.content})

    async def start_stream(self, headers: dict[str, str]) -> None:
        self.streaming = True
        await self._start(200, _STREAM_HEADERS | headers)

    async def send_frame(self, frame: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": frame, "more_body": not last})

    def end(self) -> None:
        """The exchange is over: nobody waits for the hang-up any more."""
        if self._watch is not None:
            self._watch.cancel()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        lines = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        lines.append((b"x-request-id", self.id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": lines})


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {BODY_LIMIT // 2**20} MB.")
