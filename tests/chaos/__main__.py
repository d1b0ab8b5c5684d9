"""`make chaos`: the fault matrix against the running product, with a table of what became of the money.

    make chaos                                   every fault, about 25 minutes
    make chaos ARGS="--short"                    a few faults, about 90 seconds
    make chaos ARGS="--only postgres-crashed,redis-killed --seed 7"
    make chaos ARGS="--list"

The exit code is 1 if anything is lost, charged twice, overdrawn, wrong or left open, or a fault broke what it must not.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests import seeds
from tests.chaos import matrix, product, report
from tests.chaos.judge import judge
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load
from tests.chaos.product import Product
from tests.chaos.runner import Result, Runner
from tests.chaos.scene import Fault


def main() -> int:
    options = _options()
    if options.list:
        say(report.listing(matrix.FAULTS, matrix.SHORT))
        return 0
    chosen = _chosen(options)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # So that everything is ended.
    logs = Path(tempfile.mkdtemp(prefix="flint-chaos-logs-"))
    failed = True
    try:
        failed = play(chosen, logs, seed=options.seed, short=options.short, minutes=options.minutes)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    finally:
        if failed:
            say(f"The logs, the journal and the client ledger are in {logs}")
        else:
            shutil.rmtree(logs)
    return int(failed)


def play(chosen: Sequence[Fault], logs: Path, *, seed: int, short: bool, minutes: float) -> bool:
    """Play the faults one after the other; whether anything failed."""
    begun = time.monotonic()
    say(f"seed {seed}, {len(chosen)} faults, {'short' if short else 'full'} form")
    with (
        product.running(logs, casts=len(chosen)) as running,
        closing(Ledger(logs / "clients.jsonl")) as ledger,
        closing(Load(ledger)) as load,
    ):
        say(f"the product runs after {time.monotonic() - begun:.1f} s\n\n{report.head()}")
        runner = Runner(running, load, ledger, seed=seed, short=short)
        results: list[Result] = []
        for fault in chosen:
            if time.monotonic() - begun > minutes * 60:
                say(f"not run, the time is over: {', '.join(left.name for left in chosen[len(results) :])}")
                break
            results.append(runner.play(fault))
            # The short form plays on while the sweeper works.
            if not short:
                _close(runner, results[-1])
        if short:
            for result in results:
                _close(runner, result)
        sound = _judge_all(running, ledger)
    failed = [result.fault.name for result in results if result.failed]
    skipped = [result.fault.name for result in results if result.skipped]
    say(f"\n{report.EXPLANATION}\n")
    say(f"{len(results)} faults in {(time.monotonic() - begun) / 60:.1f} minutes, {len(failed)} failed {failed or ''}")
    if skipped:
        say(f"skipped: {', '.join(skipped)}")
    return bool(failed) or not sound


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _close(runner: Runner, result: Result) -> None:
    runner.close(result)
    say("\n".join([report.line(result), *report.details(result)]))


def _judge_all(running: Product, ledger: Ledger) -> bool:
    """The judge over everything, and the product's own proof of its books."""
    verdict = judge(running.postgres.url, running.journal, ledger.path)
    say(
        f"\nall together: {verdict.calls} calls, {verdict.records} records, {verdict.charged / 10**12:.6f} USD charged,"
        f" {'sound' if verdict.sound else 'NOT SOUND'}"
    )
    for line in report.faults_of(verdict):
        say(line)
    try:
        say(running.run("manage.py", "check_books", "--full").rstrip())
    except RuntimeError as error:
        say(f"the books do not hold: {error}")
        return False
    return verdict.sound


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a few faults, each for a moment")
    parser.add_argument("--only", metavar="NAME,...", help="these faults")
    parser.add_argument("--list", action="store_true", help="name the faults; * is in the short form")
    parser.add_argument("--seed", type=int, default=seeds.CHAOS, help="decides the load and the moments of the faults")
    parser.add_argument("--minutes", type=float, default=30, help="no fault is begun after so many")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Fault]:
    names = options.only.split(",") if options.only else matrix.SHORT if options.short else None
    if names is None:
        return list(matrix.FAULTS)
    known = {fault.name: fault for fault in matrix.FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"No such faults: {', '.join(unknown)}. --list names them.")
    return [fault for fault in matrix.FAULTS if fault.name in names]


if __name__ == "__main__":
    sys.exit(main())
