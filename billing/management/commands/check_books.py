"""manage.py check_books: prove that the books hold."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import books
from billing.books import Finding


class Command(BaseCommand):
    help = "Check every promise of the books. The exit code is 1 when one is broken."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--full", action="store_true", help="read all history (default: what came since the last check)"
        )
        parser.add_argument("--json", action="store_true", help="print a list for a program instead of a table")

    def handle(self, *, full: bool, json: bool, **options: Any) -> None:
        findings = books.check(full=full)
        self.stdout.write(_as_json(findings) if json else _as_table(findings))
        broken = [finding.promise.name for finding in findings if finding.broken]
        if broken:
            raise CommandError(f"The books are broken: {', '.join(broken)}.", returncode=1)


def _as_table(findings: list[Finding]) -> str:
    width = max(len(finding.promise.text) for finding in findings)
    lines = [f"{'':<4}{'promise':<{width}}  {'broken':>6}  seconds"]
    for finding in findings:
        promise = finding.promise
        lines.append(f"{promise.name:<4}{promise.text:<{width}}  {finding.broken:>6}  {finding.seconds:7.3f}")
    for finding in findings:
        for example in finding.examples:
            facts = ", ".join(f"{name}={value}" for name, value in example.items())
            lines.append(f"{finding.promise.name}: {facts}")
        if finding.broken > len(finding.examples):
            lines.append(f"{finding.promise.name}: and {finding.broken - len(finding.examples)} more")
    return "\n".join(lines)


def _as_json(findings: list[Finding]) -> str:
    facts = [
        {
            "promise": finding.promise.name,
            "text": finding.promise.text,
            "broken": finding.broken,
            "seconds": round(finding.seconds, 6),
            "examples": finding.examples,
        }
        for finding in findings
    ]
    return json.dumps(facts, default=str, indent=2)
