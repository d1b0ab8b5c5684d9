"""The abort rule at every await of a call, and what is left of a call whose task is cancelled at any of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from billing import settlement
from billing.models import GatewayProcess, Hold, LateUsageRecord, ReleasedHolds, UsageRecord
from billing.usage import Outcome, Source
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, priced_model, serve
from tests.gateway.customers import FUNDS, chat
from tests.gateway.processes import sweep_as_dead
from tests.gateway.striking import Blow, Struck, StruckGateway, struck_gateway
from tests.proxy import Proxy
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

TOKENS = 4
# Slow enough that a hang-up between two tokens is known before the next one.
ANSWERING = f"The tide is high.[demo: tokens={TOKENS} tokens_per_second=100 first_token_ms=20]"
SILENT_JSON = "The tide is high.[demo: hang_before]"
SILENT_STREAM = "The tide is high.[demo: hang_after=2 tokens_per_second=100]"
SILENT_SECONDS = 3.0  # What a customer waits for a backend that will say no more.
SETTLE_SECONDS = 20.0  # Dozens of accounts at once.


@pytest.fixture(scope="module")
def proxy(stack: Stack) -> Iterator[Proxy]:
    """In front of the backend: it knows which calls were sent, even those that the backend never took up."""
    assert stack.backend.port is not None
    proxy = Proxy(stack.backend.port, keep=True)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def model(proxy: Proxy, django_db_blocker: DjangoDbBlocker) -> str:
    with django_db_blocker.unblock():
        made = priced_model()
        serve(factories.unique("watched"), f"http://127.0.0.1:{proxy.port}/v1", made)
        connection.close()
    return made.public_id


@pytest.fixture
def gateway(proxy: Proxy, model: str, committed: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[StruckGateway]:
    with struck_gateway(proxy, monkeypatch) as gateway:
        yield gateway


def was_sent(call: Struck, proxy: Proxy) -> bool:
    return proxy.saw(str(call.id).encode())


def record_of(call: Struck) -> UsageRecord | None:
    """Its only record, if it has one."""
    records = call.of.records
    assert [record.pk for record in records] == [call.id][: len(records)]
    return records[0] if records else None


def assert_ended_once(call: Struck) -> None:
    """Its hold is over, and its money is right."""
    record, wallet = record_of(call), call.of.wallet
    assert not call.of.holds
    assert (wallet.held, wallet.posted) == (0, FUNDS - (record.charge if record else 0))
    assert wallet.holds_opened == wallet.holds_recorded + wallet.holds_released
    assert not LateUsageRecord.objects.filter(account=call.of.account).exists()


@pytest.mark.parametrize(
    ("streamed", "stages"),
    [
        (False, {"not admitted", "free", "prompt", "exact"}),
        (True, {"not admitted", "free", "prompt", "tokens", "exact"}),
    ],
    ids=["json", "stream"],
)
def test_a_hang_up_at_any_await_is_charged_by_the_abort_rule(
    stack: Stack, proxy: Proxy, model: str, gateway: StruckGateway, streamed: bool, stages: set[str]
) -> None:
    calls = list(gateway.strike(Blow.HANG_UP, chat(ANSWERING, model=model, stream=streamed)))
    assert {assert_abort_rule(stack, proxy, call, ANSWERING) for call in calls} == stages
    assert_books_hold()


@pytest.mark.parametrize(
    ("streamed", "content", "stages"),
    [
        (False, SILENT_JSON, {"not admitted", "free", "prompt"}),
        (True, SILENT_STREAM, {"not admitted", "free", "prompt", "tokens"}),
    ],
    ids=["json", "stream"],
)
def test_a_hang_up_at_any_await_stops_the_backend(
    stack: Stack, proxy: Proxy, model: str, gateway: StruckGateway, streamed: bool, content: str, stages: set[str]
) -> None:
    body = chat(content, model=model, stream=streamed)
    calls = list(gateway.strike(Blow.HANG_UP, body, patience=SILENT_SECONDS))
    # By itself it would say nothing for ever, and its journal would know of no end.
    assert {assert_abort_rule(stack, proxy, call, content) for call in calls} == stages
    assert_books_hold()


def assert_abort_rule(stack: Stack, proxy: Proxy, call: Struck, content: str) -> str:
    """Everything about a call whose customer hung up; returns how far it had got."""
    until(lambda: not call.of.holds, SETTLE_SECONDS)
    assert_ended_once(call)
    record = record_of(call)
    assert (record is not None) == was_sent(call, proxy)
    assert call.of.taken() == ((1, record.input_tokens + record.output_tokens, 0) if record else (0, 0, 0))
    if record is None:
        assert_free(call)
        return "free" if call.of.wallet.holds_opened else "not admitted"
    if record.outcome == Outcome.COMPLETED:
        assert call.sent or not call.hit
        assert_exact(stack, call, record)
        return "exact"
    assert_estimated(stack, call, record, -(-len(content) // 4) + 4)
    return "tokens" if record.output_tokens else "prompt"


def assert_free(call: Struck) -> None:
    """Nothing was sent to a backend, so nothing is charged."""
    reasons = ReleasedHolds.objects.filter(account=call.of.account).values_list("reason", "calls")
    assert list(reasons) == [("client_closed", 1)] * call.of.wallet.holds_opened


def assert_exact(stack: Stack, call: Struck, record: UsageRecord) -> None:
    served = stack.backend.entry(str(call.id))
    assert (record.source, record.output_tokens) == (Source.BACKEND, TOKENS)
    assert (served["end"], served["prompt_tokens"]) == ("done", record.input_tokens)
    assert record.charge == record.input_tokens * INPUT_RATE + TOKENS * OUTPUT_RATE


def assert_estimated(stack: Stack, call: Struck, record: UsageRecord, prompt_estimate: int) -> None:
    """The prompt at the fair estimate, and at least what the customer saw; the backend's work is over."""
    assert (record.outcome, record.source) == (Outcome.CLIENT_CLOSED, Source.ESTIMATED)
    assert record.input_tokens == prompt_estimate
    assert record.charge == record.input_tokens * INPUT_RATE + record.output_tokens * OUTPUT_RATE
    seen = wire.events_of(call.seen)
    assert not any(choice["finish_reason"] for event in seen if event for choice in event["choices"])
    written = 0
    if stack.backend.entries(str(call.id)):  # Else the connection was closed before the backend took the call up.
        written = stack.backend.entry(str(call.id))["completion_tokens"]
    # Ours to count: a token each, or by their bytes.
    assert sum(len(wire.texts_of(event)) for event in seen) <= record.output_tokens <= 2 * written


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_a_server_that_cancels_a_call_at_any_await_does_not_disturb_it(
    stack: Stack, model: str, gateway: StruckGateway, streamed: bool
) -> None:
    calls = list(gateway.strike(Blow.SERVER_CANCELS, chat(ANSWERING, model=model, stream=streamed)))
    for call in calls:
        record = call.of.only_record()
        assert record.outcome == Outcome.COMPLETED
        assert_exact(stack, call, record)
        assert call.answer.endswith(b"data: [DONE]\n\n" if streamed else b"}")
    assert len(calls) > 5


