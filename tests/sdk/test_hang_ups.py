"""Each client that hangs up in the middle of a stream stops the backend, and pays for what was produced until then."""

from __future__ import annotations

import pytest

from billing.usage import Outcome
from tests.gateway.customers import Customer
from tests.sdk.clients import Client, Runner
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def test_who_hangs_up_pays_what_was_produced(
    client: Client, runner: Runner, base_url: str, alice: Customer, stack: Stack
) -> None:
    text = "How do tides work? [demo: tokens=1000 tokens_per_second=50]"
    note = runner.run("leave", base_url=base_url, key=alice.secret, text=text)
    assert note.text is not None
    assert note.text.startswith(("You asked", "Here is", "Let us"))
    record = alice.only_record()
    assert record.outcome == Outcome.CLIENT_CLOSED
    served = stack.backend.entry(str(record.pk))
    assert served["end"] == "client_gone"
    assert 3 <= record.output_tokens <= 2 * served["completion_tokens"] < 200


def test_who_reads_to_the_end_has_not_hung_up(client: Client, runner: Runner, base_url: str, alice: Customer) -> None:
    runner.run("stream", base_url=base_url, key=alice.secret, text="[demo: tokens=30]")
    record = alice.only_record()
    assert (record.outcome, record.output_tokens) == (Outcome.COMPLETED, 30)
