"""What this process knows of the world: models, prices, routes, read afresh every second.

A **Directory** is one reading, replaced as a whole. While the database is away the last one stays good.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from billing import pricing
from billing.pricing import Price, Rates, Schedule
from gateway import credentials
from gateway.models import Backend
from gateway.requests import Dialect

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1
_STREAM_OPTIONS: dict[Backend.StreamUsage, dict[str, bool] | None] = {
    Backend.StreamUsage.LAST: {"include_usage": True},
    Backend.StreamUsage.RUNNING: {"include_usage": True, "continuous_usage_stats": True},
    Backend.StreamUsage.UNASKED: None,
}
_unreadable: set[str] = set()  # Backends whose fault was told; once is enough.


@dataclass(frozen=True, slots=True)
class Model:
    id: int
    public_id: str
    family: str
    name: str
    type: str
    context_tokens: int
    max_output_tokens: int
    hidden: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transport:
    """How backends are connected to. Those with the same share a pool; empty means public CAs, and directly."""

    ca_certificate: str = ""
    proxy_url: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve a model. `credential` is plaintext: it never leaves this process but to its backend.

    A limit that is None is that of the settings, or none.
    """

    backend: str
    base_url: str
    credential: str | None = field(repr=False)
    backend_model: str
    priority: int
    weight: int
    dialect: Dialect
    transport: Transport = Transport()
    connect_seconds: int | None = None
    first_token_seconds: int | None = None
    idle_seconds: int | None = None
    max_concurrent: int | None = None
    prices: tuple[Price, ...] = ()  # What the backend charges us: in force, or scheduled.

    def price(self, at: datetime) -> Price | None:
        """What it charged us then; None where nobody has said."""
        return next((price for price in self.prices if price.starts_at <= at and not _over(price, at)), None)


@dataclass(frozen=True, slots=True)
class Directory:
    models: dict[str, Model]
    schedule: Schedule
    targets: dict[int, list[Target]]

    def on_sale(self, at: datetime) -> list[tuple[Model, Price]]:
        """Every listed model with a list price in force, hidden ones included."""
        priced = ((model, self.schedule.in_force(model.id, None, at)) for model in self.models.values())
        return [(model, price) for model, price in priced if price is not None]

    @property
    def transports(self) -> set[Transport]:
        return {target.transport for targets in self.targets.values() for target in targets}

    @property
    def caps(self) -> dict[str, int]:
        """How many calls each backend takes at the same time, where somebody has said so."""
        every = (target for targets in self.targets.values() for target in targets)
        return {target.backend: target.max_concurrent for target in every if target.max_concurrent is not None}


async def read(database: AsyncConnection[object]) -> Directory:
    """A new reading."""
    async with database.cursor(row_factory=class_row(Model)) as cursor:
        await cursor.execute(_MODELS)
        models = {model.public_id: model for model in await cursor.fetchall()}
    return Directory(models, await pricing.load_schedule(database), await _read_targets(database))


async def read_target(database: AsyncConnection[object], route_id: int) -> Target | None:
    """That of one route, also where it gets no calls. None where it is gone, or no key opens its credential."""
    found = await _read_targets(database, route_id)
    return next((target for targets in found.values() for target in targets), None)


def _over(price: Price, at: datetime) -> bool:
    return price.ends_at is not None and price.ends_at <= at


async def _read_prices(database: AsyncConnection[object]) -> dict[int, tuple[Price, ...]]:
    """By route."""
    prices: dict[int, tuple[Price, ...]] = defaultdict(tuple)
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_PRICES)
        for route_id, price_id, starts_at, ends_at, *rates in await cursor.fetchall():
            prices[route_id] += (Price(price_id, starts_at, ends_at, (Rates(0, *rates),)),)
    return prices


async def _read_targets(database: AsyncConnection[object], only_route: int | None = None) -> dict[int, list[Target]]:
    """By model: those that get calls, or the one of a route."""
    prices = await _read_prices(database)
    targets: dict[int, list[Target]] = defaultdict(list)
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_ROUTES, {"route": only_route})
        for route_id, model_id, backend, base_url, credential, name, priority, weight, *rest in await cursor.fetchall():
            try:
                plaintext = credentials.decrypt(bytes(credential)) if credential else None
            except credentials.CredentialUnreadable:
                if backend not in _unreadable:
                    logger.error("backend %s is left out: no key opens its credential; enter it again", backend)
                _unreadable.add(backend)
                continue
            _unreadable.discard(backend)
            allowed, denied, developer_role, renamed, added, usage, ca_certificate, proxy_url, *limits = rest
            asks = _STREAM_OPTIONS[Backend.StreamUsage(usage)]
            dialect = Dialect(frozenset(allowed), frozenset(denied), developer_role, renamed, added, asks)
            transport = Transport(ca_certificate, proxy_url)
            how: tuple[Any, ...] = (dialect, transport, *limits, prices[route_id])
            target = Target(backend, base_url, plaintext, name, priority, weight, *how)
            targets[model_id].append(target)
    return targets


_MODELS = """
SELECT id, public_id, family, name, type, context_tokens, max_output_tokens, hidden, created_at
  FROM billing_languagemodel WHERE listed ORDER BY id
"""

_ROUTES = """
SELECT route.id, route.model_id, backend.name, backend.base_url, backend.credential, route.backend_model,
       route.priority, route.weight,
       backend.allowed_parameters, backend.denied_parameters, backend.developer_role,
       backend.renamed_parameters, backend.added_parameters, backend.usage_in_streams,
       backend.ca_certificate, backend.proxy_url, backend.connect_seconds,
       backend.first_token_seconds, backend.idle_seconds, backend.max_concurrent
  FROM gateway_route route JOIN gateway_backend backend ON backend.id = route.backend_id
 WHERE CASE WHEN %(route)s::bigint IS NULL THEN route.enabled AND backend.enabled ELSE route.id = %(route)s END
 ORDER BY route.id
"""

_PRICES = """
SELECT route_id, id, starts_at, ends_at, input, cached_input, output
  FROM gateway_routeprice WHERE ends_at IS NULL OR ends_at > now() - interval '1 minute'
"""
