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
from gateway.models import Backend
from tests import factories
from tests.gateway.conftest import listed, priced_model
from tests.inference import model, servers
from tests.inference.servers import Server
from tests.stack import Stack, until

ANSWER_SECONDS = 60.0


@dataclass
class Served:
    """A real inference server, and the models that Flint sells from it, for 3 and 7 pico-USD per token.

    `terse` is the same as `chat`, from a backend that operators have told to send neither stream_options nor n.
    """

    server: Server
    base_url: str
    backend: str
    chat: str
    completion: str
    terse: str

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
        name, terse_name = factories.unique(server.name), factories.unique(server.name)
        with django_db_blocker.unblock(), transaction.atomic():
            sizes = {"context_tokens": model.CONTEXT_TOKENS, "max_output_tokens": model.CONTEXT_TOKENS}
            chat, completion, terse = [
                priced_model(type=kind, **sizes).public_id for kind in ("chat", "completion", "chat")
            ]
            for backend, sold in ((name, [chat, completion]), (terse_name, [terse])):
                models = dict.fromkeys(sold, server.backend_model)
                backends.save(name=backend, base_url=base_url, credential=None, models=models)
            Backend.objects.filter(name=terse_name).update(denied_parameters=["stream_options", "n"])
        connection.close()
        served = Served(server, base_url, name, chat, completion, terse)
        served.answer("/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
        for web in stack.webs:
            until(lambda web=web: terse in listed(web))  # type: ignore[misc]
        yield served
