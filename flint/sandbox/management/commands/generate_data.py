"""manage.py generate_data: fill a sandbox's database with the customers, calls and money of a busy year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError

from flint.sandbox import volume


class Command(BaseCommand):
    help = (
        "Fill the database for benchmarks: customers of every size, their keys, calls and money. "
        "The same seed and the same end make the same rows."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--usage", type=int, default=10_000_000, help="usage records (default: %(default)s)")
        parser.add_argument("--transfers", type=int, default=1_000_000, help="transfers (default: %(default)s)")
        parser.add_argument("--accounts", type=int, default=100_000, help="accounts (default: %(default)s)")
        parser.add_argument("--keys", type=int, default=200_000, help="API keys (default: %(default)s)")
        parser.add_argument("--days", type=int, default=90, help="over so many days (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=7, help="from 0 on (default: %(default)s)")
        parser.add_argument(
            "--until",
            type=datetime.fromisoformat,
            default=_last_full_hour(),
            metavar="MOMENT",
            help="when the last call was, such as 2026-01-31T12:00Z (default: an hour ago)",
        )

    def handle(self, *, until: datetime, **options: Any) -> None:
        if until.tzinfo is None:
            raise CommandError("Say --until with its time zone, such as 2026-01-31T12:00Z.")
        fields = {name: options[name] for name in ("usage", "transfers", "accounts", "keys", "days", "seed")}
        try:
            volume.generate(volume.Shape(until=until.astimezone(UTC), **fields), tell=self._tell)
        except volume.Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        except (OperationalError, ProgrammingError) as fault:
            raise CommandError(f"The database cannot be filled: {str(fault).strip()}") from fault

    def _tell(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _last_full_hour() -> datetime:
    return (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
