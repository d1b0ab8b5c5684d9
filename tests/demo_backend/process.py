"""A real process of the demo backend, and what a test wants to ask it over a socket."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

DEADLINE_SECONDS = 5.0
# Tests ask for a pace where they need one.
AT_ONCE = ("--first-token-ms", "0", "--tokens-per-second", "0")


@dataclass
class Reply:
    """What a client saw of one call. `error` is what its HTTP library raised in the middle of the body, if anything."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    call_id: str
    error: Exception | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[bytes]:
        return [line for line in self.body.split(b"\n\n") if line]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The chunks of a stream, without comments and [DONE]."""
        data = [line.removeprefix(b"data: ") for line in self.lines if line.startswith(b"data: ")]
        return [json.loads(item) for item in data if item != b"[DONE]"]

    @property
    def deltas(self) -> list[str]:
        """The pieces of content, and of reasoning, one a token."""
        choices = [choice for event in self.events for choice in event.get("choices", [])]
        texts = [choice["delta"].get("content") or choice["delta"].get("reasoning_content") for choice in choices]
        return [text for text in texts if text]

    @property
    def is_done(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")


class DemoBackend:
    """Listens once the constructor returns."""

    def __init__(self, journal: Path, *options: str) -> None:
        command = [sys.executable, "-m", "flint.sandbox.demo_backend", "--port", "0", "--journal", str(journal)]
        self.journal_path = journal
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.base_url = self.process.stdout.readline().removeprefix("demo backend: ").strip()
        self.port = urlsplit(self.base_url).port

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(15)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        connection = self.connect()
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read(), "")
        finally:
            connection.close()

    def begin(
        self, content: str = "How do tides work?", *, headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[http.client.HTTPConnection, str]:
        """A call whose answer has not been read; (the connection, the call's id)."""
        call_id = uuid.uuid4().hex
        connection = self.connect()
        document = {"model": "glm-5", "messages": [{"role": "user", "content": content}]} | body
        connection.request(
            "POST",
            "/v1/chat/completions",
            body=json.dumps(document),
            headers={"X-Flint-Call-Id": call_id, "X-Flint-Attempt": "1"} | (headers or {}),
        )
        return connection, call_id

    def chat(self, content: str = "How do tides work?", **body: Any) -> Reply:
        """A call read to its end, even a bitter one."""
        connection, call_id = self.begin(content, **body)
        error: Exception | None = None
        pieces = []
        try:
            with connection.getresponse() as response:
                while piece := response.read1():
                    pieces.append(piece)
        except (http.client.HTTPException, OSError) as raised:
            if not pieces:
                raise
            error = raised
        finally:
            connection.close()
        return Reply(response.status, response.headers, b"".join(pieces), call_id, error)

    def stream(self, content: str = "How do tides work?", **body: Any) -> Reply:
        return self.chat(content, stream=True, **body)

    def entry(self, call_id: str) -> dict[str, Any]:
        """The journal's entry of a call, once it has ended."""
        return until(lambda: self._ended(call_id))

    def entries(self, call_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"/journal?call_id={call_id}").json
        return found

    def stats(self) -> dict[str, Any]:
        counters: dict[str, Any] = self.ask("GET", "/stats").json
        return counters

    def _ended(self, call_id: str) -> dict[str, Any] | None:
        return next((entry for entry in self.entries(call_id) if entry["end"]), None)


def until(probe: Callable[[], T | None]) -> T:
    """What the probe finds; fails when that takes too long."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.01)
    raise AssertionError("It did not happen in time.")
