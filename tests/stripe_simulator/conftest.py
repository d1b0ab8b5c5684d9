"""One simulator for all tests of it, and one of its own for those that make it fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stripe

from tests.stripe_simulator.process import SECRET, StripeSimulator


@dataclass
class Receiver:
    """A webhook that keeps what it was sent; `statuses` are its next answers, then 200."""

    url: str = ""
    taken: list[stripe.Event] = field(default_factory=list)
    raw: list[tuple[bytes, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def types(self, about: str) -> list[str]:
        """What was told of this object, in order of arrival."""
        return [event.type for event in self.taken if about in json.dumps(event.to_dict(), default=str)]


def receiving(receiver: Receiver) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            header = self.headers["Stripe-Signature"]
            receiver.raw.append((body, header))
            if status == 200:
                receiver.taken.append(stripe.Webhook.construct_event(body, header, SECRET))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    server = receiving(receiver)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/webhooks/stripe/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield receiver
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def simulator(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSimulator]:
    simulator = StripeSimulator(tmp_path_factory.mktemp("stripe") / "stripe.sqlite3", webhook_url=receiver.url)
    yield simulator
    simulator.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StripeSimulator]]:
    """Starts a simulator of the test's own."""
    started: list[StripeSimulator] = []

    def start(**options: str) -> StripeSimulator:
        started.append(StripeSimulator(tmp_path / "stripe.sqlite3", **options))
        return started[-1]

    yield start
    for simulator in started:
        simulator.stop()


@pytest.fixture(scope="session")
def client(simulator: StripeSimulator) -> stripe.StripeClient:
    return simulator.client()
