"""What is made of a backend's words about a request that it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway import refusals, requests
from gateway.chat import ChatCompletionRequest
from gateway.requests import Parsed
from tests.gateway.customers import chat

LEAKS = ["10.0.0.12", "/srv/models", "Traceback", "sk-"]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def parsed(**fields: Any) -> Parsed:
    return asyncio.run(requests.parse(json.dumps(chat(**fields)).encode(), ChatCompletionRequest))


def told(words: str, **fields: Any) -> tuple[str, str | None]:
    """The code and the parameter of the refusal that customers get, whose message holds nothing of the words."""
    said = f"10.0.0.12: /srv/models: Traceback sk-1: {words}" if not words.startswith(("{", "[")) else words
    refusal = refusals.explained(said.encode(), parsed(**fields), context_tokens=4096)
    assert not any(leak in refusal.message for leak in LEAKS)
    assert refusal.status_code == 400
    assert "Nothing was charged" in refusal.message
    return refusal.code, refusal.param


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096",
        "The engine prompt length 5000 exceeds the max_model_len 4096",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "the request exceeds the available context size, try increasing it",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
        "prompt is too long: 210000 tokens > 200000 maximum",
        '{"error": {"message": "No.", "code": "context_length_exceeded"}}',
        '{"detail": "Requested token count exceeds the model\'s context window"}',
    ],
)
def test_a_prompt_that_is_too_long_has_its_code(words: str) -> None:
    assert told(words) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("words", "fields", "param"),
    [
        ("cannot identify image file <BytesIO>", {"messages": PICTURE}, "messages"),
        ("cannot identify image file <BytesIO>", {}, None),
        ("auto tool choice requires --enable-auto-tool-choice", {"tools": TOOLS}, "tools"),
        ("auto tool choice requires --enable-auto-tool-choice", {}, None),
        ("Invalid JSON schema: unknown keyword", {"response_format": {"type": "json_object"}}, "response_format"),
        ("Conversation roles must alternate user/assistant/user", {}, "messages"),
        ("Unexpected fields in the request: {'top_k'}", {"top_k": 5}, "top_k"),
        ("Unexpected fields in the request: {'top_k'}", {}, None),
        ("model `any` at 'stream' is broken", {"stream": True}, None),
        ('{"error": {"message": "sk-1", "param": "logit_bias"}}', {"logit_bias": {}}, "logit_bias"),
        ('{"error": {"message": "sk-1", "param": "messages[0].content"}}', {}, "messages"),
        ('{"error": {"message": "sk-1", "param": 5}}', {}, None),
        ('{"detail": [{"type": "extra", "loc": ["body", "seed"], "msg": "/srv/models"}]}', {"seed": 1}, "seed"),
        ('{"detail": [{"loc": ["body", 0]}, 5, {"loc": "x"}]}', {}, None),
        ('{"error": "Traceback"}', {}, None),
        ('[{"loc": []}]', {}, None),
        ("{", {}, None),
        ("", {}, None),
    ],
)
def test_another_reason_is_told_where_it_is_known(words: str, fields: dict[str, Any], param: str | None) -> None:
    assert told(words, **fields) == ("invalid_prompt", param)


def test_only_the_kind_of_an_error_may_be_logged() -> None:
    assert refusals.kind(b'{"error": {"message": "a prompt", "type": "BadRequestError", "code": 400}}') == (
        "BadRequestError 400"
    )
    assert refusals.kind(b'{"error": {"type": "what you said was: hello", "code": null}}') == "for a reason of its own"
    assert refusals.kind(b"a prompt") == "for a reason of its own"
