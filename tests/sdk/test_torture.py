"""Every client reads, through the gateway, every stream that would break some of them if it came as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests import factories
from tests.gateway.conftest import listed, priced_model, serve
from tests.gateway.customers import Customer, customer
from tests.gateway.scripted import ScriptedBackend
from tests.gateway.torture import ROWS, WHOLE, Row
from tests.sdk.clients import Client, Runner
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

FAILED = "The model's backend failed; the answer ends here."
ONE_CHOICE = [row for row in ROWS if not row.asked]


@pytest.fixture(scope="module")
def alice(stack: Stack, django_db_blocker: DjangoDbBlocker) -> Customer:
    with django_db_blocker.unblock():
        return customer()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def model(stack: Stack, scripted: ScriptedBackend, django_db_blocker: DjangoDbBlocker) -> str:
    with django_db_blocker.unblock():
        sold = priced_model()
        serve(factories.unique("scripted"), scripted.base_url, sold)
        connection.close()
    until(lambda: sold.public_id in listed(stack.webs[0]))
    return sold.public_id


@pytest.mark.parametrize("row", ONE_CHOICE, ids=lambda row: row.name.replace(" ", "-"))
def test_a_stream_is_read(
    client: Client, runner: Runner, base_url: str, alice: Customer, scripted: ScriptedBackend, model: str, row: Row
) -> None:
    scripted.play(*row.script, whole=WHOLE)
    do = "tools_stream" if row.calls else "stream"
    note = runner.try_to(do, base_url=base_url, key=alice.secret, text="Hello?", model=model)
    if row.fails:
        assert note.error is not None
        assert FAILED in note.error["message"]
        return
    assert note.error is None, note.error
    assert note.finish == row.finish
    assert [tuple(call) for call in note.calls] == row.calls
    if row.calls:
        return  # Who was asked for tools has gone on to tell what they found.
    assert note.text == row.text
    if row.tokens is not None:
        assert note.usage is not None
        assert (note.usage["input"], note.usage["output"]) == row.tokens
