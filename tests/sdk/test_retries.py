"""A client that waits as long as Retry-After says is served the next time it asks, and pays once."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum
from pytest_django import DjangoDbBlocker

from accounts.models import Tier
from billing.models import RefusedCalls, ReleasedHolds
from tests import factories
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.sdk.clients import CLIENTS, Client, Note, Runner
from tests.stack import Stack, until

pytestmark = [
    pytest.mark.usefixtures("committed"),
    pytest.mark.of_clients(those=lambda client: client.retries),
]

WINDOW_SECONDS = 4.5  # Until the limit lets the customer in again; less than this passes before the client asks.
UNAVAILABLE_SECONDS = 2


@dataclass
class Story:
    customer: Customer
    note: Note


Stories = dict[tuple[str, str], Story]


@pytest.fixture(scope="module")
def stories(stack: Stack, runners: dict[str, Future[Runner]], django_db_blocker: DjangoDbBlocker) -> Stories:
    """What each client saw, all at once because most of it is waiting."""
    with django_db_blocker.unblock():
        tier = Tier.objects.create(
            name=factories.unique("one"), requests_per_minute=1, tokens_per_minute=10_000, concurrent_requests=1
        )
        limited = {name: customer(tier=tier.name) for name in runners}
        unavailable = {name: customer() for name in runners}
        connection.close()

    def tell(name: str) -> Stories:
        runner = runners[name].result()
        runner.refused("chat", base_url=stack.api_base, key="tk-none", text="Warm up.")
        errand: dict[str, Any] = {"base_url": stack.api_base, "retries": 2, "options": {"max_tokens": 5}}
        wire.ask(stack.webs[0], limited[name].secret, chat(max_tokens=1))
        limited[name].let_a_minute_pass(but=WINDOW_SECONDS)
        first = runner.try_to("chat", key=limited[name].secret, text="Hello!", **errand)
        text = f"Hello, {name}! [demo: status=503 only_calls=1]"
        second = runner.try_to("stream", key=unavailable[name].secret, text=text, **errand)
        return {
            (name, "limited"): Story(limited[name], first),
            (name, "unavailable"): Story(unavailable[name], second),
        }

    retrying = {client.name for client in CLIENTS if client.retries}
    able = [name for name, runner in runners.items() if name in retrying and runner.exception() is None]
    with ThreadPoolExecutor(len(able)) as telling:
        return {key: story for told in telling.map(tell, able) for key, story in told.items()}


def test_who_waits_for_the_limit_is_served(client: Client, runner: Runner, stories: Stories) -> None:
    story = stories[client.name, "limited"]
    assert story.note.error is None
    refused = RefusedCalls.objects.filter(account=story.customer.account, code="rate_limit_exceeded_requests")
    assert until(lambda: refused.aggregate(sum=Sum("calls"))["sum"]) == 1
    assert len(story.customer.settled(2)) == 2


def test_who_waits_for_the_backend_is_served_and_pays_once(client: Client, runner: Runner, stories: Stories) -> None:
    story = stories[client.name, "unavailable"]
    assert story.note.error is None
    assert story.note.seconds >= UNAVAILABLE_SECONDS - 0.1
    released = ReleasedHolds.objects.filter(account=story.customer.account, reason="model_unavailable")
    assert released.aggregate(sum=Sum("calls"))["sum"] == 1
    assert story.customer.only_record().output_tokens == 5
