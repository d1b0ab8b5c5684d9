"""One HTTP exchange with a customer: the request, how its body is read, how the answer goes out, and the hang-up.

An **Exchange** is Django's request with the two ends of its socket. An answer is an ordinary `HttpResponse`, or a
stream of server-sent events: sending waits while the customer reads slowly, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from apikeys.keys import KeyFacts
from gateway.bodies import Body, Room
from gateway.errors import ClientGone, InvalidRequest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 60  # For the whole body.

# Browsers may call from any page: a key is sent by the page itself, never by the browser on its own as a cookie is.
_BROWSER_HEADERS = [
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"x-request-id, x-flint-cost-usd, idempotency-replayed, retry-after, x-should-retry, "
        b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
        b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
    ),
]
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Exchange(ASGIRequest):
    """The id is the id of the call, of its hold and of its usage record; customers see it as x-request-id."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: Room) -> None:
        super().__init__(scope, io.BytesIO())
        self.call_id: UUID = uuids.uuid7()
        self.key: KeyFacts | None = None
        self.closed = False
        self.admitted = False  # A hold was committed: from then on its end is what is counted, not a refusal.
        self.status: int | None = None  # Of the answer; None before it begins.
        self.streaming = False
        self.sending = False  # A frame waits for the customer to read.
        self.on_close: Callable[[], None] | None = None
        self.on_frame: Callable[[bytes], None] | None = None  # Sees what a stream sends.
        self._stirred_at = time.monotonic()
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._room = room
        self._incoming: Body | None = None

    @property
    def id(self) -> str:
        return f"req_{self.call_id.hex}"

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        """A body is JSON, whatever its type says; Django would fail at a charset that it does not know."""
        self.content_type, self.content_params = "", {}

    async def read_body(self) -> bytes:
        """The whole body, unpacked; from then on a hang-up sets `closed` and calls `on_close`.

        Raises BodyTooLarge, before reading where the length is announced; UnsupportedEncoding; InvalidRequest where it
        takes too long; Unavailable where too many large ones are here already; ClientGone.
        """
        announced = int(self.META.get("CONTENT_LENGTH") or 0)  # The server has refused what is not a number.
        self._incoming = Body(self._room, announced=announced, encoding=self.META.get("HTTP_CONTENT_ENCODING", ""))
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self._read_pieces(self._incoming)
        except TimeoutError:
            raise InvalidRequest(f"The request body did not arrive within {BODY_SECONDS} seconds.") from None
        self._watch = asyncio.create_task(self._wait_for_close())
        return self._incoming.whole()

    async def _read_pieces(self, body: Body) -> None:
        await body.expect()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The connection was closed.")
            more = message.get("more_body", False)
            await body.add(message.get("body", b""))

    async def _wait_for_close(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._close()

    def _close(self) -> None:
        self.closed = True
        if self.on_close is not None:
            self.on_close()

    def forget_body(self) -> None:
        """Nobody here needs the body any more."""
        if self._incoming is not None:
            self._incoming.forget()

    @property
    def quiet_seconds(self) -> float:
        """Since something was last sent, or its sending began."""
        return time.monotonic() - self._stirred_at

    def stir(self) -> None:
        """From now on it is quiet."""
        self._stirred_at = time.monotonic()

    def give_up(self) -> None:
        """Leave a customer who does not read: what waits for them is thrown away with the connection.

        ASGI has no word for that, and returning without the rest would leave the connection to the customer's patience.
        Behind uvicorn's `send` is its transport; another server closes the connection when we return.
        """
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()
        self._close()

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
        self.stir()
        self.sending = True
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        self.sending = False

    async def end_stream(self, frame: bytes) -> None:
        await self._send_last(frame)

    async def _send_last(self, piece: bytes) -> None:
        """A customer who does not read is given up, so that nobody can keep us for ever."""
        try:
            async with asyncio.timeout(settings.GATEWAY_SLOW_READER_SECONDS):
                await self._send({"type": "http.response.body", "body": piece})
        except TimeoutError:
            self.give_up()

    def end(self) -> None:
        """The exchange is over: its body is gone, and nobody waits for the hang-up any more."""
        self.forget_body()
        if self._watch is not None:
            self._watch.cancel()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        lines = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        lines += [(b"x-request-id", self.id.encode()), *_BROWSER_HEADERS]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
