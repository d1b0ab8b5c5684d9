"""A customer's program: one HTTP call to a gateway, streamed or not, seen through to whatever end it takes."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from tests.chaos.ledger import Call, Ledger

MODEL = "deepseek-v4-flash"
PATIENCE_SECONDS = 45.0
QUESTION = "How do the tides work, and why are there two of them each day?"


@dataclass(frozen=True)
class Customer:
    account_id: int
    secret: str


class Gateway(Protocol):
    """Where calls can be sent; the address may change with each life of the process."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...


class Client:
    """Makes the calls of one fault and writes each into the ledger when it is over."""

    def __init__(self, ledger: Ledger, session: aiohttp.ClientSession, fault: str) -> None:
        self.running: set[Call] = set()
        self._ledger = ledger
        self._session = session
        self._fault = fault

    async def stream(
        self, gateway: Gateway, customer: Customer, *, tokens: int, leave_after: int | None = None, **fields: Any
    ) -> Call:
        """Read a streamed answer of so many tokens to its end, or hang up after some."""
        asked = {"stream": True, "stream_options": {"include_usage": True}, **fields}
        body = _body(f"tokens={tokens}", max(tokens, 100), asked)
        return await self._make(gateway, customer, body, leave_after)

    async def ask(
        self,
        gateway: Gateway,
        customer: Customer,
        *,
        tokens: int = 20,
        marker: str = "tokens_per_second=0",
        **fields: Any,
    ) -> Call:
        """A JSON answer, by default one that the backend has at once."""
        body = _body(f"tokens={tokens} {marker}", max(tokens, 100), fields)
        return await self._make(gateway, customer, body, None)

    async def _make(self, gateway: Gateway, customer: Customer, body: dict[str, Any], leave_after: int | None) -> Call:
        call = Call(self._fault, gateway.name, customer.account_id, body.get("stream", False))
        self.running.add(call)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._exchange(call, gateway.url, customer.secret, body, leave_after)
        except TimeoutError:
            call.end = "timeout"
        except (aiohttp.ClientError, OSError):
            pass  # What was read before says how it ended: a stream after its [DONE] cannot be cut any more.
        except asyncio.CancelledError:
            call.end = "timeout"
            raise
        finally:
            self.running.discard(call)
            self._ledger.write(call)
        return call

    async def _exchange(self, call: Call, url: str, secret: str, body: dict[str, Any], leave_after: int | None) -> None:
        headers = {"Authorization": f"Bearer {secret}"}
        async with self._session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            call.answered_at = time.time()
            call.status = response.status
            call.retry_after = response.headers.get("Retry-After")
            call.call_id = response.headers.get("x-request-id", "").removeprefix("req_") or None
            if response.status != 200:
                call.code, call.end = code_of(await response.read()), "refused"
            elif call.stream:
                await _read_stream(call, response, leave_after)
            else:
                call.usage = (await response.json())["usage"]
                call.tokens, call.end = (call.usage or {}).get("completion_tokens", 0), "done"


async def _read_stream(call: Call, response: aiohttp.ClientResponse, leave_after: int | None) -> None:
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                _see(call, line[6:].strip())
        if leave_after is not None and call.tokens >= leave_after and call.end == "cut":
            call.end = "hung_up"
            response.close()
            return


def _see(call: Call, data: bytes) -> None:
    """One event of a stream. Until [DONE] it may still be cut."""
    if data == b"[DONE]":
        call.end = "error" if call.code else "done"
        return
    event = json.loads(data)
    if "error" in event:
        call.code = event["error"]["code"]
        return
    call.usage = event.get("usage") or call.usage
    deltas = [choice["delta"] for choice in event["choices"]]
    texts = sum(bool(delta.get("content") or delta.get("reasoning_content")) for delta in deltas)
    if texts and call.first_at is None:
        call.first_at = time.time()
    call.tokens += texts


def code_of(body: bytes) -> str | None:
    """The code in OpenAI's envelope; None where the body is none."""
    try:
        code: str | None = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code


def _body(marker: str, max_tokens: int, fields: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{QUESTION} [demo: {marker}]"}]
    return {"model": MODEL, "max_tokens": max_tokens, "messages": messages, **fields}
