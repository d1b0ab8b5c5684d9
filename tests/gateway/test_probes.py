"""A probe asks a backend for a word, and finds out how it does."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis
from pytest_django import Settings

from gateway import breaker, probes
from gateway.breaker import REDIS_KEY, Breaker
from gateway.directory import Model, Target, Transport
from gateway.models import Attempt
from gateway.probes import Probe
from gateway.requests import Dialect
from tests.gateway.scripted import JSON_HEAD, REFUSAL, ScriptedBackend

Result = Attempt.Result

CHAT = {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}]}
TEXT = {"choices": [{"text": " there", "finish_reason": "length"}]}
VECTOR = {"data": [{"index": 0, "embedding": [0.5, 0.25]}]}
_models = itertools.count(2 * 10**9)


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    scripted = ScriptedBackend()
    yield scripted
    scripted.stop()


def model(kind: str = "chat") -> Model:
    moment = datetime.now(UTC)
    return Model(next(_models), "m", "f", "M", kind, 1000, 1000, False, moment)


def target(backend: ScriptedBackend, **facts: object) -> Target:
    known = {"credential": "sk-canary", "dialect": Dialect(), **facts}
    return Target("gpu", backend.base_url, backend_model="theirs", priority=0, weight=1, **known)  # type: ignore[arg-type]


def probe(target: Target, kind: str = "chat") -> Probe:
    return asyncio.run(probes.probe(target, model(kind)))


@pytest.mark.parametrize(
    ("kind", "answer", "question"),
    [
        ("chat", CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}),
        ("reasoning", CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}),
        ("completion", TEXT, {"prompt": "hi", "max_tokens": 1}),
        ("embedding", VECTOR, {"input": "hi"}),
    ],
)
def test_each_type_of_model_is_asked_for_one_token_at_most(
    backend: ScriptedBackend, kind: str, answer: object, question: dict[str, object]
) -> None:
    backend.play(json.dumps(answer).encode(), head=JSON_HEAD)
    found = probe(target(backend), kind)
    assert (found.result, found.status, found.words) == (Result.OK, 200, "answered")
    assert backend.asked.items() >= {"model": "theirs", **question}.items()
    assert b"authorization: bearer sk-canary" in backend.head_lines
    assert b"x-flint-attempt: 0" in backend.head_lines


def test_a_probe_says_nothing_that_the_backend_does_not_take(backend: ScriptedBackend) -> None:
    backend.play(json.dumps(CHAT).encode(), head=JSON_HEAD)
    probe(target(backend, dialect=Dialect(denied=frozenset({"temperature", "top_p"}))))
    assert backend.asked.keys() == {"model", "messages", "max_tokens", "stream", "presence_penalty"}


@pytest.mark.parametrize(
    ("head", "body", "result", "status", "words"),
    [
        (JSON_HEAD.replace(b"200 OK", b"503 Away"), b"sk-canary", Result.STATUS, 503, "gpu: status 503"),
        (JSON_HEAD.replace(b"200 OK", b"401 Who"), b"sk-canary", Result.STATUS, 401, "gpu: status 401"),
        (JSON_HEAD, b"<html>sk-canary", Result.GARBAGE, None, "a web page"),
        (JSON_HEAD, b'{"choices": []}', Result.GARBAGE, None, "an answer without choices"),
        (
            REFUSAL,
            b'{"error": {"message": "sk-canary", "code": "no_model"}}',
            Result.PROMPT_REFUSED,
            400,
            "the probe was refused: no_model",
        ),
    ],
)
def test_what_fails_is_told_without_the_backends_own_words(
    backend: ScriptedBackend, head: bytes, body: bytes, result: Result, status: int | None, words: str
) -> None:
    backend.play(body, head=head)
    found = probe(target(backend))
    assert (found.result, found.status, found.words) == (result, status, words)


def test_who_hangs_is_given_up(backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.2)
    backend.play(threading.Event(), head=JSON_HEAD)
    found = probe(target(backend))
    assert (found.result, found.status) == (Result.SILENT, None)
    assert 200 <= found.duration_ms < 2000


def test_a_probe_goes_the_way_of_calls(backend: ScriptedBackend, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert probe(target(backend, transport=Transport(proxy_url=closed))).result is Result.NO_CONNECTION
    assert probe(target(backend, transport=Transport(ca_certificate="broken"))).result is Result.NO_CONNECTION
    settings.BACKEND_NETWORKS = []
    assert probe(target(backend)).result is Result.NO_CONNECTION
    assert backend.calls == 0


def test_pages_are_told_what_all_processes_know(settings: Settings) -> None:
    settings.GATEWAY_BREAKER_SECONDS = 30
    asked = model()

    async def fail() -> None:
        process = Breaker(uuid.uuid4())
        call = uuid.uuid4()
        process.accepted(asked.id, "spare part", call, first_token_ms=5)
        for account in range(5):
            process.ended(
                asked.id, "gpu", call, account_id=account, result=Result.BROKEN, status=None, retry_after=None
            )
        await process.share()
        await process.close()

    asyncio.run(fail())
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        gpu, spare = [state for state in breaker.states(client) if state.model_id == asked.id]
        client.delete(REDIS_KEY)
    assert (gpu.backend, gpu.why, gpu.openings) == ("gpu", "failing", 1)
    assert 25 <= gpu.seconds <= 30
    assert (spare.backend, spare.why, spare.seconds, spare.openings) == ("spare part", "", 0, 0)
