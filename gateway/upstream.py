"""The client of inference backends: the only module that knows how they speak.

A **BackendFailed** is everything that is the backend's fault or the network's; a **PromptRefused** is the backend
saying that the request itself is wrong. Nothing of a backend's own words, addresses or headers goes on to a customer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

from gateway import addresses
from gateway.choices import BackendFailed
from gateway.directory import Target, Transport
from gateway.faults import Fault
from gateway.models import Attempt

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5  # With the look-up of the name and TLS.
CONNECTIONS = 2000  # Of one process to one backend; a call that finds none free in time goes elsewhere.
DNS_SECONDS = 30  # How long a new connection may go where a backend's name led before.
ANSWER_LIMIT = 64 * 2**20  # Bytes of a JSON answer.
LINE_LIMIT = 2 * 2**20  # Bytes of one event, with whatever comes before it that is none.
DRAIN_SECONDS = 1
WORDS_LIMIT, WORDS_SECONDS = 64 * 2**10, 1  # Of what a backend says to a request that it refuses.
BOM = b"\xef\xbb\xbf"
# A backend that answers so means that this prompt is wrong, not that the backend is.
PROMPT_STATUSES = frozenset({400, 413, 422})
# Some say it of an image that they cannot read with another status: llama.cpp with 500, MLX with 404.
MEDIA_STATUSES = frozenset({404, 500, 501})
MEDIA_REFUSED = re.compile(rb"(image|audio|video) input is not supported|only 'text' content type", re.IGNORECASE)


class PromptRefused(Exception):
    """The backend refuses this request, and would refuse it again. `words` is the beginning of what it says."""

    def __init__(self, status: int, words: bytes) -> None:
        super().__init__("the request was refused")
        self.status = status
        self.words = words


@dataclass(slots=True)
class _Pool:
    session: aiohttp.ClientSession
    calls: int = 0


class Upstream:
    """A pool of connections for each transport, from the first call that needs it."""

    def __init__(self) -> None:
        self._pools: dict[Transport, _Pool] = {}
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.session.close()

    async def keep_only(self, transports: Set[Transport]) -> None:
        """Close the other pools, once their calls have ended."""
        gone = [transport for transport, pool in self._pools.items() if transport not in transports and not pool.calls]
        for transport in gone:
            await self._pools.pop(transport).session.close()

    @asynccontextmanager
    async def open(
        self,
        target: Target,
        path: str,
        body: dict[str, Any],
        *,
        call_id: UUID,
        attempt: int,
        patience: int,
        on_sent: Callable[[], None],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request and wait for a 200; leaving closes the connection unless the answer was read to its end.

        `on_sent` is called when the request goes out; `patience`, in seconds, bounds each silence. Raises
        BackendFailed and PromptRefused.
        """
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # What is packed comes in lumps.
            "X-Flint-Call-Id": str(call_id),
            "X-Flint-Attempt": str(attempt),
        }
        if target.credential:
            headers["Authorization"] = f"Bearer {target.credential}"
        url = f"{target.base_url}{path}"
        with self._pooled(target) as session:
            try:
                response = await session.post(
                    url,
                    data=msgspec.json.encode(body),
                    headers=headers,
                    allow_redirects=False,
                    proxy=target.transport.proxy_url or None,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=target.connect_seconds or CONNECT_SECONDS, sock_read=patience
                    ),
                    trace_request_ctx=on_sent,
                )
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise _broken(target.backend, error, Attempt.Result.NO_CONNECTION) from None
            del body  # It may be large, and the answer may take minutes.
            try:
                if response.status != 200:
                    raise await _refusal(target, response)
                yield response
            finally:
                self._let_go(response)

    @contextlib.contextmanager
    def _pooled(self, target: Target) -> Iterator[aiohttp.ClientSession]:
        """The session of the target's pool, which stays open meanwhile. Raises BackendFailed."""
        pool = self._pools.get(target.transport)
        if pool is None:
            try:
                pool = self._pools[target.transport] = _Pool(_session(target.transport))
            except (OSError, ValueError) as error:
                raise _broken(f"{target.backend}: its CA certificate", error, Attempt.Result.NO_CONNECTION) from None
        pool.calls += 1
        try:
            yield pool.session
        finally:
            pool.calls -= 1

    def _let_go(self, response: aiohttp.ClientResponse) -> None:
        """Keep the connection if the answer ends right away; else close it, which stops the backend."""
        if response.content.at_eof():
            response.release()
        elif getattr(response, "flint_done", False):
            draining = asyncio.create_task(_drain(response))
            self._draining.add(draining)
            draining.add_done_callback(self._draining.discard)
        else:
            response.close()


def _session(transport: Transport) -> aiohttp.ClientSession:
    """TLS is verified always: by the transport's CA certificate alone, where it has one."""
    ca_certificate = transport.ca_certificate
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            limit_per_host=CONNECTIONS,
            ttl_dns_cache=DNS_SECONDS,
            # Idle connections are given up before the servers do so (uvicorn's 5 s): a POST that meets a closing
            # connection fails, and is not repeated.
            keepalive_timeout=4,
            socket_factory=_socket_to,
            ssl=ssl.create_default_context(cadata=ca_certificate) if ca_certificate else True,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[_sent_trace()],
        read_bufsize=2**18,
    )


