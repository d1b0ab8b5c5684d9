"""manage.py create_voucher: an operator makes codes that give credit."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import clock, money, vouchers
from billing.vouchers import Terms


class Command(BaseCommand):
    help = "Make a code that gives promotional credit, or many that work once each; prints one a line."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--usd", required=True, metavar="AMOUNT", help="what it gives, in USD, such as 10")
        parser.add_argument("--code", default="", help="such as SPRING-SALE; without it one is made")
        parser.add_argument("--count", type=int, default=1, help="more than 1: codes that work once each")
        parser.add_argument("--credit-days", type=int, help="the credit expires so many days after redemption,")
        parser.add_argument("--credit-expires", metavar="TIME", help="or at this time, in ISO 8601, UTC")
        parser.add_argument("--valid-from", metavar="TIME", help="not before")
        parser.add_argument("--valid-until", metavar="TIME", help="not from then on")
        parser.add_argument("--total", type=int, help="how often by all together; without it no limit")
        parser.add_argument("--per-account", type=int, default=1, help="how often by one account (1)")
        parser.add_argument("--note", default="", help="what it is for; customers do not see it")

    def handle(self, *, usd: str, code: str, count: int, **options: Any) -> None:
        if code and count != 1:
            raise CommandError("Several codes cannot be the same: give --code or --count.")
        try:
            now = clock.now()
            terms = Terms(
                amount=money.from_usd(usd),
                credit_days=options["credit_days"],
                credit_expires_at=_read(options["credit_expires"]),
                valid_from=_read(options["valid_from"]),
                valid_until=_read(options["valid_until"]),
                total_limit=options["total"],
                account_limit=options["per_account"],
                note=options["note"],
            )
            if count == 1:
                made = [vouchers.create(terms=terms, code=code, now=now)]
            else:
                made = vouchers.create_batch(terms=terms, count=count, batch_id=uuid4(), now=now)
        except (money.InvalidAmount, clock.InvalidMoment, vouchers.InvalidVoucher) as refusal:
            raise CommandError(str(refusal)) from refusal
        for voucher in made:
            self.stdout.write(voucher.written)


def _read(text: str | None) -> Any:
    return clock.read(text) if text else None
