"""What backends charge us, so that the margin of a call is known with its charge.

A **RoutePrice** holds from `starts_at` until `ends_at`. It is superseded, never edited: a usage record keeps the cost
that was computed when its call ended, at the price in force when it was admitted. No price means an unknown cost, which
is not zero.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Q

from accounts.models import User
from billing import money, pricing
from gateway.models import Route, RoutePrice


class RoutePriceRefused(Exception):
    """The price would start too soon, or before one that is scheduled, or cannot be true."""


def set_price(
    *,
    route: Route,
    input: int,
    output: int,
    cached_input: int | None = None,
    starts_at: datetime | None = None,
    now: datetime,
    by: User | None = None,
) -> RoutePrice:
    """Supersede the price of a route, in pico-USD per token. Zero is a price: of a server that is paid otherwise.

    Without `cached_input`, cached tokens cost the input price. It starts at `starts_at`, or as soon as every process
    knows it. Raises RoutePriceRefused.
    """
    cached_input = input if cached_input is None else cached_input
    if not all(0 <= rate <= pricing.MAX_RATE for rate in (input, cached_input, output)):
        most = money.usd_per_million(pricing.MAX_RATE)
        raise RoutePriceRefused(f"A rate is from 0 to {most} USD per million tokens.")
    soonest = now + pricing.NOTICE
    starts_at = starts_at or soonest
    if not soonest <= starts_at <= now + pricing.HORIZON:
        raise RoutePriceRefused(
            f"A price starts at least {pricing.NOTICE.seconds} s and at most {pricing.HORIZON.days} days from now."
        )
    with transaction.atomic():
        Route.objects.select_for_update(no_key=True).get(pk=route.pk)
        earlier = RoutePrice.objects.filter(route=route)
        if earlier.filter(Q(starts_at__gte=starts_at) | Q(ends_at__gt=starts_at)).exists():
            raise RoutePriceRefused("A price is scheduled from then on or later, and a scheduled price stays.")
        earlier.filter(ends_at=None).update(ends_at=starts_at)
        return RoutePrice.objects.create(
            route=route, starts_at=starts_at, input=input, cached_input=cached_input, output=output, created_by=by
        )
