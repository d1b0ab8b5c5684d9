"""Faults of customers: they leave, half leave, read slowly, send slowly, send much, or ask many things at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime

import psutil

from tests.chaos.client import MODEL, QUESTION, Customer
from tests.chaos.ledger import Call
from tests.chaos.product import UNSERVED_MODELS, Gateway
from tests.chaos.scene import Fault, Scene, wait_until

CANCELLED_SECONDS = 1.0  # So long after a hang-up the backend may work on,
SLACK_SECONDS = 1.0  # and so much later we may notice it.
SLOW_READERS = 3
SLOW_SENDERS = 500
BIG_BODIES = 100
BIG_BODY_BYTES = 6 * 2**20
READER_MEMORY = 20 * 2**20  # What a gateway may grow by for all slow readers. Each of their answers is as large.
BODIES_MEMORY = 800 * 2**20  # Its limit of 256 MB of bodies, and what parsing them takes.


def closes(scene: Scene) -> None:
    """Hangs up after some tokens: the backend stops within a second."""
    futures = []
    for gateway in scene.product.gateways:
        for _ in range(scene.size(full=30, short=8)):
            future = scene.client.stream(gateway, scene.cast.streams, tokens=300, leave_after=scene.dice.randint(1, 40))
            futures.append(scene.load.start(future))
    left = [future.result() for future in futures]
    scene.note(f"{len(left)} hung up")
    _expect_backend_stopped(scene, left)


def half_closes(scene: Scene) -> None:
    """Sends its request and closes its sending side: no more than a hang-up or a whole answer may come of it."""
    for number in range(scene.size(full=20, short=6)):
        gateway = scene.product.gateways[number % 2]
        with _sent(scene, gateway, scene.cast.streams, tokens=30) as (sock, call):
            sock.shutdown(socket.SHUT_WR)
            _read_to_the_end(sock, call)
    ends = sorted({call.end for call in scene.calls if call.gateway.endswith("(raw)")})
    scene.note(f"ends: {', '.join(ends)}")


def reads_slowly(scene: Scene) -> None:
    """Takes one byte a second of a long, fast answer: nothing of it piles up in the gateway."""
    process = psutil.Process(scene.two.pid)
    before = process.memory_info().rss
    with ExitStack() as opened:
        readers = []
        for _ in range(SLOW_READERS):
            readers.append(
                opened.enter_context(
                    _sent(
                        scene,
                        scene.two,
                        scene.cast.streams,
                        tokens=100_000,
                        marker="tokens_per_second=0",
                        receive_buffer=4096,
                    )
                )
            )
        grown = 0
        for _ in range(scene.size(full=12, short=3)):
            for sock, _ in readers:
                with suppress(OSError):
                    sock.recv(1)
            time.sleep(1)
            grown = max(grown, process.memory_info().rss - before)
        for _, call in readers:
            call.end = "hung_up"
    scene.note(f"{SLOW_READERS} readers, the gateway grew by {grown / 2**20:.0f} MB")
    scene.expect(grown < READER_MEMORY, f"it piled up {grown / 2**20:.0f} MB for slow readers")


def sends_slowly(scene: Scene) -> None:
    """500 customers send a byte now and then, most of their headers, some of their body."""
    with ExitStack() as sockets:
        senders = []
        for number in range(SLOW_SENDERS):
            gateway = scene.product.gateways[number % 2]
            if number % 10 == 0:
                sender = sockets.enter_context(_begun(gateway, scene.cast.questions, 1_000))
            else:
                sender = sockets.enter_context(socket.create_connection(("127.0.0.1", _port(gateway))))
                sender.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            senders.append(sender)
        ends_at = time.monotonic() + (3 if scene.short else 12)
        while time.monotonic() < ends_at:
            for sender in senders:
                with suppress(OSError):
                    sender.sendall(b"a")
            time.sleep(0.5)
    scene.note(f"{SLOW_SENDERS} slow senders")


def sends_much(scene: Scene) -> None:
    """100 bodies of 6 MB arrive together, each held back in the middle: some are refused, memory stays bounded."""
    process = psutil.Process(scene.one.pid)
    before = process.memory_info().rss
    content = "tide " * (BIG_BODY_BYTES // 5)
    # A model that nobody serves: the demo backend would need a second for each to count its tokens.
    document = {"model": UNSERVED_MODELS[0], "max_tokens": 10, "messages": [{"role": "user", "content": content}]}
    body = json.dumps(document).encode()
    statuses: dict[int, int] = {}
    grown = 0
    with ExitStack() as sockets:
        senders = [
            sockets.enter_context(_begun(scene.one, scene.cast.questions, len(body)))
            for _ in range(scene.size(full=BIG_BODIES, short=20))
        ]
        for sender in senders:
            with suppress(OSError):
                sender.sendall(body[: len(body) // 2])
        for sender in senders:
            with suppress(OSError):
                sender.sendall(body[len(body) // 2 :])
            grown = max(grown, process.memory_info().rss - before)
        for sender in senders:
            status = _status(sender)
            statuses[status] = statuses.get(status, 0) + 1
            grown = max(grown, process.memory_info().rss - before)
    told = ", ".join(f"{count} x {status or 'closed'}" for status, count in sorted(statuses.items()))
    scene.note(f"{told}; grew by {grown / 2**20:.0f} MB")
    scene.expect(grown < BODIES_MEMORY, f"it grew by {grown / 2**20:.0f} MB for big bodies")
    scene.expect(500 not in statuses, "a big body got a 500")


@contextmanager
def _sent(
    scene: Scene,
    gateway: Gateway,
    customer: Customer,
    *,
    tokens: int,
    marker: str = "",
    receive_buffer: int | None = None,
) -> Iterator[tuple[socket.socket, Call]]:
    """A streamed call over a socket of our own; it is written to the ledger when it is left."""
    content = f"{QUESTION} [demo: tokens={tokens} {marker}]"
    document = {
        "model": MODEL,
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": content}],
    }
    body = json.dumps(document).encode()
    call = Call(scene.fault, f"{gateway.name} (raw)", customer.account_id, True)
    with _begun(gateway, customer, len(body), receive_buffer) as sock:
        sock.sendall(body)
        try:
            yield sock, call
        finally:
            scene.ledger.write(call)


@contextmanager
def _begun(
    gateway: Gateway, customer: Customer, length: int, receive_buffer: int | None = None
) -> Iterator[socket.socket]:
    """A connection on which the head of a call was sent."""
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", _port(gateway)))
        head = (
            "POST /v1/chat/completions HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {customer.secret}",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        )
        sock.sendall("\r\n".join((*head, "", "")).encode())
        yield sock


def _read_to_the_end(sock: socket.socket, call: Call) -> None:
    answer = b""
    with suppress(OSError):
        while piece := sock.recv(65536):
            answer += piece
            if b"data: [DONE]" in answer:
                break
    head, _, body = answer.partition(b"\r\n\r\n")
    call.status = int(head.split()[1]) if head else None
    for line in head.split(b"\r\n"):
        if line.startswith(b"x-request-id: req_"):
            call.call_id = line.rpartition(b"_")[2].decode()
    call.tokens = body.count(b'"content":"') - body.count(b'"content":""')
    call.end = "done" if b"data: [DONE]" in body else "hung_up"


def _status(sock: socket.socket) -> int:
    """Of the answer; 0 where the connection was closed instead."""
    with suppress(OSError):
        line = sock.recv(65536).split(b"\r\n")[0].split()
        return int(line[1]) if len(line) > 1 else 0
    return 0


def _expect_backend_stopped(scene: Scene, left: list[Call]) -> None:
    """The backend's journal says when it noticed each hang-up."""
    left_at = {call.call_id: call.ended_at for call in left if call.end == "hung_up"}

    def noticed() -> dict[str, float]:
        found = {}
        for line in scene.product.journal.read_text().splitlines():
            if '"event":"ended"' not in line or '"end":"client_gone"' not in line:
                continue
            entry = json.loads(line)
            call_id = (entry["call_id"] or "").replace("-", "")
            if call_id in left_at:
                found[call_id] = datetime.fromisoformat(entry["ended_at"]).timestamp() - left_at[call_id]
        return found

    wait_until(lambda: len(noticed()) >= len(left_at), "the backend noticed every hang-up")
    slowest = max(noticed().values(), default=0.0)
    scene.note(f"the backend stopped within {slowest:.2f} s")
    scene.expect(slowest < CANCELLED_SECONDS + SLACK_SECONDS, f"a backend worked on for {slowest:.1f} s")


def _port(gateway: Gateway) -> int:
    return int(gateway.url.rpartition(":")[2])


FAULTS = (
    Fault("client-closes", "hangs up in mid-stream", closes),
    Fault("client-half-closes", "closes its sending side", half_closes),
    Fault("client-reads-slowly", "1 byte a second", reads_slowly),
    Fault("client-sends-slowly", "500 slow headers", sends_slowly),
    Fault("client-sends-much", "100 bodies of 6 MB", sends_much),
)
