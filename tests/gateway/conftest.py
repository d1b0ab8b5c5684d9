from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from billing.models import LanguageModel
from gateway import backends
from gateway.models import Route
from tests import factories
from tests.gateway import wire
from tests.gateway.scripted import ScriptedBackend
from tests.stack import Stack, WebProcess, until

CANARY_CREDENTIAL = "sk-canary-credential-0123456789"
INPUT_RATE, OUTPUT_RATE = 3, 7


@dataclass
class Lab:
    """Models of our own, for 3 and 7 pico-USD per token."""

    scripted: ScriptedBackend
    of_script: str  # Served by the scripted backend.
    of_two: str  # Served by the demo backend under two names: `first`, then `second`.
    of_nobody: str  # On sale, but without a route.
    of_closed_port: str  # Its backend is not there.
    first: str
    second: str
    completion: str  # Hidden models of these types, served by the demo backend.
    embedding: str


@pytest.fixture(scope="session")
def lab(stack: Stack, django_db_blocker: DjangoDbBlocker) -> Iterator[Lab]:
    scripted = ScriptedBackend()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_port = listener.getsockname()[1]
    with django_db_blocker.unblock(), transaction.atomic():
        script, two, nobody, closed = [priced_model() for _ in range(4)]
        completion, embedding = [priced_model(type=kind, hidden=True) for kind in ("completion", "embedding")]
        for model in (completion, embedding):
            serve(factories.unique("plain"), stack.backend.base_url, model)
        first, second = factories.unique("first"), factories.unique("second")
        serve(factories.unique("scripted"), scripted.base_url, script)
        serve(first, stack.backend.base_url, two, credential=CANARY_CREDENTIAL)
        serve(second, stack.backend.base_url, two, priority=1)
        serve(factories.unique("closed"), f"http://127.0.0.1:{closed_port}/v1", closed, credential=CANARY_CREDENTIAL)
    connection.close()
    for web in stack.webs:
        until(lambda web=web: closed.public_id in listed(web))  # type: ignore[misc]
    yield Lab(
        scripted=scripted,
        of_script=script.public_id,
        of_two=two.public_id,
        of_nobody=nobody.public_id,
        of_closed_port=closed.public_id,
        first=first,
        second=second,
        completion=completion.public_id,
        embedding=embedding.public_id,
    )
    scripted.stop()


def priced_model(**fields: Any) -> LanguageModel:
    model = factories.language_model(**fields)
    factories.price(model, input=INPUT_RATE, output=OUTPUT_RATE)
    return model


def serve(name: str, base_url: str, model: LanguageModel, *, credential: str | None = None, priority: int = 0) -> None:
    backend = backends.save(name=name, base_url=base_url, credential=credential, models={model.public_id: "any"})
    Route.objects.filter(backend=backend).update(priority=priority)


def listed(web: WebProcess) -> set[str]:
    return {entry["id"] for entry in wire.ask(web, None, method="GET", path="/v1/models").json["data"]}
