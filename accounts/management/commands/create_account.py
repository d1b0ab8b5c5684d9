"""manage.py create_account: a user with an account of its own."""

from __future__ import annotations

import sys
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import registration


class Command(BaseCommand):
    help = "Create a user and the account that this user owns."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="the e-mail address to sign in with")
        parser.add_argument("--tier", default=registration.STANDARD_TIER, help="rate limits (default: %(default)s)")
        parser.add_argument("--name", default="", help="name of the account (default: the e-mail address)")
        parser.add_argument(
            "--password-stdin",
            action="store_true",
            help="read the password from the first line of the input; without it the user cannot sign in yet",
        )

    def handle(self, *, email: str, tier: str, name: str, password_stdin: bool, **options: Any) -> None:
        password = _password_from_input() if password_stdin else None
        try:
            account = registration.create_account(email=email, password=password, name=name, tier=tier)
        except (
            registration.InvalidEmail,
            registration.InvalidName,
            registration.EmailTaken,
            registration.UnknownTier,
        ) as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"Created account {account.pk} of {email}, tier {account.tier}.")


def _password_from_input() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    try:
        validate_password(password)
    except ValidationError as fault:
        raise CommandError(" ".join(fault.messages)) from fault
    return password
