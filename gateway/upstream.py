"""The client of inference backends: the only module that knows how they speak.

A **BackendFailed** is everything that is the backend's fault or the network's; a **PromptRefused** is the backend
saying that the request itself is wrong. Nothing of a backend's own words, addresses or headers goes on to a customer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
from django.conf import settings

from gateway import answers
from gateway.answers import BackendFailed
from gateway.directory import Target
from gateway.requests import Endpoint, Request

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5
ANSWER_LIMIT = 64 * 2**20  # Bytes of a JSON answer.
LINE_LIMIT = 2 * 2**20  # Bytes of one event.
DRAIN_SECONDS = 1
# A backend that answers so means that this prompt is wrong, not that the backend is.
PROMPT_STATUSES = frozenset({400, 413, 422})


class PromptRefused(Exception):
    """The backend refuses this request, and would refuse it again."""


class Upstream:
    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=settings.GATEWAY_IDLE_SECONDS
        )
        self._session = aiohttp.ClientSession(
            # Idle connections are given up before the servers do so (uvicorn's 5 s): a POST that meets a closing
            # connection fails, and is not repeated.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trace_configs=[_sent_trace()],
            read_bufsize=2**18,
        )
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        target: Target,
        path: str,
        body: dict[str, Any],
        *,
        call_id: UUID,
        attempt: int,
        on_sent: Callable[[], None],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request and wait for a 200; leaving closes the connection unless the answer was read to its end.

        `on_sent` is called when the request goes out. Raises BackendFailed and PromptRefused.
        """
        headers = {
            "Content-Type": "application/json",
            "X-Flint-Call-Id": str(call_id),
            "X-Flint-Attempt": str(attempt),
        }
        if target.credential:
            headers["Authorization"] = f"Bearer {target.credential}"
        url = f"{target.base_url}{path}"
        try:
            response = await self._session.post(
                url, data=msgspec.json.encode(body), headers=headers, allow_redirects=False, trace_request_ctx=on_sent
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise BackendFailed(f"{target.backend}: {type(error).__name__}") from None
        try:
            if response.status != 200:
                raise _refusal(target, response)
            yield response
        finally:
            self._let_go(response)

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


def _sent_trace() -> aiohttp.TraceConfig:
    """Tells a request that waits for a connection from one that a backend may have begun to work on."""
    trace = aiohttp.TraceConfig()

    async def headers_sent(session: Any, context: SimpleNamespace, parameters: Any) -> None:
        context.trace_request_ctx()

    trace.on_request_headers_sent.append(headers_sent)
    return trace


async def chunks(response: aiohttp.ClientResponse, endpoint: Endpoint) -> AsyncIterator[dict[str, Any]]:
    """The well-formed chunks of a streamed answer, until [DONE] or the end. Raises BackendFailed."""
    mended = answers.Chunks(endpoint)
    async for data in _events(response):
        if data == b"[DONE]":
            response.flint_done = True  # type: ignore[attr-defined]  # The rest of the body is empty: see _let_go.
            return
        yield mended.chunk(_decoded(data))


async def answer(response: aiohttp.ClientResponse, request: Request) -> dict[str, Any]:
    """A whole JSON answer to the request. Raises BackendFailed."""
    return answers.whole(_decoded(await _read(response, ANSWER_LIMIT)), request)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event. Lines end at \\n only; comments and other fields are dropped."""
    rest = b""
    try:
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_LIMIT:
                raise BackendFailed("an event that does not end")
            for line in lines:
                if line.startswith(b"data:") and (data := line[5:].strip()):
                    yield data
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BackendFailed(f"the stream broke: {type(error).__name__}") from None
    if rest.startswith(b"data:") and (data := rest[5:].strip()):
        yield data


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        raise BackendFailed("something that is not JSON") from None
    if not isinstance(decoded, dict) or decoded.get("error"):
        raise BackendFailed("an error in place of an answer")
    return decoded


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    pieces, size = [], 0
    try:
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BackendFailed("an answer that does not end")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BackendFailed(f"the answer broke: {type(error).__name__}") from None
    return b"".join(pieces)


def _refusal(target: Target, response: aiohttp.ClientResponse) -> Exception:
    """What a status other than 200 means."""
    if response.status in PROMPT_STATUSES:
        return PromptRefused()
    if response.status in (401, 402, 403, 404):
        # Our configuration or our bill there: nothing a customer could mend.
        logger.error("backend %s answers %d: check its credential, balance and models", target.backend, response.status)
    return BackendFailed(f"{target.backend}: status {response.status}")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the end of the body behind [DONE], so that the connection can serve another call."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while not response.content.at_eof():
                await response.content.readany()
        response.release()
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()
