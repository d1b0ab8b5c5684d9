"""The table: a line for each fault, and what was wrong in words."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.judge import Verdict
from tests.chaos.runner import Result
from tests.chaos.scene import Fault

FAULTS_SHOWN = 5  # Of a kind and a fault.

COLUMNS = (
    ("fault", 20),
    ("calls", 6),
    ("lost", 5),
    ("double", 7),
    ("overdraft", 10),
    ("wrong", 6),
    ("open", 5),
    ("recovery", 12),
    ("drain", 6),
    ("lag", 6),
    ("wait", 6),
    ("refused", 8),
    ("broken", 7),
    ("swept", 6),
    ("unresolved", 11),
    ("late", 5),
    ("took", 6),
)

EXPLANATION = """\
calls: as clients made them. recovery: from the heal to 20 answers in a row on each gateway; in brackets what that took
before. drain: until nothing of it was open. lag: age of the oldest unsettled record. wait: the longest for an answer or
a refusal. All in seconds. broken: streams that were cut or ended with an error, and calls that nobody answered. swept,
unresolved: closed by the sweeper, by a checkpoint or without one. late: records that came after that."""


def head() -> str:
    return "".join(name.ljust(width) if width == 20 else name.rjust(width) for name, width in COLUMNS)


def line(result: Result) -> str:
    """The result of one fault; the verdict is known."""
    cells = [result.fault.name, *_cells(result)]
    text = "".join(
        cell.ljust(width) if width == 20 else cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)
    )
    if result.skipped:
        return f"{text}  skipped: {result.skipped}"
    return f"{text}  {'FAILED' if result.failed else 'ok'}"


def details(result: Result) -> list[str]:
    """What was noticed, and what was wrong."""
    lines = [f"    {'; '.join(result.notes)}"] if result.notes else []
    lines += [f"    ! {complaint}" for complaint in result.complaints]
    return lines + (faults_of(result.verdict) if result.verdict is not None else [])


def faults_of(verdict: Verdict) -> list[str]:
    lines = []
    for kind, faults in verdict.faults.items():
        lines += [
            f"    ! {kind}: account {fault.account_id}, call {fault.call_id}: {fault.text}"
            for fault in faults[:FAULTS_SHOWN]
        ]
        if len(faults) > FAULTS_SHOWN:
            lines.append(f"    ! {kind}: and {len(faults) - FAULTS_SHOWN} more")
    return lines


def listing(faults: Sequence[Fault], short: Sequence[str]) -> str:
    return "\n".join(f"{'*' if fault.name in short else ' '} {fault.name:<20} {fault.what}" for fault in faults)


def _cells(result: Result) -> list[str]:
    verdict = result.verdict
    assert verdict is not None
    found = [str(len(faults)) for faults in verdict.faults.values()]
    return [
        str(len(result.calls)),
        *found,
        f"{_seconds(result.recovery_seconds)} ({_seconds(result.normal_seconds)})",
        _seconds(result.drain_seconds),
        _seconds(result.lag_seconds),
        f"{result.longest_wait:.2f}",
        str(result.count("refused")),
        str(result.count("cut", "error", "timeout")),
        str(verdict.swept),
        str(verdict.unresolved),
        str(verdict.late),
        f"{result.seconds:.0f}",
    ]


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
