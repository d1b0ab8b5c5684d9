"""What a call costs on its way through Flint: the demo backend asked directly and through the gateway, in turn.

    .venv/bin/python benchmarks/gateway.py [--rounds 5]

It starts a sandbox of its own (PostgreSQL with fsync, Valkey, worker, one web process), which is gone afterwards. The
backend answers as fast as it can, so what is left is what Flint adds. Medians of the rounds; the ratio says how many
times as much the way through Flint costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

ROOT = Path(__file__).parent.parent
START_SECONDS = 180
FAST = "[demo: first_token_ms=0 tokens_per_second=0 tokens={tokens}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (%(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's account passes through when we are root.
        data = Path(folder) / "data"
        environment = {**os.environ, "FLINT_DATA": str(data), "PORT": "8799", "WEB_PROCESSES": "1"}
        sandbox = subprocess.Popen(
            [sys.executable, "-m", "flint.sandbox", "run"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            asyncio.run(measure(started(data, sandbox), asked.rounds))
        finally:
            sandbox.send_signal(signal.SIGTERM)
            sandbox.wait(60)


def started(data: Path, sandbox: subprocess.Popen[bytes]) -> dict[str, Any]:
    """sandbox.json, once calls are taken; its customer gets limits and money that do not matter."""
    deadline = time.monotonic() + START_SECONDS
    while sandbox.poll() is None and time.monotonic() < deadline:
        try:
            facts: dict[str, Any] = json.loads((data / "sandbox.json").read_text())
            with psycopg.connect(facts["database_url"], autocommit=True) as database:
                database.execute(
                    "UPDATE accounts_tier SET requests_per_minute = 10000000, tokens_per_minute = 2000000000, "
                    "concurrent_requests = 1000"
                )
        except (FileNotFoundError, ValueError, psycopg.Error):
            time.sleep(0.5)
        else:
            time.sleep(5)  # The limits reach the gateway, and the start is over.
            return facts
    raise SystemExit("The sandbox did not start.")


async def measure(facts: dict[str, Any], rounds: int) -> None:
    ways = {"direct": f"{facts['backend_url'].removesuffix('/v1')}/v1", "flint": facts["api_base"]}
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {facts['api_key']}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for title, unit, work in (
            ("JSON, one after the other", "ms a call", lambda url: one_by_one(session, url, 50)),
            ("JSON, 32 at a time", "calls/s", lambda url: at_a_time(session, url, 32, 320)),
            ("stream, first token", "ms", lambda url: first_tokens(session, url, 50)),
            ("32 streams of 300 tokens", "tokens/s", lambda url: streams(session, url, 32, 300)),
        ):
            await compare(title, unit, ways, work, rounds)


async def compare(
    title: str, unit: str, ways: dict[str, str], work: Callable[[str], Awaitable[float]], rounds: int
) -> None:
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, url in ways.items():
            found[way].append(await work(url))
    direct, flint = (statistics.median(found[way]) for way in ("direct", "flint"))
    ratio = direct / flint if unit.endswith("/s") else flint / direct
    sys.stdout.write(f"{title:<28}{direct:10.1f} direct{flint:10.1f} through Flint  {unit:<10} x {ratio:.1f}\n")
    sys.stdout.flush()


def body(*, tokens: int, **fields: Any) -> dict[str, Any]:
    content = f"Tides {FAST.format(tokens=tokens)}"
    return {"model": "glm-5", "messages": [{"role": "user", "content": content}], "max_tokens": tokens, **fields}


async def one_call(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(f"{url}/chat/completions", json=body(tokens=20)) as answer:
        answer.raise_for_status()
        await answer.read()


async def one_by_one(session: aiohttp.ClientSession, url: str, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        await one_call(session, url)
    return (time.perf_counter() - begun) / calls * 1000


async def at_a_time(session: aiohttp.ClientSession, url: str, width: int, calls: int) -> float:
    async def some() -> None:
        for _ in range(calls // width):
            await one_call(session, url)

    begun = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(width)))
    return calls / (time.perf_counter() - begun)


async def first_tokens(session: aiohttp.ClientSession, url: str, calls: int) -> float:
    waits = []
    for _ in range(calls):
        begun = time.perf_counter()
        async with session.post(f"{url}/chat/completions", json=body(tokens=5, stream=True)) as answer:
            await answer.content.readline()
            waits.append(time.perf_counter() - begun)
            await answer.read()
    return statistics.median(waits) * 1000


async def streams(session: aiohttp.ClientSession, url: str, width: int, tokens: int) -> float:
    async def one() -> None:
        async with session.post(f"{url}/chat/completions", json=body(tokens=tokens, stream=True)) as answer:
            answer.raise_for_status()
            await answer.read()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(width)))
    return width * tokens / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
