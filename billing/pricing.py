"""What a call costs, and which price is in force.

A **Usage** is what a call used. A **Price** is one version with its rates; a **Schedule** is all versions that matter
now, held by each process and chosen from by time. Rates are pico-USD per token, so a charge is an exact integer and
nothing is rounded. No price in force means that the model is not for sale: there is no zero by accident.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from accounts.models import Account, User
from billing import money
from billing.models import LanguageModel, PriceRate, PriceVersion

# Every process refreshes its schedule within this time, so that a new price starts everywhere at the same moment.
NOTICE = timedelta(seconds=5)
HORIZON = timedelta(days=366)
# Pico-USD per token. Keeps the largest hold (16 answers of the longest kind) far below what a BIGINT holds.
MAX_RATE = 10**10


class PriceRefused(Exception):
    """The price would start too soon, overlap a scheduled one, or be incomplete."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. Cached are part of the input tokens, reasoning part of the output tokens."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-USD per token for calls with a prompt of `context_from` tokens or more."""

    context_from: int
    input: int
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Price:
    version_id: int
    starts_at: datetime
    ends_at: datetime | None
    bands: tuple[Rates, ...]  # By context_from, ascending; the first starts at 0.

    def rates(self, input_tokens: int) -> Rates:
        """The band that a prompt of this length falls in; it prices the whole call."""
        return next(band for band in reversed(self.bands) if band.context_from <= max(input_tokens, 0))

    def charge(self, usage: Usage) -> int:
        """Exact pico-USD."""
        rates = self.rates(usage.input_tokens)
        uncached = usage.input_tokens - usage.cached_input_tokens
        return (
            uncached * rates.input + usage.cached_input_tokens * rates.cached_input + usage.output_tokens * rates.output
        )

    def ceiling(self, *, input_tokens: int, output_tokens: int) -> int:
        """The most that a call of at most so many tokens can cost, in pico-USD, whichever band it falls in."""
        return max(
            input_tokens * max(band.input, band.cached_input) + output_tokens * band.output
            for band in self.bands
            if band.context_from <= input_tokens
        )


class Schedule:
    """Prices by model: list prices, and the contract prices that replace them for one account."""

    def __init__(self, rows: Iterable[tuple[int, int | None, Price]]) -> None:
        self._prices: dict[tuple[int, int | None], list[Price]] = defaultdict(list)
        for model_id, account_id, price in rows:
            self._prices[model_id, account_id].append(price)

    def in_force(self, model_id: int, account_id: int | None, at: datetime) -> Price | None:
        """The account's contract price, else the list price; None means not for sale."""
        for owner in (account_id, None) if account_id is not None else (None,):
            for price in self._prices.get((model_id, owner), ()):
                if price.starts_at <= at and (price.ends_at is None or at < price.ends_at):
                    return price
        return None


def price_of(version_id: int) -> Price:
    """The price of one version, in force or not."""
    version = PriceVersion.objects.get(pk=version_id)
    rates = PriceRate.objects.filter(version=version).values_list("meter", "context_from", "pico_per_token")
    return Price(version.pk, version.starts_at, version.ends_at, _bands(rates))


async def load_schedule(connection: AsyncConnection[object]) -> Schedule:
    """Every version that is in force or scheduled, in one query."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_SCHEDULE)
        rows = await cursor.fetchall()
    return Schedule(
        (model_id, account_id, Price(version_id, starts_at, ends_at, _bands(rates)))
        for version_id, model_id, account_id, starts_at, ends_at, rates in rows
    )


def set_price(
    *,
    model: LanguageModel,
    rates: Mapping[str, int],
    starts_at: datetime | None = None,
    account: Account | None = None,
    now: datetime,
    by: User | None = None,
) -> PriceVersion:
    """Supersede the price of a model, for everybody or (`account`) for one customer.

    `rates` is meter -> pico-USD per token and must name input and output; without cached_input, cached tokens cost the
    input price. The price starts at `starts_at`, or as soon as it may: NOTICE from now, at once where no price could
    be in use yet. Raises PriceRefused.
    """
    rates = _complete(rates)
    with transaction.atomic():
        LanguageModel.objects.select_for_update(no_key=True).get(pk=model.pk)
        earlier = PriceVersion.objects.filter(model=model, account=account)
        in_use = PriceVersion.objects.filter(Q(account=None) | Q(account=account), model=model).exists()
        soonest = now + NOTICE if in_use else now
        starts_at = starts_at or soonest
        if starts_at > now + HORIZON:
            # It could never be taken back, and no other price could start before it.
            raise PriceRefused(f"A price may be scheduled at most {HORIZON.days} days ahead.")
        if starts_at < soonest:
            raise PriceRefused(f"A new price must start at least {NOTICE.seconds} s from now.")
        if earlier.filter(Q(starts_at__gte=starts_at) | Q(ends_at__gt=starts_at)).exists():
            raise PriceRefused("There is already a price scheduled from then on or later; a scheduled price stays.")
        earlier.filter(ends_at=None).update(ends_at=starts_at)
        version = PriceVersion.objects.create(model=model, account=account, starts_at=starts_at, created_by=by)
        PriceRate.objects.bulk_create(
            PriceRate(version=version, meter=meter, pico_per_token=rate) for meter, rate in rates.items()
        )
    return version


def _complete(rates: Mapping[str, int]) -> dict[str, int]:
    meters = PriceRate.Meter
    for meter in (meters.INPUT, meters.OUTPUT):
        if meter not in rates:
            raise PriceRefused(f"The price lacks a rate for {meter.value}.")
    if any(rate <= 0 for rate in rates.values()):
        raise PriceRefused("A rate must be more than zero; a model that shall not be sold is unlisted instead.")
    if rates.get(meters.CACHED_INPUT, 0) > rates[meters.INPUT]:
        raise PriceRefused("Cached input must not cost more than input.")
    if any(rate > MAX_RATE for rate in rates.values()):
        raise PriceRefused(f"A rate is at most {money.usd_per_million(MAX_RATE)} USD per million tokens.")
    return {meters.CACHED_INPUT: rates[meters.INPUT], **rates}


def _bands(rates: Iterable[tuple[str, int, int]]) -> tuple[Rates, ...]:
    by_band: dict[int, dict[str, int]] = defaultdict(dict)
    for meter, context_from, pico_per_token in rates:
        by_band[context_from][meter] = pico_per_token
    return tuple(Rates(context_from, **meters) for context_from, meters in sorted(by_band.items()))


_SCHEDULE = """
SELECT version.id, version.model_id, version.account_id, version.starts_at, version.ends_at,
       jsonb_agg(jsonb_build_array(rate.meter, rate.context_from, rate.pico_per_token))
  FROM billing_priceversion version
  JOIN billing_pricerate rate ON rate.version_id = version.id
 WHERE version.ends_at IS NULL OR version.ends_at > now() - interval '1 minute'
 GROUP BY version.id
"""
