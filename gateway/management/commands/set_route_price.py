"""manage.py set_route_price: what a backend charges us for a model."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import clock, money
from gateway import route_prices
from gateway.models import Route


class Command(BaseCommand):
    help = "Set what a backend charges us for a model, in USD per million tokens. The price before it ends then."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("backend", help="the name of the backend")
        parser.add_argument("model", help="the id of the model, such as deepseek-v4-flash")
        parser.add_argument("--input", required=True, metavar="USD", help="per million input tokens, such as 0.07")
        parser.add_argument("--output", required=True, metavar="USD", help="per million output tokens")
        parser.add_argument(
            "--cached-input", metavar="USD", help="per million cached input tokens (default: the input price)"
        )
        parser.add_argument(
            "--from", dest="starts_at", metavar="TIME", help="when it starts, ISO 8601, UTC unless a zone is given"
        )

    def handle(self, *, backend: str, model: str, starts_at: str | None, **options: Any) -> None:
        try:
            price = route_prices.set_price(
                route=Route.objects.get(backend__name=backend, model__public_id=model),
                input=money.rate_from_usd_per_million(options["input"]),
                output=money.rate_from_usd_per_million(options["output"]),
                cached_input=_rate(options["cached_input"]),
                starts_at=clock.read(starts_at) if starts_at is not None else None,
                now=clock.now(),
            )
        except Route.DoesNotExist:
            raise CommandError(f"The backend {backend} does not serve {model}.") from None
        except (clock.InvalidMoment, money.InvalidAmount, route_prices.RoutePriceRefused) as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"{model} costs us this at {backend} from {price.starts_at:%Y-%m-%d %H:%M:%S} UTC.")


def _rate(text: str | None) -> int | None:
    return None if text is None else money.rate_from_usd_per_million(text)
