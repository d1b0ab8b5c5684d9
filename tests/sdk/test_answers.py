"""What each client gets: answers, streams, tools, documents, and a usage that is the usage that is charged."""

from __future__ import annotations

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests import factories
from tests.gateway.conftest import listed, priced_model
from tests.gateway.customers import Customer
from tests.sdk.clients import MODEL, Client, Note, Runner
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

# Long enough that a repeat is read from the backend's cache.
PROMPT = "Tell me of the tides. " * 40
# All at once, of what breaks one package or another when it is passed on as it came.
WILD = "roles crlf comments=200 comments_between usage_at=every no_done split=7"


def assert_charged_as_seen(note: Note, customer: Customer) -> None:
    record = customer.settled(1)[-1]
    assert note.id in (None, f"chatcmpl-{record.pk.hex}")
    assert note.usage == {
        "input": record.input_tokens,
        "cached": record.cached_input_tokens,
        "output": record.output_tokens,
        "reasoning": record.reasoning_tokens,
    }
    assert record.finish_reason == note.finish


def test_an_answer_and_its_usage(client: Client, runner: Runner, base_url: str, alice: Customer) -> None:
    note = runner.run("chat", base_url=base_url, key=alice.secret, text=PROMPT)
    assert note.text is not None
    assert "Tell me of the tides" in note.text
    assert note.finish == "stop"
    assert_charged_as_seen(note, alice)


def test_a_stream_says_the_same_and_its_usage_is_charged(
    client: Client, runner: Runner, base_url: str, alice: Customer
) -> None:
    whole = runner.run("chat", base_url=base_url, key=alice.secret, text=PROMPT)
    note = runner.run("stream", base_url=base_url, key=alice.secret, text=PROMPT)
    assert (note.text, note.finish) == (whole.text, "stop")
    alice.settled(2)
    assert_charged_as_seen(note, alice)
    assert note.usage is not None
    assert note.usage["cached"] > 0


def test_reasoning_is_counted_and_kept_out_of_the_text(
    client: Client, runner: Runner, base_url: str, alice: Customer
) -> None:
    note = runner.run("stream", base_url=base_url, key=alice.secret, text="Why?", model="kimi-k2-thinking")
    assert note.text is not None
    assert "demo backend" in note.text
    assert "The question is about" not in note.text
    assert note.usage is not None
    assert note.usage["reasoning"] > 0
    assert_charged_as_seen(note, alice)


@pytest.mark.parametrize("do", ["chat", "stream"])
def test_max_tokens_cuts_an_answer(client: Client, runner: Runner, base_url: str, alice: Customer, do: str) -> None:
    options = {"max_tokens": 7}
    note = runner.run(do, base_url=base_url, key=alice.secret, text=PROMPT, options=options)
    assert note.finish == "length"
    assert note.usage is not None
    assert note.usage["output"] == 7


@pytest.mark.parametrize("do", ["tools", "tools_stream"])
def test_a_required_tool_is_called_and_its_result_answered(
    client: Client, runner: Runner, base_url: str, alice: Customer, do: str
) -> None:
    options = {"tool_choice": "required"}
    note = runner.run(do, base_url=base_url, key=alice.secret, text="How is the weather?", options=options)
    assert note.calls == [["weather", {"city": "How is the weather", "days": 7}]]
    assert note.finish == "tool_calls"
    assert note.text is not None
    assert "How is the weather" in note.text
    assert [record.finish_reason for record in alice.settled(2)] == ["tool_calls", "stop"]


@pytest.mark.parametrize("do", ["tools", "tools_stream"])
def test_parallel_tools_arrive_whole(client: Client, runner: Runner, base_url: str, alice: Customer, do: str) -> None:
    note = runner.run(do, base_url=base_url, key=alice.secret, text="How is the weather? [demo: tool_calls=3]")
    assert [name for name, _ in note.calls] == ["weather", "clock", "weather"]
    assert note.calls[1][1] == {"zone": "How is the weather"}
    assert note.finish == "tool_calls"


@pytest.mark.parametrize(("do", "more"), [("stream", "garbage=sse tokens=40"), ("tools_stream", "tool_calls=2")])
def test_what_a_wild_backend_sends_harms_no_client(
    client: Client, runner: Runner, base_url: str, alice: Customer, do: str, more: str
) -> None:
    text = f"How is the sea? [demo: {WILD} {more}]"
    note = runner.run(do, base_url=base_url, key=alice.secret, text=text)
    assert note.text is not None
    assert note.text.startswith(("You asked", "Here is", "Let us"))
    if do == "stream":
        assert note.finish == "stop"
        assert_charged_as_seen(note, alice)
        assert alice.only_record().output_tokens == 40
    else:
        assert note.calls == [["weather", {"city": "How is the sea", "days": 7}], ["clock", {"zone": "How is the sea"}]]


def test_a_document_of_the_asked_form(client: Client, runner: Runner, base_url: str, alice: Customer) -> None:
    note = runner.run("document", base_url=base_url, key=alice.secret, text="The old harbour")
    assert note.document is not None
    assert note.document["name"] == "The old harbour"
    assert note.document["open"] is True
    assert note.document["ships"] == ["The old harbour"] * 2
    assert isinstance(note.document["berths"], int)


@pytest.mark.of_clients(those=lambda client: client.lists_models)
def test_the_models_are_listed_and_found(client: Client, runner: Runner, base_url: str, alice: Customer) -> None:
    note = runner.run("models", base_url=base_url, key=alice.secret, text="")
    assert {MODEL, "deepseek-v4-pro"} <= set(note.models)
    assert note.one == MODEL


@pytest.fixture(scope="module")
def slashed(stack: Stack, django_db_blocker: DjangoDbBlocker) -> str:
    """A model with a slash in its id, as the makers of models write them."""
    name = factories.unique("maker/model")
    with django_db_blocker.unblock():
        priced_model(public_id=name)
        connection.close()
    until(lambda: name in listed(stack.webs[0]))
    return name


@pytest.mark.of_clients(those=lambda client: client.lists_models)
def test_a_model_with_a_slash_in_its_id_is_found(
    client: Client, runner: Runner, base_url: str, alice: Customer, slashed: str
) -> None:
    note = runner.run("models", base_url=base_url, key=alice.secret, text="", model=slashed)
    assert note.one == slashed


@pytest.mark.of_clients(those=lambda client: client.name.startswith("openai-python"))
def test_a_repeat_with_its_idempotency_key_is_the_first_answer_and_costs_nothing(
    client: Client, runner: Runner, base_url: str, alice: Customer
) -> None:
    errand = {"base_url": base_url, "key": alice.secret, "options": {"extra_headers": {"Idempotency-Key": "once"}}}
    first, second = (runner.run("chat", text=PROMPT, **errand) for _ in range(2))
    assert (second.id, second.text, second.usage) == (first.id, first.text, first.usage)
    error = runner.refused("chat", text="Another question.", **errand)
    assert (error["class"], error["code"]) == ("UnprocessableEntityError", "idempotency_key_reused")
    alice.only_record()
