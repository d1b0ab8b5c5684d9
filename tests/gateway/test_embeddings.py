"""POST /v1/embeddings: the road of a call that generates nothing."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, Lab
from tests.gateway.customers import Customer, customer
from tests.gateway.wire import Answer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def embed(stack: Stack, who: Customer, lab: Lab, **fields: Any) -> Answer:
    return wire.ask(stack.webs[0], who.secret, {"model": lab.embedding, **fields}, path="/v1/embeddings")


def test_the_openai_client_reads_vectors_and_only_the_input_is_charged(stack: Stack, lab: Lab) -> None:
    alice = customer()
    with alice.openai(stack.api_base) as client:
        answer = client.embeddings.create(model=lab.embedding, input=["the sea", "the moon"])
    assert [item.index for item in answer.data] == [0, 1]
    assert [len(item.embedding) for item in answer.data] == [16, 16]
    assert answer.model == lab.embedding
    record = alice.only_record()
    assert record.charge == record.input_tokens * INPUT_RATE
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (record.input_tokens, record.input_tokens)
    assert (record.output_tokens, record.source, record.outcome) == (0, "backend", "completed")


def test_both_formats_hold_the_same_numbers(stack: Stack, lab: Lab) -> None:
    alice = customer()
    floats = embed(stack, alice, lab, input="the sea").json
    packed = embed(stack, alice, lab, input="the sea", encoding_format="base64").json
    vector = floats["data"][0]["embedding"]
    read = struct.unpack("<16f", base64.b64decode(packed["data"][0]["embedding"]))
    assert read == pytest.approx(vector, abs=1e-6)
    assert set(floats) == {"object", "model", "data", "usage"}
    assert floats["usage"] == packed["usage"]
    assert set(floats["usage"]) == {"prompt_tokens", "total_tokens", "cost"}


def test_dimensions_are_passed_on(stack: Stack, lab: Lab) -> None:
    answer = embed(stack, customer(), lab, input="the sea", dimensions=4)
    assert len(answer.json["data"][0]["embedding"]) == 4


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2], [3]], ["text", 5]])
def test_token_ids_are_refused_with_the_way_out(stack: Stack, lab: Lab, given: Any) -> None:
    answer = embed(stack, customer(), lab, input=given)
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "check_embedding_ctx_length=False" in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
    ],
)
def test_what_cannot_be_served_is_a_400(stack: Stack, lab: Lab, fields: dict[str, Any], param: str) -> None:
    answer = embed(stack, customer(), lab, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_backend_without_usage_is_charged_by_our_estimate(stack: Stack, lab: Lab) -> None:
    alice = customer()
    assert embed(stack, alice, lab, input="The sea. [demo: no_usage]").status == 200
    record = alice.only_record()
    assert (record.source, record.output_tokens) == ("estimated", 0)
    assert record.input_tokens > 0
