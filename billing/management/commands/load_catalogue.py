"""Edge: the starting catalogue of a new installation."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from billing import catalogue, clock


class Command(BaseCommand):
    help = "Add the models of billing/catalogue.json that are not there yet, each with its list price."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{catalogue.load(now=clock.now())} models added.")
