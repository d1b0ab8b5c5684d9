"""manage.py add_backend: an inference server and the models it serves."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import catalogue
from gateway import backends


class Command(BaseCommand):
    help = "Add an OpenAI-compatible inference server, or change the one of this name."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="what operators call it")
        parser.add_argument("url", help="its address up to and with /v1, as an OpenAI client would be given it")
        parser.add_argument(
            "--api-key",
            metavar="KEY",
            help="the key it wants from us; - reads it from the input, '' means none (default: the stored one stays)",
        )
        parser.add_argument(
            "--models",
            required=True,
            metavar="A,B=C",
            help="the ids of all models it serves; B=C where the backend calls our B by the name C",
        )

    def handle(self, *, name: str, url: str, api_key: str | None, models: str, **options: Any) -> None:
        served = _served(models)
        if api_key == "-":
            api_key = sys.stdin.readline().strip()
        try:
            backend = backends.save(name=name, base_url=url, credential=api_key, models=served)
        except backends.CredentialNeeded as refusal:
            raise CommandError(f"{refusal} Use --api-key, with '' for a backend that needs none.") from refusal
        except (backends.InvalidBackend, catalogue.UnknownModels) as refusal:
            raise CommandError(str(refusal)) from refusal
        state = "with" if backend.credential else "without"
        self.stdout.write(f"Backend {backend.name} at {backend.base_url}, {state} an API key: {', '.join(served)}.")


def _served(models: str) -> dict[str, str]:
    """Public id -> the backend's own name, of `a,b=c`."""
    served: dict[str, str] = {}
    for item in models.split(","):
        public_id, _, backend_model = (part.strip() for part in item.partition("="))
        if not public_id or ("=" in item and not backend_model):
            raise CommandError(f"--models {models}: write the ids with commas between them, such as a,b=c.")
        if public_id in served:
            raise CommandError(f"--models {models}: {public_id} is there twice.")
        served[public_id] = backend_model or public_id
    return served
