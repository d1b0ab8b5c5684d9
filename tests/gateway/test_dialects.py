"""What each backend takes is the operator's to say, and is heard by running processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.models import Backend
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, chunk, usage
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

EFFECT_SECONDS = 2.0


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


@pytest.fixture
def theirs(committed: None, lab: Lab) -> Iterator[Backend]:
    """The scripted backend's row, as it was again afterwards."""
    backend = Backend.objects.get(base_url=lab.scripted.base_url)
    yield backend
    backend.allowed_parameters, backend.denied_parameters, backend.developer_role = [], [], False
    backend.save()


def asked(stack: Stack, lab: Lab, alice: Customer, **fields: Any) -> dict[str, Any]:
    """What the backend is asked for a call with these fields."""
    lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
    body = chat(stream=True, **fields) | {"model": lab.of_script}
    answer, events = wire.whole(stack.webs[0], alice.secret, body)
    assert (answer.status, events[-1]) == (200, None)
    assert lab.scripted.calls == 1
    return lab.scripted.asked


def test_lists_of_parameters_hold_within_two_seconds(stack: Stack, lab: Lab, alice: Customer, theirs: Backend) -> None:
    fields = {"seed": 7, "top_k": 5, "min_p": 0.1}
    assert asked(stack, lab, alice, **fields).keys() > fields.keys() | {"presence_penalty"}

    theirs.allowed_parameters, theirs.denied_parameters = ["seed", "top_k", "temperature"], ["top_k"]
    theirs.save()

    expected = {"model", "messages", "max_tokens", "stream", "stream_options", "seed", "temperature"}
    until(lambda: asked(stack, lab, alice, **fields).keys() == expected, EFFECT_SECONDS)


def test_the_role_developer_goes_to_a_backend_that_knows_it(
    stack: Stack, lab: Lab, alice: Customer, theirs: Backend
) -> None:
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert asked(stack, lab, alice, messages=said)["messages"] == [said[0] | {"role": "system"}, said[1]]

    theirs.developer_role = True
    theirs.save()

    until(lambda: asked(stack, lab, alice, messages=said)["messages"] == said, EFFECT_SECONDS)
