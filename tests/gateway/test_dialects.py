"""What each backend takes is the operator's to say, and is heard by running processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from billing.usage import Outcome, Source
from gateway import dialects
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
    Backend.objects.filter(pk=backend.pk).update(
        allowed_parameters=[],
        denied_parameters=[],
        renamed_parameters={},
        added_parameters={},
        developer_role=False,
        usage_in_streams=Backend.StreamUsage.LAST,
    )


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


def test_names_and_additions_hold_within_two_seconds(stack: Stack, lab: Lab, alice: Customer, theirs: Backend) -> None:
    theirs.renamed_parameters = {"max_tokens": "max_completion_tokens"}
    theirs.added_parameters = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 5}
    theirs.save()

    def holds() -> bool:
        sent = asked(stack, lab, alice, max_tokens=9, top_k=50)
        return "max_tokens" not in sent and sent["max_completion_tokens"] == 9 and sent["top_k"] == 5

    until(holds, EFFECT_SECONDS)
    assert lab.scripted.asked["chat_template_kwargs"] == {"enable_thinking": False}


def test_who_hangs_up_pays_the_running_count_where_the_backend_tells_it(
    stack: Stack, lab: Lab, alice: Customer, theirs: Backend
) -> None:
    theirs.usage_in_streams = Backend.StreamUsage.RUNNING
    theirs.save()
    running = {"include_usage": True, "continuous_usage_stats": True}
    until(lambda: asked(stack, lab, alice)["stream_options"] == running, EFFECT_SECONDS)
    before = alice.settled(len(alice.records))

    never = threading.Event()
    counts = [{"prompt_tokens": 11, "completion_tokens": tokens} for tokens in (3, 8)]
    lab.scripted.play(chunk("one", usage=counts[0]), chunk("two", usage=counts[1]), never)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as stream:
        stream.read(2)
        stream.hang_up()

    record = alice.settled(len(before) + 1)[-1]
    assert (record.outcome, record.source) == (Outcome.CLIENT_CLOSED, Source.BACKEND)
    assert (record.input_tokens, record.output_tokens) == (11, 8)


def test_a_backend_that_is_not_asked_for_the_usage_is_billed_by_our_count(
    stack: Stack, lab: Lab, alice: Customer, theirs: Backend
) -> None:
    theirs.usage_in_streams = Backend.StreamUsage.UNASKED
    theirs.save()
    until(lambda: "stream_options" not in asked(stack, lab, alice), EFFECT_SECONDS)
    before = alice.settled(len(alice.records))

    lab.scripted.play(chunk("one"), chunk(finish="stop"))
    wire.whole(stack.webs[0], alice.secret, chat(model=lab.of_script))

    record = alice.settled(len(before) + 1)[-1]
    assert (record.outcome, record.source, record.output_tokens) == (Outcome.COMPLETED, Source.ESTIMATED, 1)


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_nothing_is_an_empty_object(text: str) -> None:
    assert dialects.json_object(text) == {}


@pytest.mark.parametrize(
    "text", ["[]", "5", "null", "{", '{"a": NaN}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[" * 9000, '{"\ud800": 1}']
)
def test_what_is_no_object_that_can_be_stored_is_refused(text: str) -> None:
    with pytest.raises(dialects.InvalidDialect, match="Write a JSON object"):
        dialects.json_object(text)


def test_an_object_is_not_too_deep() -> None:
    with pytest.raises(dialects.InvalidDialect, match="At most 20"):
        dialects.json_object('{"a":' * 21 + "1" + "}" * 21)


@pytest.mark.parametrize(
    "renamed",
    [
        {"max_tokens": "max_completion_tokens"},
        {"max_tokens": "limit", "n": "n_cmpl", "reasoning_effort": "thinking"},
        {"top_k": "k", "k": "top_k"},
    ],
)
def test_names_that_leave_a_call_its_bounds(renamed: dict[str, str]) -> None:
    dialects.check_renames(renamed)


@pytest.mark.parametrize(
    ("renamed", "why"),
    [
        ({"max_tokens": 5}, "Names stand on both sides"),
        ({"max tokens": "x"}, "Names stand on both sides"),
        ({"max_completion_tokens": "max_new_tokens"}, "Rename max_tokens"),
        ({"model": "engine"}, "not renamed"),
        ({"messages": "prompt"}, "not renamed"),
        ({"stream_options": "x"}, "not renamed"),
        ({"provider": "vendor"}, "not renamed"),  # Never goes out.
        ({"seed": "max_tokens"}, "cannot become"),
        ({"seed": "max_completion_tokens"}, "cannot become"),
        ({"seed": "best_of"}, "cannot become"),
        ({"n": "best_of"}, "cannot become"),
        ({"max_tokens": "n"}, "cannot become"),
        ({"seed": "model"}, "cannot become"),
        ({"seed": "priority"}, "cannot become"),
        ({"seed": "x", "top_k": "x"}, "the same name"),
    ],
)
def test_names_that_would_take_a_call_its_bounds(renamed: dict[str, Any], why: str) -> None:
    with pytest.raises(dialects.InvalidDialect, match=why):
        dialects.check_renames(renamed)


def test_what_may_be_added_to_every_call() -> None:
    added = {"provider": {"order": ["a"]}, "enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False}}
    dialects.check_additions(added, renamed={"max_tokens": "limit"})


@pytest.mark.parametrize(
    ("added", "why"),
    [
        *[({name: 5}, "each call's own") for name in ("model", "messages", "stream", "max_tokens", "n", "best_of")],
        *[({name: 5}, "each call's own") for name in ("max_completion_tokens", "n_predict", "options", "tools")],
        ({"limit": 5}, "renamed to"),
        ({"seed": None}, "says nothing"),
        ({"a b": 5}, "letters, digits"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "variables of the template"),
        ({"chat_template_kwargs": 5}, "variables of the template"),
    ],
)
def test_what_would_say_something_in_the_place_of_the_call(added: dict[str, Any], why: str) -> None:
    with pytest.raises(dialects.InvalidDialect, match=why):
        dialects.check_additions(added, renamed={"max_tokens": "limit"})


@pytest.mark.django_db
@pytest.mark.parametrize("fields", [{"added_parameters": {"max_tokens": 9}}, {"added_parameters": []}])
def test_the_database_refuses_it_too(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="backend_added_leaves_the_call"), transaction.atomic():
        Backend.objects.create(name="x", base_url="https://x.example.test/v1", **fields)
