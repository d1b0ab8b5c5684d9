"""How long the proof of the books takes, side by side on a short and on a long history of the same customers.

    .venv/bin/python benchmarks/check_books.py

Both histories are generated into databases of one PostgreSQL of its own, which is gone afterwards. In each round some
calls of different customers are settled by the ledger, and then the incremental check runs (`check_books_once.py`).
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flint.sandbox import servers  # noqa: E402  # The checkout is not installed.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usage", type=int, default=10_000_000, help="calls of the long history (%(default)s)")
    parser.add_argument("--accounts", type=int, default=100_000, help="customers of both (%(default)s)")
    parser.add_argument("--calls", type=int, default=1000, help="new calls in each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    asked = parser.parse_args()
    histories = {"short": asked.usage // 10, "long": asked.usage}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's account passes through when we are root.
        with servers.postgres(Path(folder) / "postgres") as server:
            places = {name: place(server.url, name) for name in histories}
            for name, usage in histories.items():
                generate(places[name], usage=usage, accounts=asked.accounts)
            full = {name: seconds_of_check(places[name], "--full") for name in histories}
            rounds: dict[str, list[float]] = {name: [] for name in histories}
            for _ in range(asked.rounds):
                for name in histories:  # Side by side, so that what disturbs one disturbs the other.
                    rounds[name].append(seconds_of_check(places[name], f"--calls={asked.calls}"))
        server.remove()
    show(f"{'':<32}{histories['short']:>12,}{histories['long']:>12,}   ratio")
    compare("full check, s", full)
    compare(f"after {asked.calls} new calls, s", {name: statistics.median(rounds[name]) for name in histories})


def place(url: str, name: str) -> dict[str, str]:
    """The environment of a new database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE history_{name}".encode())
    return os.environ | {
        "FLINT_ENV": "sandbox",
        "DATABASE_URL": url.replace("/flint?", f"/history_{name}?"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/1",
        "SECRET_KEY": secrets.token_hex(32),
        "FLINT_CREDENTIAL_KEYS": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "PYTHONPATH": str(ROOT),
    }


def generate(environment: dict[str, str], *, usage: int, accounts: int) -> None:
    transfers = max(usage // 10, accounts * 3)  # Each customer has topped up and was charged.
    shape = [f"--usage={usage}", f"--transfers={transfers}", f"--accounts={accounts}", f"--keys={2 * accounts}"]
    for command in (["migrate", "-v0"], ["load_catalogue"], ["generate_data", *shape]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env=environment, check=True)


def seconds_of_check(environment: dict[str, str], argument: str) -> float:
    """Measured in a process of its own, since Django knows one database."""
    command = [sys.executable, str(Path(__file__).with_name("check_books_once.py")), argument]
    return float(subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def compare(what: str, seconds: dict[str, float]) -> None:
    show(f"{what:<32}{seconds['short']:>12.2f}{seconds['long']:>12.2f}{seconds['long'] / seconds['short']:>8.1f}")


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
