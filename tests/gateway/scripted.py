"""A backend that sends what a test tells it, piece by piece: for the moments that no well-behaved server stops at."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON_HEAD = HEAD.replace(b"text/event-stream", b"application/json")
REFUSAL = JSON_HEAD.replace(b"200 OK", b"400 Bad Request")
DONE = b"data: [DONE]\n\n"
WAIT_SECONDS = 10.0


def chunk(
    text: str | None = None, *, finish: str | None = None, index: int = 0, logprobs: Any = None, **fields: Any
) -> bytes:
    """One event of a stream."""
    delta = {"content": text} if text is not None else {}
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    body = {"id": "x", "choices": [choice], **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    body = {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@dataclass(frozen=True)
class Endless:
    """The same bytes for as long as somebody takes them."""

    piece: bytes


Step = bytes | threading.Event | Endless


class ScriptedBackend:
    """Answers every call with the steps of `script`; an Event among them is waited for.

    `whole` is what calls get that do not ask for a stream, if it is not the script as well.
    """

    def __init__(self) -> None:
        self.whole: bytes | None = None
        self.head = HEAD
        self.script: list[Step] = []
        self.left_at: float | None = None  # When the last client went away before the script's end.
        self.calls = 0
        self.sent = 0  # Bytes that the last client took, or that wait on the way.
        self.asked: dict[str, Any] = {}  # The body of the last call,
        self.head_lines: list[bytes] = []  # and what came before it, in small letters.
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def play(self, *script: Step, head: bytes = HEAD, whole: bytes | None = None) -> None:
        self.head, self.whole = head, whole
        self.script, self.left_at, self.calls, self.sent = list(script), None, 0, 0

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head, script = self.head, list(self.script)
            self._read_request(connection)
            if self.whole is not None and not self.asked.get("stream"):
                head, script = JSON_HEAD, [self.whole]
            self.calls += 1
            try:
                connection.sendall(head)
                for step in script:
                    while isinstance(step, Endless):
                        self.sent += connection.send(step.piece)
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    elif not self._wait(connection, step):
                        self.left_at = time.monotonic()
                        return
            except ConnectionError:
                self.left_at = time.monotonic()

    def _wait(self, connection: socket.socket, event: threading.Event) -> bool:
        """Whether the event came before the client left."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not event.wait(0.01) and time.monotonic() < deadline:
            readable, _, _ = select.select([connection], [], [], 0)
            if readable and not connection.recv(1):
                return False
        return True

    def _read_request(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as request:
            length, self.head_lines = 0, []
            while (line := request.readline().strip().lower()) != b"":
                self.head_lines.append(line)
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.asked = json.loads(request.read(length))
