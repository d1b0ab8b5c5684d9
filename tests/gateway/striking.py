"""Calls that are struck at a chosen moment at which they wait: by their customer's hang-up, or by a cancellation.

The gateway runs in this process, so that the suspensions of the task that serves a call can be counted: the blow falls
at the first of them, then at the second, and so on, until a call ends before its turn comes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import uvloop

from gateway import asgi
from gateway.asgi import Gateway
from gateway.exchange import Exchange
from tests.gateway import wire
from tests.gateway.customers import Customer, customer
from tests.proxy import Proxy

SECONDS = 30
A_MOMENT = 0.001  # Long enough for a statement to be on its way.


class Blow(Enum):
    HANG_UP = auto()
    SERVER_CANCELS = auto()  # The task that the server knows.
    CANCEL = auto()  # The task that serves the call.
    CANCEL_A_MOMENT_LATER = auto()


@dataclass
class Struck:
    """One call, what its customer had got when the blow fell, and whether it had been sent to a backend by then."""

    of: Customer
    id: UUID | None = None
    hit: bool = False
    seen: bytes = b""
    sent: bool = False
    answer: bytes = b""


class Stepped(Coroutine[Any, Any, None]):
    """The coroutine of a task, with something that happens at one of its suspensions."""

    def __init__(self, inner: Coroutine[Any, Any, None], at: int, strike: Callable[[], None]) -> None:
        self._inner, self._left, self._strike = inner, at, strike

    def send(self, value: Any) -> Any:
        return self._suspended(self._inner.send(value))

    def throw(self, *fault: Any) -> Any:
        return self._suspended(self._inner.throw(*fault))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()

    def _suspended(self, waited_for: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self._strike()
        return waited_for


class Connection:
    """What uvicorn gives to an application: what is sent to a customer who is gone is lost without a word."""

    def __init__(self, call: Struck, body: bytes) -> None:
        self.gone = asyncio.Event()
        self._call = call
        self._pieces = [body[:10], body[10:]]

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self._pieces and not self.gone.is_set():
            return {"type": "http.request", "body": self._pieces.pop(0), "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if not self.gone.is_set():
            await asyncio.sleep(0)
            self._call.answer += message.get("body", b"")


class StruckGateway:
    """A gateway in a thread of this process, on an event loop of its own, with a proxy in front of its backend."""

    def __init__(self, proxy: Proxy) -> None:
        self.gateway = Gateway()
        self._proxy = proxy
        self.step: Callable[[Exchange, Coroutine[Any, Any, None]], Stepped]
        self._started, self._stopped = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(SECONDS)

    @property
    def boot(self) -> UUID:
        assert self.gateway.process is not None
        return self.gateway.process.boot

    def strike(self, blow: Blow, body: dict[str, Any], *, patience: float = SECONDS) -> Iterator[Struck]:
        """Calls of customers of their own, each struck one suspension later, until one is not struck any more.

        A customer who gets no end of the answer within `patience` hangs up.
        """
        for at in count(1):
            call = Struck(customer())
            serving = self._serve(call, blow, json.dumps(body).encode(), at, patience)
            asyncio.run_coroutine_threadsafe(serving, self._loop).result(2 * SECONDS)
            yield call
            if not call.hit:
                return

    async def _serve(self, call: Struck, blow: Blow, body: bytes, at: int, patience: float) -> None:
        connection = Connection(call, body)

        def strike() -> None:
            if connection.gone.is_set():
                return  # The customer has lost patience before.
            call.hit, call.seen, call.sent = True, call.answer, self._proxy.saw(str(call.id).encode())
            task = asyncio.current_task()
            assert task is not None
            match blow:
                case Blow.HANG_UP:
                    connection.gone.set()
                case Blow.SERVER_CANCELS:
                    served.cancel()
                case Blow.CANCEL:
                    task.cancel()
                case Blow.CANCEL_A_MOMENT_LATER:
                    self._loop.call_later(A_MOMENT, task.cancel)

        def step(exchange: Exchange, inner: Coroutine[Any, Any, None]) -> Stepped:
            call.id = exchange.call_id
            return Stepped(inner, at, strike)

        self.step = step
        served = asyncio.create_task(self.gateway(_scope(call.of, body), connection.receive, connection.send))
        await asyncio.wait([served], timeout=patience)
        connection.gone.set()
        await asyncio.wait_for(served, SECONDS)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.gateway.start()
        while not self.gateway.ready:  # noqa: ASYNC110  # Nothing tells us when.
            await asyncio.sleep(0.01)
        self._started.set()
        await self._stopped.wait()
        await self.gateway.stop()


@contextmanager
def struck_gateway(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[StruckGateway]:
    here = StruckGateway(proxy)
    plain = asgi._serve
    monkeypatch.setattr(asgi, "_serve", lambda exchange, process: here.step(exchange, plain(exchange, process)))
    try:
        yield here
    finally:
        here.stop()


def _scope(of: Customer, body: bytes) -> dict[str, Any]:
    headers = {"host": "127.0.0.1", "authorization": f"Bearer {of.secret}", "content-length": str(len(body))}
    return {
        "type": "http",
        "method": "POST",
        "path": wire.CHAT,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
