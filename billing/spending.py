"""What an account used and spent, read from the hourly roll-ups, which `check_books` proves equal to the calls.

**Figures** are sums over some hours. A **Series** is the part of them that one model, or one key, has. Charges are
pico-USD. A call is in the roll-ups once it is settled, a second or so after its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Case, F, IntegerField, Min, QuerySet, Sum, Value, When
from django.db.models.functions import TruncDay

from accounts.models import Account
from billing.models import UsageHour
from billing.periods import DAY, Period

FIGURES = ("calls", "input_tokens", "cached_input_tokens", "output_tokens", "charge")
# Each grouping: what is grouped by, and what names it.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "model": ("model_id", "model__public_id"),
    "key": ("api_key_id", "api_key__name", "api_key__display"),
    "none": (),
}


@dataclass(frozen=True, slots=True)
class Figures:
    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    charge: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in FIGURES))


@dataclass(frozen=True, slots=True)
class Series:
    id: int | None
    name: str
    figures: Figures
    detail: str = ""  # Tells keys of the same name apart.


@dataclass(frozen=True, slots=True)
class Scope:
    """Which roll-ups: of an account in a period, of one key or model where given."""

    account: Account
    period: Period
    key_id: int | None = None
    model_id: int | None = None

    def hours(self) -> QuerySet[UsageHour]:
        hours = UsageHour.objects.filter(account=self.account, hour__gte=self.period.since, hour__lt=self.period.until)
        if self.key_id is not None:
            hours = hours.filter(api_key_id=self.key_id)
        if self.model_id is not None:
            hours = hours.filter(model_id=self.model_id)
        return hours


@dataclass(frozen=True, slots=True)
class Day:
    charge: int
    first_hour: datetime


def by_day(account: Account, period: Period) -> dict[date, Day]:
    """Each day that had calls."""
    days = Scope(account, period).hours().annotate(day=TruncDay("hour", tzinfo=UTC)).values("day")
    rows = days.annotate(charge=Sum("charge"), first_hour=Min("hour")).order_by("day")
    return {row["day"].date(): Day(int(row["charge"]), row["first_hour"]) for row in rows}


def series(scope: Scope, *, group: str) -> list[Series]:
    """The figures of each model or key that was used, the dearest first."""
    rows = scope.hours().values(*GROUPS[group]).annotate(**{name: Sum(name) for name in FIGURES})
    found = []
    for row in rows.order_by("-charge", *GROUPS[group][:1]):
        if row["calls"] is None:
            continue  # The sum over nothing, where nothing is grouped by.
        figures = Figures(*(int(row[name]) for name in FIGURES))
        if group == "model":
            found.append(Series(row["model_id"], row["model__public_id"], figures))
        elif group == "key":
            found.append(Series(row["api_key_id"], row["api_key__name"], figures, row["api_key__display"]))
        else:
            found.append(Series(None, "All calls", figures))
    return found


def total(of: Sequence[Series]) -> Figures:
    return sum((one.figures for one in of), Figures())


def by_step(scope: Scope, *, group: str, chosen: Sequence[Series]) -> dict[datetime, list[int]]:
    """For each hour or day with calls the charge of each chosen series, and of all others together."""
    field = GROUPS[group][0] if GROUPS[group] else None
    places = [When(**{field: one.id}, then=Value(place)) for place, one in enumerate(chosen)] if field else []
    place = Case(*places, default=Value(len(chosen) if field else 0), output_field=IntegerField())
    step = TruncDay("hour", tzinfo=UTC) if scope.period.step == DAY else F("hour")
    rows = scope.hours().annotate(step=step, place=place).values_list("step", "place").annotate(charge=Sum("charge"))
    charges: dict[datetime, list[int]] = defaultdict(lambda: [0] * (len(chosen) + 1))
    for moment, position, charge in rows.order_by("step", "place"):
        charges[moment][position] = int(charge)
    return charges


def details(scope: Scope, *, step: timedelta) -> list[dict[str, Any]]:
    """What an export has: the figures of each hour or day, key and model, in this order."""
    start = TruncDay("hour", tzinfo=UTC) if step == DAY else F("hour")
    names = ("step", "api_key_id", "api_key__name", "api_key__display", "model__public_id")
    rows = scope.hours().annotate(step=start).values(*names).annotate(**{name: Sum(name) for name in FIGURES})
    return [
        {**row, **{name: int(row[name]) for name in FIGURES}}
        for row in rows.order_by("step", "api_key_id", "model__public_id")
    ]
