"""What a fault works with: the product, its load, its accounts, dice, and a place for what it noticed.

A fault is a function that takes a Scene, does its harm, holds it for a while and heals it. What must be so meanwhile it
says with `expect`; it raises Skipped where this machine cannot do the harm.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flint.sandbox.valkey import Valkey
from tests.chaos.client import Client, Customer
from tests.chaos.ledger import Call, Ledger
from tests.chaos.load import Cast, Load, Shape
from tests.chaos.product import Gateway, Product

PATIENCE_SECONDS = 40.0  # For what comes soon on a machine that is not busy with something else.


class Skipped(Exception):
    """This machine cannot do the harm; the text says why."""


@dataclass(frozen=True)
class Fault:
    """What is done, and what must be so; seconds are beyond what the same took just before, on a machine of any speed.

    `recovers_in`: after the fault was healed. `longest_wait`: for any answer or refusal. `refuses`: while it lasts,
    some calls get 503 with Retry-After. `streams_at_one`: all streams run at the gateway that is going to suffer.
    """

    name: str
    what: str
    strike: Callable[[Scene], None]
    recovers_in: float = 10.0
    longest_wait: float | None = None
    refuses: bool = False
    streams_at_one: bool = False
    tokens: tuple[int, int] = (20, 90)


@dataclass
class Scene:
    product: Product
    fault: str
    load: Load
    client: Client
    ledger: Ledger
    cast: Cast
    shape: Shape
    dice: random.Random
    short: bool
    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)  # Done once the load has ended.

    @property
    def one(self) -> Gateway:
        return self.product.one

    @property
    def two(self) -> Gateway:
        return self.product.two

    def size(self, *, full: int, short: int) -> int:
        return short if self.short else full

    def hold(self, *, full: float, short: float) -> None:
        """Let the fault last."""
        time.sleep(short if self.short else full)

    def wait_for_refusal(self) -> None:
        """Let the fault last until a call got 503: a gateway first waits a moment in case what is away comes back."""
        wait_until(lambda: any(call.status == 503 for call in self.calls), "a call is refused")

    def expect(self, fact: bool, complaint: str) -> None:
        if not fact:
            self.complaints.append(complaint)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def calls(self) -> list[Call]:
        """Those of this fault that are over."""
        return self.ledger.calls_of(self.fault)

    def calls_sent_in(self, begun_at: float, ended_at: float, gateway: Gateway | None = None) -> list[Call]:
        named = [call for call in self.calls if gateway is None or call.gateway == gateway.name]
        return [call for call in named if begun_at <= call.sent_at < ended_at]

    def streaming(self, gateway: Gateway) -> list[Call]:
        """The calls of which tokens come now."""
        return [call for call in list(self.client.running) if call.gateway == gateway.name and call.first_at]

    def ask(self, gateway: Gateway, customer: Customer | None = None, **fields: Any) -> Call:
        """One JSON call, to its end."""
        return self.load.run(self.client.ask(gateway, customer or self.cast.questions, **fields))

    def start_streams(
        self, count: int, gateway: Gateway, customer: Customer | None = None, **fields: Any
    ) -> list[concurrent.futures.Future[Call]]:
        who = customer or self.cast.streams
        return [self.load.start(self.client.stream(gateway, who, **fields)) for _ in range(count)]

    def wait_for_streams(self, count: int, gateway: Gateway) -> None:
        wait_until(lambda: len(self.streaming(gateway)) >= count, f"{count} streams run at gateway {gateway.name}")

    def sql(self, statement: str, parameters: list[Any] | None = None) -> list[Any]:
        with psycopg.connect(self.product.postgres.url, autocommit=True) as database:
            cursor = database.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def store_of(server: Valkey) -> redis.Redis:
    """A client that says at once when the server does not answer."""
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)


@contextmanager
def configured(server: Valkey, name: str, value: str) -> Iterator[None]:
    """A setting that is 0 otherwise."""
    with store_of(server) as store:
        store.config_set(name, value)
        try:
            yield
        finally:
            store.config_set(name, "0")


def wait_until(probe: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """How many seconds it took until it was so. Raises TimeoutError."""
    begun = time.monotonic()
    while not probe():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"Not within {seconds:.0f} s: {what}.")
        time.sleep(0.05)
    return time.monotonic() - begun


@contextmanager
def frozen(pid: int, *, family: bool = False) -> Iterator[None]:
    """Stop the process, and with `family` all that it started, as a host does that hangs; let them go on afterwards."""
    first = psutil.Process(pid)
    os.kill(pid, signal.SIGSTOP)
    stopped = [first, *(first.children(recursive=True) if family else [])]
    try:
        for process in stopped[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
