"""`python -m tests.mutants [--list] [--only NAME ...]`: ends with 0 if every mutant is caught by its named test."""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from flint.sandbox import servers
from tests.mutants import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.run import AT_ONCE, CAUGHT, Job, Run, Verdict, named_tests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what each mutant breaks, and run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[mutant.name for mutant in MUTANTS], default=[])
    asked = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if mutant.name in asked.only or not asked.only]
    if asked.list:
        for mutant in chosen:
            say(f"{mutant.name:26}{mutant.breaks}\n{'':26}{mutant.test}")
        return 0
    return run(chosen)


def run(mutants: Sequence[Mutant]) -> int:
    started = time.monotonic()
    jobs: list[Job] = [*named_tests(mutants), *mutants]
    told = itertools.count(1)

    def tell(verdict: Verdict) -> None:
        say(f"{next(told):2}/{len(jobs)}  {verdict.ending:9}{verdict.seconds:4.0f} s  {verdict.name:25}{verdict.words}")

    say(f"{len(mutants)} mutants, {AT_ONCE} at a time, on a PostgreSQL and a Valkey of their own")
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="flint-mutants-")))
        database = running.enter_context(servers.postgres(folder / "postgres"))
        running.callback(database.remove)
        redis = running.enter_context(servers.valkey(folder / "valkey"))
        environment = {
            "FLINT_ENV": "sandbox",
            "DATABASE_URL": database.url,
            "REDIS_URL": redis.url,
            "SECRET_KEY": "a secret key of the tests",
            "FLINT_CREDENTIAL_KEYS": base64.urlsafe_b64encode(b"thirty-two bytes for the tests!!").decode(),
            "GATEWAY_BREAKER_SECONDS": "0",  # As in tests.servers.
        }
        verdicts = asyncio.run(Run(folder, environment, tell).judge(jobs))
    bad = sorted(verdict.name for verdict in verdicts if not verdict.good)
    caught = sum(verdict.ending == CAUGHT for verdict in verdicts)
    say(f"{caught} of {len(mutants)} mutants caught in {time.monotonic() - started:.0f} s")
    if bad:
        say(f"Look at: {', '.join(bad)}.")
    return 1 if bad else 0


def say(words: str) -> None:
    print(words, flush=True)  # noqa: T201  # It talks to a person on a terminal.


if __name__ == "__main__":
    sys.exit(main())
