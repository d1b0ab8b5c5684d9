"""An operator's question to one backend: does it answer for this model now? Asked also where it gets no calls."""

from __future__ import annotations

import asyncio
import dataclasses

from asgiref.sync import async_to_sync

from gateway import directory, probes
from gateway.database import AWAY, Pool
from gateway.directory import Model, Target
from gateway.models import Attempt, Route
from gateway.probes import Probe

Result = Attempt.Result

SECONDS = 10  # A person waits for it.


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
    try:
        async with asyncio.timeout(SECONDS):
            return await probes.probe(target, model)
    except TimeoutError:
        return Probe(Result.SILENT, None, SECONDS * 1000, f"no answer within {SECONDS} s")


async def _target(route_id: int) -> Target | None:
    """Raises one of AWAY."""
    pool = Pool("gateway-trial", 1)
    await pool.open()
    try:
        async with pool.connection() as database:
            return await directory.read_target(database, route_id)
    finally:
        await pool.close()
