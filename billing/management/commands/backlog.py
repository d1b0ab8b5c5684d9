"""manage.py backlog: how far the background work is behind, for a person or a monitor."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import backlog


class Command(BaseCommand):
    help = "Show what waits for settlement, the sweeper or a person. The exit code is 1 when the work is behind."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print an object for a program instead of lines")

    def handle(self, *, json: bool, **options: Any) -> None:
        now = backlog.measure()
        self.stdout.write(_as_json(now) if json else _as_lines(now))
        if now.is_behind:
            raise CommandError("The background work is behind. Do the Celery worker and beat run?", returncode=1)


def _as_lines(now: backlog.Backlog) -> str:
    facts = {name.replace("_", " "): value for name, value in asdict(now).items()}
    return "\n".join(f"{name:<24}{round(value):>12,}" for name, value in facts.items())


def _as_json(now: backlog.Backlog) -> str:
    return json.dumps(asdict(now), indent=2)
