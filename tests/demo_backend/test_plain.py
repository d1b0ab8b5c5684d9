"""Completions and embeddings of the demo backend."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.demo_backend.process import DemoBackend


@pytest.mark.parametrize(
    ("prompt", "answers", "tokens"), [("Two words", 1, 2 + 4), (["One", "two"], 2, 2 + 8), ([5, 6, 7], 1, 3 + 4)]
)
def test_each_prompt_is_answered_and_counted(demo: DemoBackend, prompt: Any, answers: int, tokens: int) -> None:
    reply = demo.ask("POST", "/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 3}).json
    assert len(reply["choices"]) == answers
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (tokens, 3 * answers)


def test_the_openai_client_reads_a_stream(demo: DemoBackend) -> None:
    with openai.OpenAI(base_url=demo.base_url, api_key="any") as client:
        whole = client.completions.create(model="m", prompt="Tides", max_tokens=9)
        chunks = list(client.completions.create(model="m", prompt="Tides", max_tokens=9, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text


def test_a_text_has_one_vector(demo: DemoBackend) -> None:
    with openai.OpenAI(base_url=demo.base_url, api_key="any") as client:
        first, second = client.embeddings.create(model="m", input=["the sea", "the moon"]).data
        again = client.embeddings.create(model="m", input="the sea", encoding_format="float").data[0]
    assert first.embedding == pytest.approx(again.embedding, abs=1e-6)
    assert first.embedding != second.embedding
    assert sum(number * number for number in again.embedding) == pytest.approx(1)
