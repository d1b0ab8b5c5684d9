"""The running product: a demo backend, two gateway processes, a Celery worker, as real processes on real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.demo_backend.process import DemoBackend

T = TypeVar("T")

START_SECONDS = 60.0
WORKER_STOP_SECONDS = 60.0


class WebProcess:
    """One process of site and gateway on a port of its own; `environment` adds to the tests' own."""

    def __init__(self, log: Path, **environment: str) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flint.sandbox.web", "--fd", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        listener.close()

    def wait_until_ready(self) -> None:
        until(lambda: self.process.poll() is not None or self._ready(), START_SECONDS)
        assert self.process.poll() is None, self.log.read_text()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@dataclass
class Stack:
    backend: DemoBackend
    webs: list[WebProcess]

    @property
    def api_base(self) -> str:
        return f"{self.webs[0].url}/v1"


@contextmanager
def worker(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker that rings for nobody but the tests; `environment` adds to the tests' own."""
    command = [sys.executable, "-m", "celery", "-q", "-A", "flint.celery", "worker", "--concurrency", "2"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--loglevel", "INFO", "--without-gossip", "--without-mingle"],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: b"ready." in log.read_bytes() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            # A worker that lost its broker may wait for connections that nobody answers, 10 s each.
            process.wait(WORKER_STOP_SECONDS)
        finally:
            process.kill()


@contextmanager
def running(folder: Path, route: Callable[[str], None]) -> Iterator[Stack]:
    """Two gateway processes, a worker and a backend that answers at once unless it is asked to take its time.

    `route` is given the backend's address before the gateways start.
    """
    with ExitStack() as started:
        backend = DemoBackend(folder / "journal.jsonl", "--first-token-ms", "0", "--tokens-per-second", "0")
        started.callback(backend.stop)
        route(backend.base_url)
        webs = [WebProcess(folder / f"web{number}.log") for number in (1, 2)]
        for web in webs:
            started.callback(web.stop)
        started.enter_context(worker(folder / "worker.log"))
        for web in webs:
            web.wait_until_ready()
        yield Stack(backend, webs)


def until(probe: Callable[[], T | None], seconds: float = 5.0) -> T:
    """What the probe finds; fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.02)
    raise AssertionError(f"It did not happen within {seconds} s.")
