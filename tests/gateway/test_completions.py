"""POST /v1/completions: the road of a call with a plain text in place of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import Customer, customer
from tests.gateway.wire import Answer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")

PATH = "/v1/completions"


def complete(stack: Stack, who: Customer, lab: Lab, prompt: Any, **fields: Any) -> Answer:
    return wire.ask(stack.webs[0], who.secret, {"model": lab.completion, "prompt": prompt, **fields}, path=PATH)


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.error["param"]


def test_a_text_goes_on_and_is_charged_to_the_token(stack: Stack, lab: Lab) -> None:
    alice = customer()
    with alice.openai(stack.api_base) as client:
        answer = client.completions.create(model=lab.completion, prompt="The tides", max_tokens=30)
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", lab.completion, "cmpl-")
    assert (answer.choices[0].index, answer.choices[0].finish_reason) == (0, "length")
    assert "The tides" in answer.choices[0].text
    record = alice.only_record()
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (record.input_tokens, 30)
    assert record.charge == record.input_tokens * INPUT_RATE + 30 * OUTPUT_RATE


def test_a_stream_says_what_the_answer_says(stack: Stack, lab: Lab) -> None:
    alice = customer()
    with alice.openai(stack.api_base) as client:
        whole = client.completions.create(model=lab.completion, prompt="The tides", max_tokens=30)
        stream = client.completions.create(
            model=lab.completion,
            prompt="The tides",
            max_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    one, two = alice.settled(2)
    assert (one.charge, one.streamed, two.streamed) == (two.charge, False, True)


def test_sixteen_tokens_are_the_default_as_at_openai(stack: Stack, lab: Lab) -> None:
    assert complete(stack, customer(), lab, "The tides").json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "n", "choices"),
    [("one", 1, 1), (["one", "two"], 1, 2), (["one", "two"], 3, 6), ([1, 2, 3], 2, 2), ([[1, 2], [3]], 1, 2)],
)
def test_every_prompt_gets_n_answers_and_all_are_paid(
    stack: Stack, lab: Lab, prompt: Any, n: int, choices: int
) -> None:
    alice = customer()
    answer = complete(stack, alice, lab, prompt, n=n, max_tokens=5).json
    assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
    record = alice.only_record()
    assert answer["usage"]["completion_tokens"] == record.output_tokens == 5 * choices
    assert record.source == "backend"
    assert record.held >= record.charge


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["text", 5]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": ["x"] * 33, "n": 2}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_served_is_a_400(stack: Stack, lab: Lab, fields: dict[str, Any], param: str) -> None:
    answer = complete(stack, customer(), lab, **{"prompt": "x", **fields})
    assert refused(answer) == (400, param)


def test_a_model_of_another_type_is_a_400(stack: Stack, lab: Lab) -> None:
    alice = customer()
    for path, model in (
        (PATH, lab.embedding),
        (PATH, "deepseek-v4-flash"),
        (wire.CHAT, lab.completion),
        ("/v1/embeddings", lab.completion),
    ):
        body = {"model": model, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
        answer = wire.ask(stack.webs[0], alice.secret, body, path=path)
        assert refused(answer) == (400, "model")
        assert answer.error["code"] == "unsupported_model"


def test_a_hidden_model_is_sold_and_not_shown(stack: Stack, lab: Lab) -> None:
    shown = wire.ask(stack.webs[0], None, method="GET", path="/v1/models").json["data"]
    assert lab.completion not in {entry["id"] for entry in shown}
    asked_for = wire.ask(stack.webs[0], None, method="GET", path=f"/v1/models/{lab.completion}")
    assert asked_for.json["type"] == "completion"


def test_a_hang_up_pays_what_was_written(stack: Stack, lab: Lab) -> None:
    alice = customer()
    body = {"model": lab.completion, "prompt": "Tides [demo: endless tokens_per_second=50]", "stream": True}
    with wire.begun(stack.webs[0], alice.secret, body, path=PATH) as connection:
        opened = wire.Stream(connection)
        texts = 0
        for event in opened.events():
            texts += bool(event and event["choices"] and event["choices"][0]["text"])
            if texts == 3:
                break
        opened.hang_up()
    record = alice.only_record()
    assert (record.outcome, record.source) == ("client_closed", "estimated")
    assert 3 <= record.output_tokens <= 16
