"""The running product that faults are done to: servers, two gateways, workers, beat and a backend, all real processes.

    clients ──▶ gateway one (limits closed) ──▶ proxy ──▶ PostgreSQL      Valkey for limits, another one as broker
            ──▶ gateway two (limits local)  ────────────▶ PostgreSQL      Celery workers, beat, the demo backend

Whatever happens, leaving ends all its processes and deletes its data; its logs stay for the caller to keep or delete.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flint.sandbox.children import Child
from flint.sandbox.postgres import Postgres
from flint.sandbox.valkey import Valkey
from tests.chaos.client import Customer
from tests.chaos.load import Cast
from tests.demo_backend.process import DemoBackend
from tests.proxy import Proxy
from tests.stack import WebProcess, until

START_SECONDS = 60.0
STOP_SECONDS = 60.0
IDLE_SECONDS = 5  # The longest silence of a backend: short, so that a hung one is noticed while we watch.
TOKENS_PER_SECOND = 30
DEMO_BACKEND = "demo"
UNSERVED_MODELS = ("kimi-k2.6", "kimi-k2.5", "kimi-k2-thinking")  # On sale, for backends that faults bring along.


class Gateway:
    """One gateway process after the other, under one name."""

    def __init__(self, name: str, logs: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.logs = logs
        self._environment = environment
        self._lives = 0
        self.start()

    @property
    def url(self) -> str:
        return self.web.url

    @property
    def pid(self) -> int:
        return self.web.process.pid

    def start(self) -> None:
        """Begin a new life; does not wait until it can take calls."""
        self._lives += 1
        self.web = WebProcess(self._log(), **self._environment)

    def wait_until_ready(self) -> None:
        until(lambda: self.web.process.poll() is not None or self.ready, START_SECONDS)
        assert self.web.process.poll() is None, f"gateway {self.name} ended, see {self.logs}"

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def log_text(self) -> str:
        return self.web.log.read_text(errors="replace")

    def _log(self) -> Path:
        return self.logs if self.logs.is_char_device() else self.logs / f"gateway-{self.name}-{self._lives}.log"


class Product:
    """`own` is what must be undone when it is left."""

    def __init__(self, folder: Path, logs: Path, own: ExitStack) -> None:
        self.logs = logs
        self._own = own
        self.postgres = Postgres(folder / "postgres", log=logs / "postgres.log")
        own.callback(self._remove_postgres)
        self.small_disk: Path | None = None  # Where PostgreSQL's data lies on a disk of its own.
        self.limits = self._valkey(folder / "limits")
        self.broker = self._valkey(folder / "broker")
        for server in (self.postgres, self.limits, self.broker):
            server.start()
        self.database_proxy = Proxy(self.postgres.port)
        own.callback(self.database_proxy.stop)
        self.journal = logs / "journal.jsonl"
        self.backend = self._backend()
        own.callback(lambda: self.kill_backend())
        self.environment = {
            "FLINT_ENV": "sandbox",
            "FLINT_DATA": str(folder),
            "DJANGO_SETTINGS_MODULE": "flint.settings",
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.limits.url,
            "CELERY_BROKER_URL": self.broker.url,
            "SECRET_KEY": "a secret key of the chaos",
            "FLINT_CREDENTIAL_KEYS": base64.urlsafe_b64encode(b"thirty-two bytes for the tests!!").decode(),
            "SITE_URL": "http://127.0.0.1:8000",
            "GATEWAY_IDLE_SECONDS": str(IDLE_SECONDS),
            "GATEWAY_ANSWER_SECONDS": str(IDLE_SECONDS),
            "GATEWAY_LONGEST_CALL_SECONDS": "120",
            "GATEWAY_BREAKER_SECONDS": "1",  # Short, so that a backend is asked often while it fails.
            "GATEWAY_PROBE_SECONDS": "10",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, casts: int) -> None:
        """Fill the database and start the rest."""
        made = self.run("-m", "tests.chaos.prepare", "--backend-url", self.backend.base_url, "--casts", str(casts))
        self._casts = [Cast(**{role: Customer(**facts) for role, facts in cast.items()}) for cast in json.loads(made)]
        proxied = self.database_proxy.in_place_of(self.postgres.url)
        self.one = self.gateway("one", {"DATABASE_URL": proxied, "GATEWAY_LIMITS_WITHOUT_REDIS": "closed"})
        self.two = self.gateway("two", {"GATEWAY_LIMITS_WITHOUT_REDIS": "local"})
        self.workers = [self.worker()]
        self.beat = self.start_beat("beat")
        for gateway in self.gateways:
            gateway.wait_until_ready()
        until(self.workers[0].is_ready, START_SECONDS)

    @property
    def gateways(self) -> list[Gateway]:
        return [self.one, self.two]

    def cast(self) -> Cast:
        """Accounts that nobody has used."""
        return self._casts.pop()

    def run(self, *arguments: str) -> str:
        """Run a Python program of the product to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def gateway(self, name: str, environment: dict[str, str], *, logs: Path | None = None) -> Gateway:
        made = Gateway(name, logs or self.logs, {**self.environment, **environment})
        self._own.callback(lambda: made.web.kill())
        return made

    @contextmanager
    def spare_gateway(
        self, name: str, environment: dict[str, str] | None = None, *, logs: Path | None = None
    ) -> Iterator[Gateway]:
        """A third gateway, which the load does not call."""
        spare = self.gateway(name, environment or {}, logs=logs)
        try:
            yield spare
        finally:
            spare.web.stop(STOP_SECONDS)

    def worker(self) -> Child:
        """One more Celery worker; does not wait until it is ready."""
        number = len(getattr(self, "workers", [])) + 1
        child = self._child(f"worker-{number}", "worker", "--concurrency", "2", "--without-gossip", "--without-mingle")
        child.is_ready = lambda: b" ready." in child.log.read_bytes()[child.log_begins_at :]
        return child

    def start_beat(self, name: str) -> Child:
        schedule = Path(self.environment["FLINT_DATA"]) / f"{name}-schedule"
        return self._child(name, "beat", "--schedule", str(schedule), "--pidfile", "")

    def _child(self, name: str, *arguments: str) -> Child:
        child = Child(
            name=name,
            command=[sys.executable, "-m", "celery", "-A", "flint.celery", *arguments, "--loglevel", "INFO"],
            log=self.logs / f"{name}.log",
            environment={**os.environ, **self.environment},
        )
        self._own.callback(child.kill)
        child.spawn()
        return child

    def kill_backend(self) -> None:
        self.backend.process.kill()
        self.backend.wait()

    def start_backend(self) -> None:
        """At the address it had before."""
        self.backend = self._backend("--port", str(self.backend.port))

    def _backend(self, *options: str) -> DemoBackend:
        pace = ["--first-token-ms", "0", "--tokens-per-second", str(TOKENS_PER_SECOND)]
        return DemoBackend(self.journal, *pace, *options)

    def _valkey(self, folder: Path) -> Valkey:
        server = Valkey(folder, log=self.logs / f"{folder.name}.log")
        self._own.callback(server.child.kill)
        return server

    def _remove_postgres(self) -> None:
        self.postgres.stop("immediate")
        if self.small_disk is not None:
            subprocess.run(["umount", "--lazy", str(self.small_disk)], check=True)  # noqa: S607  # Where it lies differs.
        self.postgres.remove()


@contextmanager
def running(logs: Path, casts: int) -> Iterator[Product]:
    """The product with this many sets of accounts."""
    with ExitStack() as own:
        folder = Path(tempfile.mkdtemp(prefix="flint-chaos-"))
        own.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # PostgreSQL's account must reach its data.
        product = Product(folder, logs, own)
        product.start(casts)
        yield product
