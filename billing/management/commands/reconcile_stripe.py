"""manage.py reconcile_stripe: read what Stripe knows and we were never told, and compare both sides."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import clock, money
from billing.models import ClearingCheck
from billing.payments import clearing, reconcile, stripe_api


class Command(BaseCommand):
    help = "Read Stripe's lists to their end, post what is missing, and compare. The exit code is 1 if that failed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--all", action="store_true", help="read and compare all history (default: what came since last time)"
        )

    def handle(self, *, all: bool, **options: Any) -> None:
        if not stripe_api.is_on():
            raise CommandError("There is no key of Stripe here: STRIPE_SECRET_KEY is empty.")
        if all:
            reconcile.reach_back(to=reconcile.BEGINNING)
            clearing.begin_again()
        try:
            outcome = self._run_to_the_end()
        except reconcile.Busy:
            raise CommandError("Another reconciler is at work; it reads from where this one would.") from None
        for check in ClearingCheck.objects.order_by("clearing"):
            self.stdout.write(_line(check))
        if outcome.errors:
            raise CommandError("\n".join(f"{name}: {error}" for name, error in outcome.errors.items()))

    def _run_to_the_end(self) -> reconcile.Outcome:
        while True:
            outcome = reconcile.run(now=clock.now(), tell=self.stdout.write)
            if outcome.is_complete or outcome.errors:
                return outcome


def _line(check: ClearingCheck) -> str:
    shown = (check.stripe_cents, check.books_cents, check.difference_cents, check.unexplained_cents)
    stripe, books, difference, unexplained = (money.exactly(money.from_cents(each)) for each in shown)
    return (
        f"{check.clearing}: Stripe {stripe}, books {books}, difference {difference}, "
        f"to explain {unexplained} ({check.unexplained_count} objects)"
    )
