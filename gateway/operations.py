"""How backends do, for the people who run them: health, speed, failures, and what their calls cost and bring.

A **Period** ends now; a call belongs to it by its admission. **Figures** are sums over the calls and attempts of a
period. A **Line** is a model at a backend, a **Place** a backend with its lines, a **View** what is shown at one
moment. What needs the past is read in one statement that is given up after a while: who asks for a period with too many
calls is told so, and sees the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models import Count
from psycopg.errors import QueryCanceled
from redis import RedisError

from billing import partitions
from billing.models import Hold, LanguageModel, UsageRecord
from gateway import breaker, operations_sql, redis_clients
from gateway.models import NO_FAILURES, Attempt, Backend, Route

FAILURES = 20


@dataclass(frozen=True, slots=True)
class Period:
    name: str
    words: str
    span: timedelta
    refresh_seconds: int  # How often a page that is open asks again,
    patience_seconds: float  # and how long adding up may take.

    @property
    def minutes(self) -> int:
        return int(self.span.total_seconds()) // 60


PERIODS: dict[str, Period] = {
    period.name: period
    for period in (
        Period("5m", "5 minutes", timedelta(minutes=5), 5, 5),
        Period("1h", "hour", timedelta(hours=1), 5, 5),
        Period("24h", "day", timedelta(days=1), 30, 10),
        Period("7d", "7 days", timedelta(days=7), 300, 20),
    )
}
DEFAULT_PERIOD = "1h"


@dataclass(frozen=True, slots=True)
class Selection:
    """What is looked at: a period, and one backend or model where given."""

    period: Period
    backend: str | None = None
    model_id: int | None = None

    def has(self, backend: str, model_id: int) -> bool:
        return self.backend in (None, backend) and self.model_id in (None, model_id)


@dataclass(frozen=True, slots=True)
class Figures:
    """Amounts are pico-USD; those of the unpriced calls, whose cost nobody knows, are no part of the margin."""

    minutes: int
    attempts: int = 0
    failed: int = 0
    first_token_ms: tuple[int, int] | None = None  # Of streams: median and 95th percentile.
    duration_ms: tuple[int, int] | None = None  # Of attempts that were answered.
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0  # Those that are paid for.
    revenue: int = 0
    unpriced_calls: int = 0
    priced_revenue: int = 0
    cost: int = 0
    abandoned_cost: int = 0  # Of attempts that nobody paid for.
    unpriced_attempts: int = 0  # Of those as well, that did some work.

    @property
    def per_minute(self) -> Decimal:
        return Decimal(self.attempts) / self.minutes

    @property
    def success_percent(self) -> Decimal | None:
        return _percent(self.attempts - self.failed, self.attempts)

    @property
    def tokens_per_second(self) -> Decimal:
        return Decimal(self.output_tokens) / (self.minutes * 60)

    @property
    def is_cost_known(self) -> bool:
        """Of some of the calls at least. Where nothing was called, nothing is unknown."""
        return self.calls > self.unpriced_calls or (not self.calls and not self.unpriced_attempts)

    @property
    def margin(self) -> int:
        """What is left of the priced calls, with all that was wasted paid from it."""
        return self.priced_revenue - self.cost - self.abandoned_cost

    @property
    def margin_percent(self) -> Decimal | None:
        return _percent(self.margin, self.priced_revenue)


@dataclass(frozen=True, slots=True)
class Health:
    """`kind` is one of well, slow, failing, unknown, idle."""

    kind: str
    words: str
    probe: str = ""  # What the last probe of a worker found.


@dataclass(frozen=True, slots=True)
class Line:
    model_id: int
    model: str
    route: Route | None  # None: it has calls of the period, and is served no more.
    health: Health | None
    figures: Figures


@dataclass(slots=True)
class Place:
    name: str
    backend: Backend | None
    running: int
    figures: Figures
    lines: list[Line] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.backend is None:
            return "removed"
        if self.backend.enabled:
            return "in service"
        return "draining" if self.running else "drained"


@dataclass(frozen=True, slots=True)
class Failure:
    attempt: Attempt
    model: str
    is_paid: bool  # The call has a record.


@dataclass(frozen=True, slots=True)
class View:
    at: datetime
    selection: Selection
    places: list[Place]
    models: list[tuple[str, Figures]]
    total: Figures
    failures: list[Failure]
    is_complete: bool  # Whether the figures could be read in time.
    is_health_known: bool
    names: dict[int, str]  # Of all models that can be looked at,
    backends: list[str]  # and of all backends.


def read(selection: Selection, *, now: datetime) -> View:
    """What the operator looks at now."""
    since = now - selection.period.span
    found = _figures(selection, since)
    figures = found or {}
    nothing = Figures(selection.period.minutes)
    names = dict(LanguageModel.objects.values_list("pk", "public_id"))
    backends = list(Backend.objects.order_by("name"))
    health = _health()
    places = {
        backend.name: Place(backend.name, backend, 0, figures.get((backend.name, None), nothing))
        for backend in backends
        if selection.backend in (None, backend.name)
    }
    for name, model_id in figures:
        if name is not None and model_id is None and name not in places:
            places[name] = Place(name, None, 0, figures[name, None])
    for name, running in _running():
        if name in places:
            places[name].running = running
    for name, model_id, route in _lines(selection, figures):
        known = None if route is None else _health_of(health, model_id, name)
        line = Line(model_id, names.get(model_id, "?"), route, known, figures.get((name, model_id), nothing))
        places[name].lines.append(line)
    for place in places.values():
        place.lines.sort(key=lambda line: (not line.figures.attempts, line.model))  # What is in use comes first.
    return View(
        at=now,
        selection=selection,
        places=[place for place in places.values() if place.lines or selection.model_id is None],
        models=sorted(
            (names.get(model_id, "?"), sums)
            for (name, model_id), sums in figures.items()
            if name is None and model_id is not None
        ),
        total=figures.get((None, None), nothing),
        failures=_failures(selection, since, names),
        is_complete=found is not None,
        is_health_known=health is not None,
        names=names,
        backends=[backend.name for backend in backends],
    )


def running_at(backend: Backend) -> int:
    """How many calls it serves, as of the last checkpoint."""
    return dict(_running()).get(backend.name, 0)


def served_by_nobody_else(backend: Backend) -> list[str]:
    """The models that cannot be called without this backend."""
    enabled = Route.objects.filter(enabled=True)
    others = enabled.filter(backend__enabled=True).exclude(backend=backend).values("model")
    alone = enabled.filter(backend=backend).exclude(model__in=others)
    return list(alone.order_by("model__public_id").values_list("model__public_id", flat=True))


def _figures(selection: Selection, since: datetime) -> dict[tuple[str | None, int | None], Figures] | None:
    """By backend and model, None standing for all of them. None where it would take too long."""
    parameters = {
        "since": partitions.first_id(since),
        "backend": selection.backend,
        "model_id": selection.model_id,
        "no_failures": list(NO_FAILURES),
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(selection.period.patience_seconds * 1000)}")
            cursor.execute("SET LOCAL work_mem = '64MB'")
            cursor.execute(operations_sql.FIGURES, parameters)
            rows = cursor.fetchall()
    except OperationalError as fault:
        if not isinstance(fault.__cause__, QueryCanceled):
            raise
        return None
    return {(name, model_id): _sums(selection.period, *sums) for name, model_id, *sums in rows}


def _sums(period: Period, attempts: int, failed: int, first: Any, duration: Any, *amounts: int) -> Figures:
    whole = [int(amount) for amount in amounts]
    return Figures(period.minutes, attempts, failed, _milliseconds(first), _milliseconds(duration), *whole)


def _milliseconds(percentiles: list[float] | None) -> tuple[int, int] | None:
    if percentiles is None:
        return None
    median, late = percentiles
    return round(median), round(late)


def _lines(
    selection: Selection, figures: Iterable[tuple[str | None, int | None]]
) -> Iterable[tuple[str, int, Route | None]]:
    """Each model at a backend that has a route, or calls all the same."""
    routes = {(route.backend.name, route.model_id): route for route in Route.objects.select_related("backend")}
    called = {(name, model_id) for name, model_id in figures if name is not None and model_id is not None}
    for name, model_id in routes.keys() | called:
        if selection.has(name, model_id):
            yield name, model_id, routes.get((name, model_id))


def _running() -> Iterable[tuple[str, int]]:
    """Of each backend, the calls that it has begun to answer."""
    open_holds = Hold.objects.filter(resolved_at=None).exclude(backend="")
    return open_holds.values_list("backend").annotate(Count("pk")).order_by()


def _health() -> dict[tuple[int, str], breaker.State] | None:
    """None where Redis cannot be asked."""
    try:
        with redis_clients.for_a_moment() as redis:
            return {(state.model_id, state.backend): state for state in breaker.states(redis)}
    except RedisError:
        return None


def _health_of(known: dict[tuple[int, str], breaker.State] | None, model_id: int, backend: str) -> Health:
    if known is None:
        return Health("unknown", "unknown")
    state = known.get((model_id, backend))
    if state is None:
        return Health("idle", "not asked lately")
    probe = f"probed at {state.probed_at:%H:%M:%S}: {state.words}" if state.probed_at else ""
    if not state.why:
        return Health("well", "well", probe)
    after = f"asked again in {state.seconds} s" if state.seconds else "asked again now"
    times = f", opened {state.openings} times" if state.openings > 1 else ""
    if state.why == "slow":
        return Health("slow", f"slow, behind the others; {after}{times}", probe)
    return Health("failing", f"left alone, it fails; {after}{times}", probe)


def _failures(selection: Selection, since: datetime, names: Mapping[int, str]) -> list[Failure]:
    """The last ones of the period."""
    failed = Attempt.objects.filter(call_id__gte=partitions.first_id(since)).exclude(result__in=NO_FAILURES)
    if selection.backend is not None:
        failed = failed.filter(backend=selection.backend)
    if selection.model_id is not None:
        failed = failed.filter(model_id=selection.model_id)
    rows = list(failed.order_by("-call_id")[:FAILURES])
    paid = set(UsageRecord.objects.filter(pk__in=[row.call_id for row in rows]).values_list("pk", flat=True))
    return [Failure(row, names.get(row.model_id, "?"), row.call_id in paid) for row in rows]


def _percent(part: int, whole: int) -> Decimal | None:
    """Cut short, so that only what is whole is a hundred."""
    if not whole:
        return None
    return (Decimal(part) * 100 / whole).quantize(Decimal("0.1"), ROUND_FLOOR)
