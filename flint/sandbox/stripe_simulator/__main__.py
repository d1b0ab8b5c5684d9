"""Starts the Stripe simulator: `python -m flint.sandbox.stripe_simulator --port N --data FILE`.

The key that it lets in is STRIPE_SECRET_KEY of the environment, and events are signed with the first of
STRIPE_WEBHOOK_SECRETS. Prints one line with its address once it listens (`--port 0` takes a free port).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

import uvloop

from flint.sandbox.stripe_simulator.server import Simulator, serve
from flint.sandbox.stripe_simulator.store import Store

HOST = "127.0.0.1"
KEY_PREFIX = "sk_sim_"


def main() -> int:
    options = _options()
    if os.environ.get("FLINT_ENV") == "production":
        print("FLINT_ENV is production, and the Stripe simulator moves no money.", file=sys.stderr)
        return 2
    key = os.environ.get("STRIPE_SECRET_KEY", "")
    if not key.startswith(KEY_PREFIX):
        print(f"STRIPE_SECRET_KEY is not a key of the simulator: those begin with {KEY_PREFIX}.", file=sys.stderr)
        return 2
    secret = os.environ.get("STRIPE_WEBHOOK_SECRETS", "").split(",")[0].strip()
    if options.webhook_url and not secret:
        print("STRIPE_WEBHOOK_SECRETS is empty, and events must be signed.", file=sys.stderr)
        return 2
    try:
        store = Store(options.data)
    except sqlite3.Error as error:
        print(f"The data file {options.data} cannot be used: {error}", file=sys.stderr)
        return 1
    if options.webhook_url:
        store.set_switch("webhook", {"url": options.webhook_url, "secret": secret})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(Simulator(store, key), options.port))


async def _run(simulator: Simulator, port: int) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await serve(
            simulator,
            host=HOST,
            port=port,
            ready=lambda url: print(f"stripe simulator: {url}", flush=True),
            stop=stopped.wait(),
        )
    except OSError as error:
        print(f"The Stripe simulator cannot listen on {HOST}:{port}: {error}", file=sys.stderr)
        return 1
    finally:
        simulator.store.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flint.sandbox.stripe_simulator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--webhook-url", default="", help="where events go; without it they are only listed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
