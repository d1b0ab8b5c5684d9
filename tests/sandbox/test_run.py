"""The whole product, started as `make run` starts it, on a data folder and ports of its own."""

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flint.sandbox import bootstrap, children, ports

# What conftest set for the tests' own servers must not reach the product, which starts its own.
OWN = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SECRET_KEY", "FLINT_CREDENTIAL_KEYS", "SITE_URL")
RUN = "import sys; from flint.sandbox import stack; sys.exit(stack.run())"


class Product:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.output = data.with_name("output")

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in OWN}
        environment |= {"FLINT_DATA": str(self.data), "PORT": str(ports.remembered(self.data.with_name("port")))}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN],
                cwd=bootstrap.ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        children.wait_for(lambda: "Flint is ready" in self.said() or self.process.poll() is not None, 90)
        assert "Flint is ready" in self.said(), self.said()

    def said(self) -> str:
        return self.output.read_text()

    def facts(self) -> dict[str, str]:
        facts: dict[str, str] = json.loads((self.data / "sandbox.json").read_text())
        return facts

    def lose_credential_keys(self) -> None:
        path = self.data / "sandbox.env"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "FLINT_CREDENTIAL_KEYS" not in line))

    def status(self, path: str) -> int:
        connection = http.client.HTTPConnection(urlsplit(self.facts()["url"]).netloc, timeout=10)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def processes(self) -> dict[str, psutil.Process]:
        entries = json.loads((self.data / "children.json").read_text())
        return {entry["name"]: psutil.Process(entry["pid"]) for entry in entries}


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    product = Product(tmp_path / "data")
    product.start()
    yield product
    product.process.send_signal(signal.SIGTERM)
    product.process.wait(60)
    environment = {**os.environ, "FLINT_DATA": str(product.data)}
    subprocess.run([sys.executable, "-m", "flint.sandbox", "reset"], cwd=bootstrap.ROOT, env=environment, check=True)


def test_it_starts_survives_kill_9_and_stops_without_a_trace(product: Product) -> None:
    first, key = product.processes(), product.facts()["api_key"]
    assert set(first) == {"demo backend", "stripe simulator", "PostgreSQL", "Valkey", "web", "worker", "beat"}
    assert product.status("/readyz") == 200
    assert "new secrets" not in product.said()
    with urllib.request.urlopen(product.facts()["stripe_url"], timeout=10) as page:
        assert b"Simulated: no real money moves" in page.read()
    product.process.kill()
    product.process.wait()
    product.lose_credential_keys()

    product.start()
    assert all(children.is_gone(process) for process in first.values())
    assert "new secrets were made" in product.said()
    assert product.facts()["api_key"] == key
    assert product.status("/readyz") == 200

    second = product.processes()
    product.process.send_signal(signal.SIGTERM)
    assert product.process.wait(60) == 0
    assert all(children.is_gone(process) for process in second.values())
    assert "died" not in product.said()
