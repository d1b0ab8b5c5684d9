"""manage.py rotate_credentials: encrypt every API key of a backend with the first key of FLINT_CREDENTIAL_KEYS."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway import backends


class Command(BaseCommand):
    help = "Encrypt the API keys of all backends with the first of FLINT_CREDENTIAL_KEYS; then the others can go."

    def handle(self, **options: Any) -> None:
        rotated, unreadable = backends.rotate_credentials()
        self.stdout.write(f"{rotated} API keys are encrypted with the first key.")
        if unreadable:
            raise CommandError(f"No key opens the API keys of: {', '.join(unreadable)}. Enter them again.")
