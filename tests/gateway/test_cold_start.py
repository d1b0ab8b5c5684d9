"""A crowd that meets a process which has just started, and servers that are slow to answer: it waits, and is served."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pytest_django import Settings

from apikeys.keys import KeyFacts
from gateway.limits import Lease, Limits
from gateway.process import GatewayProcess
from gateway.redis_clients import REDIS_SECONDS
from tests.gateway.customers import chat, customer, together
from tests.gateway.processes import database_proxy
from tests.proxy import Proxy
from tests.stack import Stack, WebProcess

pytestmark = pytest.mark.usefixtures("committed")


def test_customers_who_come_before_a_process_is_ready_are_all_served(stack: Stack, tmp_path: Path) -> None:
    """Their connections wait in the socket's queue. Every key is another one, and the database is a network away."""
    crowd = [customer() for _ in range(200)]
    with database_proxy() as proxy:
        proxy.delay(0.08)
        web = WebProcess(tmp_path / "web.log", DATABASE_URL=proxy.in_place_of(os.environ["DATABASE_URL"]))
        try:
            answers = together([(web.url, one.secret) for one in crowd], chat(max_tokens=1))
        finally:
            web.stop()

    assert Counter(status for status, _ in answers) == {200: len(crowd)}


def test_a_crowd_waits_for_its_turn_at_a_redis_that_is_a_network_away(settings: Settings) -> None:
    somebody, calls = customer(), 500
    key = KeyFacts(somebody.key.pk, somebody.account.pk, False, False, calls, calls, calls)
    port = urlsplit(os.environ["REDIS_URL"]).port
    assert port is not None
    proxy = Proxy(port)
    proxy.delay(0.1)
    settings.REDIS_URL = proxy.in_place_of(os.environ["REDIS_URL"])

    async def taken() -> list[Lease]:
        limits = Limits()
        try:
            return await asyncio.gather(*(limits.take(key, call_id=uuid4(), tokens=1) for _ in range(calls)))
        finally:
            await limits.close()

    try:
        assert len(asyncio.run(taken())) == calls
    finally:
        proxy.stop()
    assert somebody.taken() == (calls, calls, calls)


def test_a_stall_of_our_own_is_not_taken_for_a_redis_that_does_not_answer() -> None:
    somebody, calls = customer(), 8
    key = KeyFacts(somebody.key.pk, somebody.account.pk, False, False, calls, calls, calls)

    async def taken() -> list[Lease]:
        limits = Limits()
        asking = [asyncio.create_task(limits.take(key, call_id=uuid4(), tokens=1)) for _ in range(calls)]
        for _ in range(3):  # At the connecting, and at what follows.
            await asyncio.sleep(0.002)
            time.sleep(1.5 * REDIS_SECONDS)  # noqa: ASYNC251  # It is the stall.
        try:
            return await asyncio.gather(*asking)
        finally:
            await limits.close()

    assert len(asyncio.run(taken())) == calls
    assert somebody.taken() == (calls, calls, calls)


def test_who_meets_a_process_that_admits_nothing_waits_a_moment_for_it() -> None:
    async def seen() -> tuple[bool, bool]:
        process = GatewayProcess()
        alone = await process.becomes_ready(0.05)
        waiting = asyncio.create_task(process.becomes_ready(10))
        await asyncio.sleep(0)
        await process.start()
        try:
            return alone, await waiting
        finally:
            await process.stop()

    assert asyncio.run(seen()) == (False, True)
