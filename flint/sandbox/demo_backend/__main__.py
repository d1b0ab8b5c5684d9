"""Starts the demo backend: `python -m flint.sandbox.demo_backend --port N --journal PATH`.

Prints one line with its address once it listens (`--port 0` takes a free port). SIGTERM or SIGINT stops it: no new
calls, and running streams may finish for ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
from pathlib import Path

import uvloop

from flint.sandbox.demo_backend.journal import Journal
from flint.sandbox.demo_backend.server import Backend, serve


def main() -> int:
    options = _options()
    if os.environ.get("FLINT_ENV") == "production":
        print("FLINT_ENV is production, and the demo backend makes its answers up.", file=sys.stderr)
        return 2
    if not is_loopback(options.host):
        print(f"The demo backend listens on loopback only, not on {options.host}.", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        journal = Journal(options.journal)
    except OSError as error:
        print(f"The journal cannot be written: {error}", file=sys.stderr)
        return 1
    backend = Backend(
        journal=journal,
        api_key=options.api_key,
        first_token_ms=options.first_token_ms,
        tokens_per_second=options.tokens_per_second,
    )
    try:
        await serve(
            backend,
            host=options.host,
            port=options.port,
            ready=lambda url: print(f"demo backend: {url}/v1", flush=True),
            stop=stopped.wait(),
        )
    except OSError as error:
        print(f"The demo backend cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    finally:
        journal.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flint.sandbox.demo_backend")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--api-key", default=None, help="refuse calls with another bearer")
    parser.add_argument("--first-token-ms", type=int, default=80)
    parser.add_argument("--tokens-per-second", type=float, default=50.0, help="0: as fast as possible")
    return parser.parse_args()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
