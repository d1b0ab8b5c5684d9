"""An operator's question to one backend: does it answer for this model now? Asked also where it gets no calls."""

from __future__ import annotations

import dataclasses

from asgiref.sync import async_to_sync

from gateway import directory, probes
from gateway.database import AWAY, one_connection
from gateway.directory import Model, Target
from gateway.models import Attempt, Route
from gateway.probes import Probe

Result = Attempt.Result


def run(route: Route) -> Probe:
    """Ask for one word. Never raises for what backends do."""
    model = Model(**{field.name: getattr(route.model, field.name) for field in dataclasses.fields(Model)})
    return async_to_sync(_run)(route.pk, model)


async def _run(route_id: int, model: Model) -> Probe:
    try:
        target = await _target(route_id)
    except AWAY:
        return Probe(Result.NO_CONNECTION, None, 0, "not asked, the database is away")
    if target is None:
        return Probe(Result.NO_CONNECTION, None, 0, "not asked, no key opens its API key: enter it again")
    return await probes.probe(target, model)


async def _target(route_id: int) -> Target | None:
    """Raises one of AWAY."""
    async with one_connection("gateway-trial") as database:
        return await directory.read_target(database, route_id)
