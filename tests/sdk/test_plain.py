"""The two older URLs, completions and embeddings, as the packages call them."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer
from tests.sdk.clients import Client, Runner

pytestmark = pytest.mark.usefixtures("committed")


def test_embeddings_are_vectors_whatever_form_the_client_asks_for(
    client: Client, runner: Runner, base_url: str, alice: Customer, lab: Lab
) -> None:
    note = runner.run("embed", base_url=base_url, key=alice.secret, text="the sea", model=lab.embedding)
    first, second = note.vectors
    assert len(first) == 16
    assert first == second
    assert sum(number**2 for number in first) == pytest.approx(1, abs=1e-3)
    record = alice.only_record()
    assert (note.usage or {"input": record.input_tokens}) == {"input": record.input_tokens}


@pytest.mark.of_clients(those=lambda client: client.completes)
@pytest.mark.parametrize("do", ["complete", "complete_stream"])
def test_a_completion_and_its_usage(
    client: Client, runner: Runner, base_url: str, alice: Customer, lab: Lab, do: str
) -> None:
    options = {"max_tokens": 9}
    note = runner.run(do, base_url=base_url, key=alice.secret, text="The sea", model=lab.completion, options=options)
    assert note.text
    assert note.finish == "length"
    record = alice.only_record()
    assert note.usage is not None
    assert (note.usage["input"], note.usage["output"]) == (record.input_tokens, 9)
    assert record.output_tokens == 9
