"""The order of a call: its hold, its backend, its tokens, its record, its last bytes.

The gateway runs in this process, so that this costs no more than a call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.asgi import Gateway
from tests import factories
from tests.billing.stage import another_connection, nothing_can_be_recorded, wait_until_blocked_by
from tests.gateway import wire
from tests.gateway.conftest import priced_model, serve
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, ScriptedBackend, chunk, usage

SECONDS = 60  # For everything; nothing here takes long.
STREAM = (chunk("Hello"), chunk(finish="stop"), usage(3, 1), DONE)
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
ANSWER = json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode()


@pytest.fixture
def backend(committed: None) -> Iterator[ScriptedBackend]:
    scripted = ScriptedBackend()
    yield scripted
    scripted.stop()


@pytest.fixture
def model(backend: ScriptedBackend) -> str:
    """Served by the scripted backend."""
    model = priced_model()
    serve(factories.unique("scripted"), backend.base_url, model)
    return model.public_id


async def call(of: Customer, body: dict[str, Any], sent: list[bytes]) -> None:
    """One call of a gateway that lives for it alone; `sent` is what goes out to the customer."""
    document = json.dumps(body).encode()
    pieces = [document]

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            await asyncio.Event().wait()  # The customer stays.
        return {"type": "http.request", "body": pieces.pop()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    headers = {"host": "127.0.0.1", "authorization": f"Bearer {of.secret}", "content-length": str(len(document))}
    scope = {"type": "http", "method": "POST", "path": wire.CHAT, "query_string": b"",
             "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
    gateway = Gateway()
    await gateway.start()
    try:
        async with asyncio.timeout(SECONDS):
            while not gateway.ready:  # noqa: ASYNC110  # It tells nobody when it is.
                await asyncio.sleep(0.01)
            await gateway(scope, receive, send)
    finally:
        await gateway.stop()


def test_no_backend_is_called_before_the_hold_is_committed(backend: ScriptedBackend, model: str) -> None:
    alice = customer()
    backend.play(ANSWER)
    with ThreadPoolExecutor() as pool:
        with another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR UPDATE", [alice.account.pk])
            called = pool.submit(asyncio.run, call(alice, chat(model=model), []))
            wait_until_blocked_by(other, seconds=SECONDS)
            other.execute("SELECT pg_sleep(0.2)")
            assert backend.calls == 0
        called.result()
    assert (backend.calls, len(alice.records)) == (1, 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_record_is_durable_before_the_last_bytes_and_the_hold_stays_until_then(
    backend: ScriptedBackend, model: str, streamed: bool
) -> None:
    alice, sent = customer(), list[bytes]()
    backend.play(*STREAM if streamed else [ANSWER])
    with ThreadPoolExecutor() as pool:
        with nothing_can_be_recorded() as other:
            called = pool.submit(asyncio.run, call(alice, chat(model=model, stream=streamed), sent))
            wait_until_blocked_by(other, seconds=SECONDS)
            other.execute("SELECT pg_sleep(0.2)")
            assert b"[DONE]" not in b"".join(sent)
            assert (b"Hello" in b"".join(sent)) == streamed
            assert len(alice.holds) == 1
        called.result()
    assert b"".join(sent).endswith(DONE if streamed else b"}")
    assert len(alice.records) == 1