def _socket_to(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for one address of a backend, if a backend may be there: asked for every new connection."""
    family, kind, protocol, _, address = info
    try:
        addresses.check(str(address[0]))
    except addresses.AddressRefused as refusal:
        logger.error("a backend is not connected to: %s", refusal)
        raise PermissionError(str(refusal)) from refusal
    return socket.socket(family, kind, protocol)


def _sent_trace() -> aiohttp.TraceConfig:
    """Tells a request that waits for a connection from one that a backend may have begun to work on."""
    trace = aiohttp.TraceConfig()

    async def headers_sent(session: Any, context: SimpleNamespace, parameters: Any) -> None:
        context.trace_request_ctx()

    trace.on_request_headers_sent.append(headers_sent)
    return trace


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer, until [DONE] or the end. Raises BackendFailed.

    Of their fields only the data count. An event is ready with its line: nobody waits for the empty one behind it,
    unless the JSON goes on in a second line.
    """
    begun: list[bytes] = []
    skipped, other, came = 0, b"", False
    async for lines in _lines(response):
        for line in lines:
            skipped += len(line)
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                response.flint_done = True  # type: ignore[attr-defined]  # The rest of the body is empty: see _let_go.
                return
            if data and not begun and (event := _json(data)) is not None:
                skipped, came = 0, True
                yield _checked(event)
            elif data:
                begun.append(data)
            elif begun and not line.strip():
                skipped, came = 0, True
                yield _checked(_json(b"\n".join(begun)))
                begun = []
            elif not line.startswith(b":"):
                other = other or line.strip()
        if skipped > LINE_LIMIT:
            raise BackendFailed("an event that does not end", fault=Fault.TOO_LARGE)
    if begun:
        yield _checked(_json(b"\n".join(begun)))
    elif not came:
        raise _no_answer(other)


async def answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """A whole JSON answer. Raises BackendFailed."""
    body = (await _read(response, ANSWER_LIMIT)).removeprefix(BOM)
    decoded = _json(body)
    if decoded is None:
        raise _no_answer(body.strip())
    return _checked(decoded)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """The lines of each piece that comes. They end at \\n only; the last one may lack it."""
    rest, first = b"", True
    try:
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_LIMIT:
                raise BackendFailed("an event that does not end", fault=Fault.TOO_LARGE)
            if lines and first:
                lines[0], first = lines[0].removeprefix(BOM), False
            yield lines
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _broken("the stream broke", error, Attempt.Result.BROKEN) from None
    yield [rest]


def _json(data: bytes) -> Any:
    """None for what is not JSON."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None


def _checked(decoded: Any) -> dict[str, Any]:
    if decoded is None:
        raise BackendFailed("something that is not JSON", fault=Fault.NOT_JSON)
    if not isinstance(decoded, dict):
        raise BackendFailed("something that is no object")
    if decoded.get("error"):
        raise BackendFailed("an error in place of an answer", fault=Fault.ERROR)
    return decoded


def _no_answer(found: bytes) -> BackendFailed:
    """What came in place of JSON or of events."""
    if not found:
        return BackendFailed("a 200 and nothing", fault=Fault.NOTHING)
    if found.startswith(b"<"):
        return BackendFailed("a web page", fault=Fault.HTML)
    return BackendFailed("something that is no answer", fault=Fault.NOT_JSON)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    pieces, size = [], 0
    try:
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BackendFailed("an answer that does not end", fault=Fault.TOO_LARGE)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _broken("the answer broke", error, Attempt.Result.BROKEN) from None
    return b"".join(pieces)


def _broken(what: str, error: Exception, result: Attempt.Result) -> BackendFailed:
    waited_in_vain = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)
    return BackendFailed(
        f"{what}: {type(error).__name__}",
        result=Attempt.Result.SILENT if waited_in_vain else result,
        timed_out=waited_in_vain,
    )


async def _refusal(target: Target, response: aiohttp.ClientResponse) -> Exception:
    """What a status other than 200 means."""
    if response.status in PROMPT_STATUSES:
        return PromptRefused(response.status, await _words(response))
    if response.status in MEDIA_STATUSES and MEDIA_REFUSED.search(words := await _words(response)):
        return PromptRefused(response.status, words)
    if response.status in (401, 402, 403, 404):
        # Our configuration or our bill there: nothing a customer could mend.
        logger.error("backend %s answers %d: check its credential, balance and models", target.backend, response.status)
    asked = response.headers.get("Retry-After", "")
    return BackendFailed(
        f"{target.backend}: status {response.status}",
        result=Attempt.Result.STATUS,
        status=response.status,
        retry_after=int(asked) if asked.isdecimal() else None,
    )


async def _words(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of a body, as far as it comes soon."""
    words = b""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with asyncio.timeout(WORDS_SECONDS):
            while len(words) < WORDS_LIMIT and (piece := await response.content.read(WORDS_LIMIT - len(words))):
                words += piece
    return words


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the end of the body behind [DONE], so that the connection can serve another call."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while not response.content.at_eof():
                await response.content.readany()
        response.release()
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()