@pytest.mark.parametrize(
    ("streamed", "sources"),
    [
        # Some were never admitted, and some ended by themselves.
        (False, {None, Source.BACKEND}),
        # A stream has so many awaits that some of them are surely left to the sweeper.
        (True, {None, Source.BACKEND, Source.NONE}),
    ],
    ids=["json", "stream"],
)
def test_a_call_cancelled_at_any_await_ends_once_when_its_process_is_gone(
    stack: Stack, proxy: Proxy, model: str, gateway: StruckGateway, streamed: bool, sources: set[Source | None]
) -> None:
    body = chat(ANSWERING, model=model, stream=streamed)
    calls = [*gateway.strike(Blow.CANCEL, body), *gateway.strike(Blow.CANCEL_A_MOMENT_LATER, body)]
    forgotten_by(gateway)
    gateway.stop()
    sweep_as_dead(gateway.boot)
    settlement.settle_accounts(account_ids=[call.of.account.pk for call in calls])

    met = set()
    for call in calls:
        assert_ended_once(call)
        record = record_of(call)
        met.add(record and record.source)
        if record is None:
            assert not was_sent(call, proxy)
        elif record.charge:
            assert was_sent(call, proxy)
            assert record.output_tokens <= 2 * stack.backend.entry(str(call.id))["completion_tokens"]
    assert met >= sources
    assert_books_hold()


def forgotten_by(gateway: StruckGateway) -> None:
    """Let the time pass after which a living process gives back what it does not know."""
    long_ago = datetime.now(UTC) - timedelta(seconds=10)
    Hold.objects.filter(owner=gateway.boot).update(admitted_at=long_ago)
    process = GatewayProcess.objects.filter(pk=gateway.boot)
    beat = process.get().beat
    until(lambda: process.get().beat > beat + 1, SETTLE_SECONDS)
