"""manage.py credit_account: an operator gives a customer credit."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import registration
from billing import clock, credits, ledger, money
from billing.models import Wallet


class Command(BaseCommand):
    help = "Give an account credit, as an adjustment in the ledger."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--account", required=True, metavar="EMAIL", help="the e-mail address of its owner")
        parser.add_argument("--usd", required=True, metavar="AMOUNT", help="how much, in USD, such as 10 or 0.25")
        parser.add_argument("--reason", required=True, help="why; stays in the ledger")
        parser.add_argument("--cause", help="a name for this credit: the same one again credits nothing more")

    def handle(self, *, account: str, usd: str, reason: str, cause: str | None, **options: Any) -> None:
        try:
            owner = registration.account_of(email=account)
            amount = money.from_usd(usd)
            now = clock.now()
            transfer = credits.grant(account=owner, amount=amount, reason=reason, now=now, cause=cause)
        except ledger.InvalidTransfer as refusal:
            raise CommandError(f"--usd {usd}: {refusal}") from refusal
        except ledger.CauseReused as refusal:
            raise CommandError(
                f"--cause {cause} was already used for another account or amount. Choose another."
            ) from refusal
        except (registration.AccountNotFound, money.InvalidAmount, credits.InvalidReason) as refusal:
            raise CommandError(str(refusal)) from refusal
        credited = "Credited" if transfer.created_at >= now else "This cause had already credited"
        wallet = Wallet.objects.get(pk=owner.pk)
        self.stdout.write(
            f"{credited} {money.usd(amount)} USD to {account}. Balance {money.usd(wallet.posted)} USD, "
            f"of which available {money.usd(wallet.available)} USD."
        )
