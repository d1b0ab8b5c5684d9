"""One HTTP exchange with a customer: the request, how its body is read, how the answer goes out, and the hang-up.

An **Exchange** is Django's request with the two ends of its socket. An answer is an ordinary `HttpResponse`, or a
stream of server-sent events: sending waits while the customer reads slowly, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from apikeys.keys import KeyFacts
from gateway.errors import BodyTooLarge, ClientGone, InvalidRequest, Unavailable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_LIMIT = 32 * 2**20  # Bytes; room for images in base64.
BODY_SECONDS = 60  # For the whole body.
LARGE_BODY = 2**20  # Bytes; smaller ones always find room.
BODIES_LIMIT = 256 * 2**20  # Bytes of bodies that one process holds; beyond, large ones are refused.
LAST_SECONDS = 10  # How long the end of a stream waits for a customer who does not read.

# Browsers may call from any page: a key is sent by the page itself, never by the browser on its own as a cookie is.
_BROWSER_HEADERS = [
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"x-request-id, retry-after, x-should-retry, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
        b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
        b"x-ratelimit-reset-tokens",
    ),
]
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(slots=True)
class Bodies:
    """How many bytes of request bodies this process holds."""

    held: int = 0


class Exchange(ASGIRequest):
    """The id is the id of the call, of its hold and of its usage record; customers see it as x-request-id."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, bodies: Bodies) -> None:
        super().__init__(scope, io.BytesIO())
        self.call_id: UUID = uuids.uuid7()
        self.key: KeyFacts | None = None
        self.closed = False
        self.admitted = False  # A hold was committed: from then on its end is what is counted, not a refusal.
        self.streaming = False
        self.on_close: Callable[[], None] | None = None
        self.on_frame: Callable[[bytes], None] | None = None  # Sees what a stream sends.
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._bodies = bodies
        self._body_bytes = 0

    @property
    def id(self) -> str:
        return f"req_{self.call_id.hex}"

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        """A body is JSON, whatever its type says; Django would fail at a charset that it does not know."""
        self.content_type, self.content_params = "", {}

    async def read_body(self) -> bytes:
        """The whole body; from then on a hang-up sets `closed` and calls `on_close`.

        Raises BodyTooLarge, before reading where the length is announced; InvalidRequest where it takes too long;
        Unavailable where too many large ones are here already; ClientGone.
        """
        announced = self.META.get("CONTENT_LENGTH") or "0"
        if not announced.isdigit() or int(announced) > BODY_LIMIT:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read_pieces()
        except TimeoutError:
            raise InvalidRequest(f"The request body did not arrive within {BODY_SECONDS} seconds.") from None
        self._watch = asyncio.create_task(self._wait_for_close())
        return body

    async def _read_pieces(self) -> bytes:
        pieces, more = [], True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The connection was closed.")
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
            self._body_bytes += len(pieces[-1])
            self._bodies.held += len(pieces[-1])
            if self._body_bytes > BODY_LIMIT:
                raise _too_large()
            if self._body_bytes > LARGE_BODY and self._bodies.held > BODIES_LIMIT:
                raise Unavailable("Too many large requests are here at the moment. Please try again.")
        return b"".join(pieces)

    async def _wait_for_close(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.closed = True
        if self.on_close is not None:
            self.on_close()

    async def answer(self, response: HttpResponse) -> None:
        """Send a whole response. A customer who is gone makes no difference."""
        length = {} if response.status_code == 204 else {"Content-Length": str(len(response.content))}
        await self._start(response.status_code, dict(response.items()) | length)
        await self._send_last(response.content)

    async def start_stream(self, headers: dict[str, str]) -> None:
        self.streaming = True
        await self._start(200, _STREAM_HEADERS | headers)

    async def send_frame(self, frame: bytes) -> None:
        if self.on_frame is not None:
            self.on_frame(frame)
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def end_stream(self, frame: bytes) -> None:
        await self._send_last(frame)

    async def _send_last(self, piece: bytes) -> None:
        """A customer who does not read is given up, so that nobody can keep us for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self._send({"type": "http.response.body", "body": piece})

    def end(self) -> None:
        """The exchange is over: its body is gone, and nobody waits for the hang-up any more."""
        self._bodies.held -= self._body_bytes
        if self._watch is not None:
            self._watch.cancel()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        lines = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        lines += [(b"x-request-id", self.id.encode()), *_BROWSER_HEADERS]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {BODY_LIMIT // 2**20} MB.")
