"""Serving: what happens to one accepted call between its first byte and its last.

Three things can end it early: the client hangs up (the server then cancels the task, within milliseconds), a switch
breaks it, or the process has to stop. Each is told apart, with the tokens that had gone out by then.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct

import msgspec
from aiohttp import web

from flint.sandbox.demo_backend import frames
from flint.sandbox.demo_backend.answers import Choice
from flint.sandbox.demo_backend.journal import End, Entry
from flint.sandbox.demo_backend.pace import Pace
from flint.sandbox.demo_backend.switches import Switches

DRAIN_POLL_SECONDS = 0.02
SSE = "text/event-stream"
JSON = "application/json"
WORKER_LOST = "EngineCore encountered an issue: worker 10.0.0.12:8000 is out of memory"

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST.


class Shutdown:
    """`begun` when the process was asked to stop, `over` when running calls have had their time."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()


class Serving:
    """One accepted call. `entry` is kept up to date while it runs, and `end` says how it ended."""

    def __init__(
        self,
        *,
        request: web.Request,
        is_stream: bool,
        switches: Switches,
        choices: list[Choice],
        events: frames.Frames,
        entry: Entry,
        pace: Pace,
        shutdown: Shutdown,
    ) -> None:
        self.end: End | None = None
        self._request = request
        self._is_stream = is_stream
        self._switches = switches
        self._choices = choices
        self._events = events
        self._entry = entry
        self._pace = pace
        self._shutdown = shutdown
        self._response = web.StreamResponse()

    async def run(self) -> web.StreamResponse:
        try:
            await self._serve()
        except asyncio.CancelledError:
            self.end = self.end or ("cut" if self._shutdown.over.is_set() else "client_gone")
            raise
        except ConnectionError:
            self.end = self.end or "client_gone"
        return self._response

    async def _serve(self) -> None:
        switches = self._switches
        if switches.close_before:
            return self._cut()
        if switches.hang_before:
            return await self._hang()
        if switches.garbage in {"html", "empty"}:
            body = frames.HTML if switches.garbage == "html" else b""
            return await self._send_whole(body, "text/html" if body else JSON)
        other_kind = switches.garbage == "other_kind" or (switches.garbage == "sse" and not self._is_stream)
        if self._is_stream != other_kind:
            return await self._stream()
        return await self._answer_whole()

    async def _stream(self) -> None:
        await self._prepare(SSE)
        await self._write(self._events.comments(self._switches.comments))
        await self._pace.first()
        await self._write(self._events.opening(len(self._choices)))
        if await self._write_tokens() == self._switches.breaks_after():
            return await self._break(half=b'data: {"id":"chatcmpl-')
        await self._write(self._events.finish(self._choices) + self._events.ending())
        self._note_usage()
        self.end = "done"
        return await self._response.write_eof()

    async def _write_tokens(self) -> int:
        """Writes the tokens at their pace, up to the last or to where a switch breaks the stream."""
        made = self._events.tokens(self._choices)
        breaks_after = self._switches.breaks_after()
        position = 0
        while breaks_after is None or position < breaks_after:
            due = await self._pace.reach(position)
            if breaks_after is not None:
                due = min(due, breaks_after)
            batch = list(itertools.islice(made, due - position))
            if not batch:
                break
            self._entry.completion_tokens = position + len(batch)
            await self._write(b"".join(batch))
            position += len(batch)
            self._entry.tokens_written = position
            self._note_usage()
        return position

    async def _answer_whole(self) -> None:
        tokens = sum(choice.token_count for choice in self._choices)
        try:
            await self._wait_whole(self._pace.whole_seconds(tokens))
        except (asyncio.CancelledError, ConnectionError):
            self._entry.completion_tokens = self._pace.generated(tokens)
            raise
        self._entry.completion_tokens = tokens
        if self._switches.error_after is not None:
            self.end = "error"
            _, body = frames.error_body("openai", status=500, message=WORKER_LOST)
            return await self._send_whole(body, JSON)
        body = self._events.whole(self._choices)
        if self._switches.breaks_after() is not None:
            return await self._send_half(body)
        if self._switches.garbage == "json":
            return await self._send_whole(body[: len(body) // 2], JSON)
        await self._send_whole(body, JSON)
        self._entry.tokens_written = tokens
        return self._note_usage()

    async def _wait_whole(self, seconds: float) -> None:
        """Waits, sending blank lines meanwhile if that is wanted, as a server with a queue does."""
        lines = self._switches.blank_lines
        if not lines:
            return await asyncio.sleep(seconds)
        await self._prepare(JSON)
        for _ in range(lines):
            await self._write(b"\n")
            await asyncio.sleep(seconds / lines)
        return None

    async def _send_whole(self, body: bytes, content_type: str) -> None:
        if not self._response.prepared:
            self._response.content_length = len(body)
            await self._prepare(content_type)
        await self._write(body)
        self.end = self.end or "done"
        await self._response.write_eof()

    async def _send_half(self, body: bytes) -> None:
        if self._switches.cut != "eof" and not self._response.prepared:
            self._response.content_length = len(body)
        if not self._response.prepared:
            await self._prepare(JSON)
        await self._write(body[: len(body) // 2])
        await self._break(half=b"")

    async def _break(self, *, half: bytes) -> None:
        """What the switch asks for at this place; `half` is the beginning of an event that will never be whole."""
        switches = self._switches
        at = switches.breaks_after()
        if switches.hang_after == at:
            return await self._hang()
        if switches.error_after == at:
            await self._write(self._events.error(WORKER_LOST))
            self.end = "error"
            return await self._response.write_eof()
        if switches.cut == "eof":
            self.end = "cut"
            return await self._response.write_eof()
        if self._request.transport is not None and half:
            # The length of the HTTP chunk promises more than will ever come.
            self._request.transport.write(b"400\r\n" + half)
        return self._cut()

    def _cut(self) -> None:
        self.end = "cut"
        transport = self._request.transport
        if transport is None:
            return
        if self._switches.cut == "rst":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
            return
        transport.close()

    async def _hang(self) -> None:
        """Says nothing until the client leaves or the process stops."""
        self.end = "hung"
        await self._shutdown.begun.wait()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _prepare(self, content_type: str) -> None:
        """Sends the headers now; the body may be a while."""
        if self._request.transport is None:
            raise ConnectionResetError("The client has gone.")
        # Without a buffer in between, what was written has reached the socket.
        self._request.transport.set_write_buffer_limits(high=0)
        self._response.content_type = content_type
        if content_type == SSE:
            self._response.charset = "utf-8"
            self._response.headers["Cache-Control"] = "no-cache"
        await self._response.prepare(self._request)
        self._entry.status = self._response.status
        await self._response.write(b"")

    async def _write(self, data: bytes) -> None:
        """Returns once the socket has taken all of it. Raises ConnectionError when the client has gone."""
        if not data:
            return
        step = self._switches.split or len(data)
        for start in range(0, len(data), step):
            await self._response.write(data[start : start + step])
            if step < len(data):
                await asyncio.sleep(0)
        transport = self._request.transport
        # aiohttp has no public way to wait for an empty buffer; only a reader that is too slow gets here.
        while transport is not None and transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _note_usage(self) -> None:
        """The journal keeps what was sent as usage, JSON or not."""
        usage = self._events.usage_sent
        if usage is None:
            return
        try:
            self._entry.usage = msgspec.json.decode(usage)
        except msgspec.MsgspecError:
            self._entry.usage = usage.decode()
