"""manage.py prepare_sandbox: what the supervisor runs between the servers and the web process."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from accounts import registration
from apikeys import keys
from flint.sandbox import seed
from gateway import backends


class Command(BaseCommand):
    help = "Bring the database to where a sandbox starts, and write sandbox.json. Safe to repeat."
    requires_system_checks = []  # They cost half of a second start, and `make lint` runs them.

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--backend-url", required=True, metavar="URL", help="the demo backend up to and with /v1")

    def handle(self, *, backend_url: str, **options: Any) -> None:
        if settings.ENVIRONMENT != "sandbox":
            raise CommandError("FLINT_ENV is production, and the sandbox is not for production.")
        try:
            seed.prepare(backend_url=backend_url, now=datetime.now(UTC), tell=self._tell)
        except (backends.InvalidBackend, registration.AccountNotFound, keys.TooManyKeys) as refusal:
            raise CommandError(str(refusal)) from refusal
        except OperationalError as fault:
            raise CommandError(f"The database does not answer: {str(fault).strip()}") from fault
        except OSError as fault:
            raise CommandError(f"sandbox.json cannot be used: {fault}") from fault

    def _tell(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
