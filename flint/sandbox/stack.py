"""The whole product as children of one supervisor: what they are, the order they start and stop in, the banner."""

import http.client
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from flint.sandbox import bootstrap, children, folder, ports
from flint.sandbox.children import Child
from flint.sandbox.postgres import Postgres
from flint.sandbox.supervisor import StopAsked, Supervisor, say
from flint.sandbox.trouble import Trouble
from flint.sandbox.valkey import Valkey

START_SECONDS = 60.0
PREPARE_SECONDS = 300.0
ADDRESSES = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SITE_URL")


@contextmanager
def step(name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    say(f"  {name:<34}{time.monotonic() - begun:5.1f} s")


def answers_ok(port: int, path: str) -> bool:
    """Whether a GET on loopback is answered with 200."""
    connection = http.client.HTTPConnection(ports.LOOPBACK, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def drain_seconds() -> int:
    text = os.environ.get("FLINT_DRAIN_SECONDS", "30")
    if not text.isdigit():
        raise Trouble(f"FLINT_DRAIN_SECONDS={text} is not a number of seconds.", "Give a whole number, or unset it.")
    return int(text)


def web_processes() -> int:
    text = os.environ.get("WEB_PROCESSES", "1")
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise Trouble(f"WEB_PROCESSES={text} is not a number of processes.", "Give 1 to 64, or unset it.")
    return int(text)


def keys_are_lost(kept: Mapping[str, str], cluster: Path) -> bool:
    """Whether there is a database and nothing to decrypt its credentials with."""
    found = kept.get("FLINT_CREDENTIAL_KEYS") or os.environ.get("FLINT_CREDENTIAL_KEYS")
    return not found and cluster.exists()


class Stack:
    """The children, in the order they are started. Nothing runs until `start`."""

    def __init__(self, data: folder.DataFolder, port: str) -> None:
        """Take the public port and settle every address. Raises Trouble."""
        self.data = data
        self.drain_seconds, self.web_count = drain_seconds(), web_processes()
        self.listener = ports.public(port)
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://{ports.LOOPBACK}:{self.port}"
        data.say_who_runs(self.url + "/")
        self.postgres: Postgres | None = None
        self.valkey: Valkey | None = None
        kept, self.values = data.kept(), data.secrets()
        # Whoever brings a key of Stripe's pays there, or in Stripe's own test mode.
        self.simulates_stripe = not os.environ.get("STRIPE_SECRET_KEY")
        self.settle_addresses()
        if self.postgres is not None and keys_are_lost(kept, self.postgres.cluster):
            say("  new secrets were made, so stored API keys of backends must be entered again")
        data.keep(self.values)
        # What the person set wins over what was kept; an empty variable is one that was not set.
        self.environment = {
            "FLINT_ENV": "sandbox",
            **self.values,
            **{name: value for name, value in os.environ.items() if value and name not in self.ignored()},
            "FLINT_DATA": str(data.path),
            "PYTHONUNBUFFERED": "1",
        }
        (data.path / "demo-backend").mkdir(mode=0o700, exist_ok=True)
        self.backend_port = ports.remembered(data.path / "demo-backend" / "port")
        self.backend = self.demo_backend()
        self.stripe = self.stripe_simulator() if self.simulates_stripe else None
        self.webs = [self.web(number) for number in range(1, self.web_count + 1)]
        self.worker, self.beat = self.celery_worker(), self.celery_beat()

    def ignored(self) -> tuple[str, ...]:
        """What of the person's environment would half replace the simulator: without the key it means nothing."""
        return folder.STRIPE if self.simulates_stripe else ()

    def settle_addresses(self) -> None:
        """What the environment names is used, and written down for manage.py; the rest is embedded."""
        given = {name: os.environ[name] for name in ADDRESSES if os.environ.get(name)}
        if "DATABASE_URL" not in given:
            self.postgres = Postgres(self.data.path / "postgres", log=self.data.logs / "postgres.log")
            self.values["DATABASE_URL"] = self.postgres.url
        if "REDIS_URL" not in given:
            self.valkey = Valkey(self.data.path / "valkey", log=self.data.logs / "valkey.log")
            self.values["REDIS_URL"] = self.valkey.url
        broker = urlsplit(given.get("REDIS_URL") or self.values["REDIS_URL"])._replace(path="/1")
        self.values["CELERY_BROKER_URL"] = urlunsplit(broker)
        self.values["SITE_URL"] = self.url
        self.values |= given
        self.settle_stripe()

    def settle_stripe(self) -> None:
        """The simulator's keys and address, which the person's own replace together or not at all."""
        if not self.simulates_stripe:
            for name in folder.STRIPE:
                self.values.pop(name, None)
            return
        self.values |= folder.stripe_secrets(self.values)
        place = self.data.path / "stripe"
        place.mkdir(mode=0o700, exist_ok=True)
        self.values["STRIPE_API_BASE"] = f"http://{ports.LOOPBACK}:{ports.remembered(place / 'port')}"

    def child(self, name: str, *arguments: str) -> Child:
        """A Python program of ours; tell what is different afterwards."""
        return Child(
            name=name,
            command=[sys.executable, *arguments],
            log=self.data.logs / f"{name.replace(' ', '-')}.log",
            environment=self.environment,
        )

    def demo_backend(self) -> Child:
        journal = self.data.path / "demo-backend" / "journal.jsonl"
        child = self.child(
            "demo backend",
            "-m",
            "flint.sandbox.demo_backend",
            "--port",
            str(self.backend_port),
            "--journal",
            str(journal),
        )
        child.is_ready = lambda: answers_ok(self.backend_port, "/health")
        return child

    def stripe_simulator(self) -> Child:
        port = urlsplit(self.environment["STRIPE_API_BASE"]).port
        assert port is not None  # noqa: S101  Told to the type checker.
        child = self.child("stripe simulator", "-m", "flint.sandbox.stripe_simulator", "--port", str(port))
        child.command += ["--data", str(self.data.path / "stripe" / "stripe.sqlite3")]
        child.command += ["--webhook-url", f"{self.url}/webhooks/stripe/"]
        child.is_ready = lambda: answers_ok(port, "/health")
        return child

    def web(self, number: int) -> Child:
        name = "web" if self.web_count == 1 else f"web {number}"
        descriptor = self.listener.fileno()
        child = self.child(name, "-m", "flint.sandbox.web", "--fd", str(descriptor))
        child.descriptors = (descriptor,)
        child.is_ready = lambda: answers_ok(self.port, "/readyz")
        # uvicorn ends its streams within the drain, then the application shuts down.
        child.stop_seconds = self.drain_seconds + 10
        return child

    def celery_worker(self) -> Child:
        child = self.child("worker", "-m", "celery", "-q", "-A", "flint.celery", "worker")
        child.command += ["--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        child.is_ready = lambda: " ready." in child.written()
        child.stop_seconds = 30
        return child

    def celery_beat(self) -> Child:
        child = self.child("beat", "-m", "celery", "-A", "flint.celery", "beat", "--loglevel", "INFO")
        child.command += ["--schedule", str(self.data.path / "celerybeat-schedule"), "--pidfile", ""]
        return child

    def servers(self) -> list[Child]:
        return [server.child for server in (self.valkey, self.postgres) if server is not None]

    def outside(self) -> list[Child]:
        """What stands for other people's services."""
        return [self.backend] if self.stripe is None else [self.backend, self.stripe]

    def start(self, supervisor: Supervisor) -> None:
        """Start everything in order, telling the seconds of each step. Raises Trouble or StopAsked."""
        if self.servers():
            with step("PostgreSQL and Valkey"):
                supervisor.start(*self.outside(), *self.servers(), within=START_SECONDS)
        else:
            supervisor.start(*self.outside(), within=START_SECONDS)
        prepare = self.child("prepare", "manage.py", "prepare_sandbox")
        prepare.command += ["--backend-url", f"http://{ports.LOOPBACK}:{self.backend_port}/v1"]
        with step("tables, models and demo data"):
            supervisor.finish(prepare, told=lambda line: say(f"    {line}"), within=PREPARE_SECONDS)
        with step("web, worker and beat"):
            supervisor.start(*self.webs, self.worker, self.beat, within=START_SECONDS)

    def stop(self, supervisor: Supervisor) -> None:
        """Streams end first, then what settles them, the servers last."""
        self.listener.close()
        supervisor.stop(self.webs, [self.beat], [self.worker], self.outside())
        # Apart, so that an impatient Ctrl-C does not reach the servers: they stop at once anyway.
        supervisor.stop(*[[server] for server in self.servers()])


def banner(facts: dict[str, object], data: Path, seconds: float) -> str:
    """A few lines with everything a newcomer needs; `facts` is sandbox.json."""

    def login(who: str) -> str:
        person = facts[who]
        assert isinstance(person, dict)  # noqa: S101  Told to the type checker.
        return f"{person['email']}  {person['password']}"

    question = json.dumps(
        {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "Hello, who are you?"}]}
    )
    curl = (
        f"curl {facts['api_base']}/chat/completions -H 'Authorization: Bearer {facts['api_key']}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(question)}"
    )
    rows = [
        ("Site", f"{facts['url']}"),
        ("Admin", f"{str(facts['url']).rstrip('/')}/admin/   {login('admin')}"),
        ("Customer", login("customer")),
        *([("Payments", f"{facts['stripe_url']}   (simulated: no real money)")] if "stripe_url" in facts else []),
        ("API key", facts["api_key"]),
        ("Try it", curl),
        ("Data", f"{data}   ({folder.reset_command(data)} deletes it)"),
        ("Stop", "Ctrl-C"),
    ]
    lines = [f"  {name:<10}{text}" for name, text in rows]
    return "\n".join(["", f"Flint is ready in {seconds:.1f} s.", *lines, ""])


def facts_of(data: Path) -> dict[str, object]:
    path = data / "sandbox.json"
    try:
        facts: dict[str, object] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Trouble(f"The file {path} is not usable: {error}.", "Delete it and start again.") from None
    return facts


def open_standard_streams() -> None:
    """Where 0, 1 or 2 is closed, the next file we open would get the number and be taken for a terminal."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def run() -> int:
    """Run the product until a signal asks for the stop; the exit code."""
    open_standard_streams()
    os.umask(0o077)
    began = float(os.environ.get(bootstrap.STARTED_AT, time.time()))
    environment_seconds = time.time() - began
    data = folder.DataFolder(folder.chosen())
    record = data.path / "children.json"
    supervisor = Supervisor(record)
    supervisor.listen_to_signals()
    for name in children.end_leftovers(record):
        say(f"  ended {name}, left by a run that was killed")
    stack = Stack(data, os.environ.get("PORT") or "8000")
    say(f"  {'environment':<34}{environment_seconds:5.1f} s")
    try:
        stack.start(supervisor)
        say(banner(facts_of(data.path), data.path, time.time() - began))
        supervisor.watch()
    except StopAsked:
        pass  # A stop in the middle of the start is carried out like any other, below.
    finally:
        begun = time.monotonic()
        if supervisor.stops_asked:
            say("Stopping: running streams finish first (Ctrl-C again to stop at once).")
        stack.stop(supervisor)
        say(supervisor.farewell(time.monotonic() - begun))
    return 0
