from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from gateway import backends
from tests import factories
from tests.gateway.conftest import listed, priced_model
from tests.inference import model, servers
from tests.inference.servers import Server
from tests.stack import Stack, until

ANSWER_SECONDS = 60.0


@dataclass
class Served:
    """A real inference server, and the models that Flint sells from it, for 3 and 7 pico-USD per token."""

    server: Server
    base_url: str
    backend: str
    chat: str
    completion: str

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server says to those who ask it themselves."""
        data = json.dumps(body | {"model": self.server.backend_model}).encode()
        request = urllib.request.Request(f"{self.base_url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            answered: dict[str, Any] = json.load(response)
        return answered


@pytest.fixture(scope="session", params=servers.SERVERS, ids=str)
def served(
    request: pytest.FixtureRequest,
    stack: Stack,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    server: Server = request.param
    try:
        python = servers.install(server)
    except AssertionError as fault:
        pytest.skip(f"the inference server {server.name} cannot be installed here: {fault}")
    with servers.running(server, python, tmp_path_factory.mktemp(server.name)) as base_url:
        with django_db_blocker.unblock(), transaction.atomic():
            sizes = {"context_tokens": model.CONTEXT_TOKENS, "max_output_tokens": model.CONTEXT_TOKENS}
            sold = [priced_model(**sizes), priced_model(type="completion", **sizes)]
            name = factories.unique(server.name)
            models = {each.public_id: server.backend_model for each in sold}
            backends.save(name=name, base_url=base_url, credential=None, models=models)
        connection.close()
        chat, completion = (each.public_id for each in sold)
        served = Served(server, base_url, name, chat, completion)
        served.answer("/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
        for web in stack.webs:
            until(lambda web=web: chat in listed(web))  # type: ignore[misc]
        yield served
