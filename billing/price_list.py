"""What is for sale at a moment, as people read it: one **Offer** for each model shown that has a price in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Prefetch, Q, QuerySet

from accounts.models import Account
from billing.models import LanguageModel, PriceRate, PriceVersion


@dataclass(frozen=True, slots=True)
class Offer:
    """A model and its rates in pico-USD per token, for prompts below its first longer context band."""

    model: LanguageModel
    input: int
    cached_input: int
    output: int
    contract: bool  # The customer's own price instead of the list price.


def offers(*, now: datetime, account: Account | None = None) -> list[Offer]:
    """The offers to everybody, or to one customer, whose contract prices replace the list prices."""
    versions = in_force(now).filter(Q(account=None) | Q(account=account), model__listed=True, model__hidden=False)
    chosen: dict[int, PriceVersion] = {}
    for version in versions.select_related("model").order_by("model_id"):
        if version.account_id is not None or version.model_id not in chosen:
            chosen[version.model_id] = version
    return [
        Offer(model=version.model, contract=version.account_id is not None, **rates_of(version.rates.all()))
        for version in chosen.values()
    ]


def in_force(now: datetime) -> QuerySet[PriceVersion]:
    """The versions in force, list and contract, each with its rates: two queries however many there are."""
    return PriceVersion.objects.filter(Q(ends_at=None) | Q(ends_at__gt=now), starts_at__lte=now).prefetch_related(
        Prefetch("rates", PriceRate.objects.filter(context_from=0))
    )


def rates_of(rates: Iterable[PriceRate]) -> dict[str, int]:
    """Meter -> pico-USD per token."""
    return {rate.meter: rate.pico_per_token for rate in rates}
