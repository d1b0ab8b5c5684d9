"""A backend that is disabled is drained: it gets no more calls, and its streams finish."""

from __future__ import annotations

import threading

import pytest

from gateway.models import Backend
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, chunk, usage
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

EFFECT_SECONDS = 2.0


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def test_a_disabled_backend_gets_no_calls_and_its_streams_finish(stack: Stack, lab: Lab, alice: Customer) -> None:
    gate = threading.Event()
    lab.scripted.play(chunk("one"), gate, chunk("two"), chunk(finish="stop"), usage(5, 2), DONE)
    theirs = Backend.objects.filter(base_url=lab.scripted.base_url)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
        opened.read(1)
        lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)  # For those that come after it.
        try:
            theirs.update(enabled=False)
            for web in stack.webs:
                until(lambda web=web: _refused(web, alice, lab), EFFECT_SECONDS)  # type: ignore[misc]
            gate.set()
            assert opened.rest()[-1] is None
        finally:
            theirs.update(enabled=True)
    for web in stack.webs:
        until(lambda web=web: not _refused(web, alice, lab), EFFECT_SECONDS)  # type: ignore[misc]


def _refused(web: WebProcess, alice: Customer, lab: Lab) -> bool:
    return wire.ask(web, alice.secret, chat(model=lab.of_script, stream=True)).status == 503
