"""The verdict in words, and as the exit code: `python -m tests.chaos.judge DATABASE_URL JOURNAL [--clients FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.judge import Verdict, judge

SHOWN = 20  # Faults of a kind.


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.judge", description=__doc__)
    parser.add_argument("database_url")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--clients", type=Path)
    options = parser.parse_args()
    verdict = judge(options.database_url, options.journal, options.clients)
    sys.stdout.write("\n".join(_lines(verdict)) + "\n")
    return 0 if verdict.sound else 1


def _lines(verdict: Verdict) -> list[str]:
    lines = [
        f"{verdict.calls} calls, {verdict.records} records, {verdict.charged} pico-USD charged;"
        f" {verdict.swept} swept, {verdict.unresolved} unresolved, {verdict.late} late records",
        "sound" if verdict.sound else ", ".join(f"{len(faults)} {kind}" for kind, faults in verdict.faults.items()),
    ]
    for kind, faults in verdict.faults.items():
        lines += [f"{kind}: account {fault.account_id}, call {fault.call_id}: {fault.text}" for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            lines.append(f"{kind}: and {len(faults) - SHOWN} more")
    return lines


if __name__ == "__main__":
    sys.exit(main())
