"""Asking a backend something small, to find out how it does.

A **probe** is a real request of one word for one token, on the same way as calls: with the backend's dialect, its
proxy, its CA certificate, its credential and the check of its address. It belongs to no customer and leaves no record.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway import answers, refusals, requests, upstream
from gateway.chat import ChatCompletionRequest
from gateway.choices import BackendFailed
from gateway.completions import CompletionRequest
from gateway.directory import Model, Target
from gateway.embeddings import EmbeddingRequest
from gateway.models import Attempt
from gateway.requests import Parsed, Request
from gateway.upstream import PromptRefused, Upstream

Result = Attempt.Result

PROBE_SECONDS = 10  # For all of it, so that one who hangs does not hold up the others for long.
NO_ATTEMPT = 0  # What a backend is told in place of an attempt's number, so that its journal tells probes from calls.

_QUESTIONS: dict[type[Request], dict[str, Any]] = {
    ChatCompletionRequest: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    CompletionRequest: {"prompt": "hi", "max_tokens": 1},
    EmbeddingRequest: {"input": "hi"},
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of it. `words` are for operators: no secret is in them, and nothing that the backend said itself."""

    result: Result
    status: int | None
    duration_ms: int
    words: str
    retry_after: int | None = None


async def probe(target: Target, model: Model) -> Probe:
    """Ask the target for a word. Never raises for what backends do."""
    question, started = await _question(model), time.monotonic()
    result, status, words, retry_after = await _outcome(target, question)
    return Probe(result, status, int((time.monotonic() - started) * 1000), words, retry_after)


async def _question(model: Model) -> Parsed:
    form = next(form for form in _QUESTIONS if model.type in form.ENDPOINT.sells)
    return await requests.parse(msgspec.json.encode({"model": model.public_id, **_QUESTIONS[form]}), form)


async def _outcome(target: Target, question: Parsed) -> tuple[Result, int | None, str, int | None]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await _ask(target, question)
    except TimeoutError:
        return Result.SILENT, None, f"no answer within {PROBE_SECONDS} s", None
    except BackendFailed as failure:
        return failure.result, failure.status, str(failure), failure.retry_after
    except PromptRefused as refused:
        return Result.PROMPT_REFUSED, refused.status, f"the probe was refused: {refusals.kind(refused.words)}", None
    return Result.OK, 200, "answered", None


async def _ask(target: Target, question: Parsed) -> None:
    client = Upstream()
    try:
        async with client.open(
            target,
            question.request.ENDPOINT.path,
            requests.forwarded(question, backend_model=target.backend_model, dialect=target.dialect),
            call_id=uuid.uuid4(),
            attempt=NO_ATTEMPT,
            patience=PROBE_SECONDS,
            on_sent=lambda: None,
        ) as response:
            answers.whole(await upstream.answer(response), question.request)
    finally:
        await client.close()
