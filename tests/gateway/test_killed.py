"""A gateway that is killed with many calls running: each ends in one record, and nothing of it stays taken."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from accounts.models import Tier
from billing import holds, settlement
from billing.holds import BEAT_SECONDS
from billing.models import GatewayProcess, Hold, UsageRecord
from billing.usage import Outcome, Source
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import boot_of, sweep_as_dead, web_process
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

STREAMS = 20
RATE = 25  # Tokens a second of each stream.
SLACK_SECONDS = 2  # How late a beat may be on a busy machine.
START_SECONDS = 30.0


def endless(*, exact: bool) -> dict[str, Any]:
    """A stream that outlives the test; an exact one tells its usage with each token."""
    usage = "usage_at=every" if exact else ""
    return chat(f"[demo: tokens=2000 tokens_per_second={RATE} {usage}]", max_tokens=2000)


def checkpointed(of: Customer) -> int:
    return Hold.objects.filter(account_id=of.account.pk, checkpoint_output_tokens__gt=0).count()


def assert_charged_by_its_checkpoint(stack: Stack, record: UsageRecord, *, exact: bool) -> None:
    """A checkpoint loses what came since the last beat, and no more; it adds nothing to what the backend counted."""
    served = stack.backend.entry(str(record.pk))
    assert (record.outcome, record.source) == (Outcome.SWEPT, Source.CHECKPOINT)
    lost = served["tokens_written"] - record.output_tokens
    assert lost <= RATE * (BEAT_SECONDS + SLACK_SECONDS)
    if exact:
        assert lost >= 0
        assert record.input_tokens == served["prompt_tokens"]
    assert record.output_tokens <= 2 * served["tokens_written"]  # Ours to count: a token each, or by their bytes.
    # deepseek-v4-flash: $0.14 and $0.28 per million tokens.
    assert record.charge == record.input_tokens * 140_000 + record.output_tokens * 280_000


def assert_limits_recover(stack: Stack, of: Customer) -> None:
    """The dead calls keep their places until their time is over, and then no trace of them is left."""
    assert of.taken()[::2] == (STREAMS, STREAMS)
    refusal = answer_of(stack, of, 429)
    assert refusal.error["code"] == "rate_limit_exceeded_concurrency"
    of.let_a_minute_pass()
    answer = answer_of(stack, of, 200)
    assert of.taken() == (1, answer.json["usage"]["total_tokens"], 0)


def answer_of(stack: Stack, of: Customer, status: int) -> wire.Answer:
    """What another process says to one more call."""

    def asked() -> wire.Answer | None:
        answer = wire.ask(stack.webs[0], of.secret, chat(max_tokens=1))
        return answer if answer.status == status else None

    return until(asked)


def test_every_call_of_a_killed_gateway_ends_in_one_record(stack: Stack, tmp_path: Path) -> None:
    tier = Tier.objects.create(
        name=factories.unique("tier"), requests_per_minute=100, tokens_per_minute=10**6, concurrent_requests=STREAMS
    )
    alice, bob = customer(tier=tier.name), customer()
    exact = [number % 2 == 0 for number in range(STREAMS)]
    with ExitStack() as opened:
        web = opened.enter_context(web_process(tmp_path))
        whole, _ = wire.whole(web, bob.secret, chat("[demo: tokens=5]"))
        bob.only_record()
        running = [opened.enter_context(wire.stream(web, alice.secret, endless(exact=each))) for each in exact]
        for streamed in (False, True):
            opened.enter_context(wire.begun(web, bob.secret, chat("[demo: hang_before]", stream=streamed)))
        unaccepted = until(lambda: [hold.pk for hold in bob.holds] if len(bob.holds) == 2 else None)
        until(lambda: all(stack.backend.entries(str(call)) for call in unaccepted))
        until(lambda: checkpointed(alice) == STREAMS, START_SECONDS)
        boot = boot_of(web)
        # Had these checkpoints been the last, too much would be lost. The last beat may be long ago or just over.
        time.sleep(BEAT_SECONDS + SLACK_SECONDS + random.uniform(0, BEAT_SECONDS))
        web.kill()

    sweep_as_dead(boot)
    settlement.settle_accounts(account_ids=[alice.account.pk, bob.account.pk])

    assert not Hold.objects.filter(owner=boot).exists()
    records = {record.pk: record for record in alice.records}
    assert set(records) == {one.call_id for one in running}
    for one, each in zip(running, exact, strict=True):
        assert_charged_by_its_checkpoint(stack, records[one.call_id], exact=each)
    outcomes = {record.pk: (record.outcome, record.charge > 0) for record in bob.records}
    assert outcomes == {
        whole.call_id: (Outcome.COMPLETED, True),
        **dict.fromkeys(unaccepted, (Outcome.UNRESOLVED, False)),
    }
    assert (alice.wallet.held, bob.wallet.held) == (0, 0)
    holds.sweep()  # Nothing of it is open any more.
    assert not GatewayProcess.objects.filter(pk=boot).exists()
    assert_limits_recover(stack, alice)
    assert_books_hold()
