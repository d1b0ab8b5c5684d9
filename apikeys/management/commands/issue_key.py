"""manage.py issue_key: a new key, shown once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import registration
from apikeys import keys


class Command(BaseCommand):
    help = "Create an API key. The key alone goes to the output, once; it cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--account", required=True, metavar="EMAIL", help="the e-mail address of its owner")
        parser.add_argument("--name", required=True, help="what the key is for")

    def handle(self, *, account: str, name: str, **options: Any) -> None:
        try:
            owner = registration.account_of(email=account)
            key, secret = keys.create(account=owner, name=name, now=datetime.now(UTC))
        except (registration.AccountNotFound, keys.InvalidName, keys.TooManyKeys) as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stderr.write(f"Key {key.name!r} of {account}. Store it now: it is not shown again.")
        self.stdout.write(secret)
