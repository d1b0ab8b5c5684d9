"""manage.py set_price: supersede the price of a model."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import registration
from billing import catalogue, clock, money, pricing
from billing.models import PriceRate

Meter = PriceRate.Meter


class Command(BaseCommand):
    help = "Set a new price of a model, in USD per million tokens. The price before it ends where this one starts."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="the id of the model, such as deepseek-v4-flash")
        parser.add_argument("--input", required=True, metavar="USD", help="per million input tokens, such as 0.14")
        parser.add_argument("--output", required=True, metavar="USD", help="per million output tokens")
        parser.add_argument(
            "--cached-input", metavar="USD", help="per million cached input tokens (default: the input price)"
        )
        parser.add_argument(
            "--from",
            dest="starts_at",
            metavar="TIME",
            help=f"when it starts, ISO 8601, UTC unless a zone is given (default: {pricing.NOTICE.seconds} s from now)",
        )
        parser.add_argument("--account", metavar="EMAIL", help="a contract price for this customer alone")

    def handle(self, *, model: str, starts_at: str | None, account: str | None, **options: Any) -> None:
        texts = {meter: options[meter.value] for meter in Meter if options[meter.value] is not None}
        try:
            [found] = catalogue.find([model])
            version = pricing.set_price(
                model=found,
                rates={meter.value: money.rate_from_usd_per_million(text) for meter, text in texts.items()},
                starts_at=clock.read(starts_at) if starts_at is not None else None,
                account=registration.account_of(email=account) if account is not None else None,
                now=clock.now(),
            )
        except (
            catalogue.UnknownModels,
            clock.InvalidMoment,
            money.InvalidAmount,
            pricing.PriceRefused,
            registration.AccountNotFound,
        ) as refusal:
            raise CommandError(str(refusal)) from refusal
        rates = ", ".join(f"{meter.label.lower()} {text.strip()}" for meter, text in texts.items())
        self.stdout.write(
            f"{model} costs {rates} USD per million tokens for {account or 'everybody'} "
            f"from {version.starts_at:%Y-%m-%d %H:%M:%S} UTC."
        )
