"""Keys, prompts and backend credentials stay where they belong: in no log and in no error."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from apikeys import keys, secret
from tests.gateway import wire
from tests.gateway.conftest import CANARY_CREDENTIAL, Lab, listed
from tests.gateway.customers import chat, customer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

PROMPT = "canary-prompt-5b3c9"
FAILURES = [
    "status=401", "status=500 error_body=text", "status=400", "status=503 error_body=vllm", "close_before",
    "garbage=html", "garbage=json", "garbage=half_utf8", "error_after=1", "cut_after=1 cut=rst", "no_finish",
    "unknown_switch=1",
]  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_and_no_prompt_is_logged_or_shown(stack: Stack, lab: Lab, tmp_path: Path, form: str) -> None:
    alice, unknown = customer(), secret.generate()
    web = WebProcess(tmp_path / "web.log", LOG_LEVEL="DEBUG", LOG_FORMAT=form)
    try:
        web.wait_until_ready()
        until(lambda: lab.of_two in listed(web))
        shown = b""
        for switches in FAILURES:
            for model in (lab.of_two, lab.of_closed_port, lab.of_nobody):
                body = chat(f"{PROMPT} [demo: {switches}]", model=model, stream=model == lab.of_two)
                answer = wire.ask(web, alice.secret, body)
                shown += without_content(answer.body)
        for bad in (b'{"messages": "' + PROMPT.encode(), chat(PROMPT, max_tokens="x"), chat(PROMPT, stop=5)):
            shown += wire.ask(web, alice.secret, bad).body
        shown += wire.ask(web, unknown, chat(PROMPT)).body
        shown += wire.ask(web, alice.secret[:-1] + "!", chat(PROMPT)).body
        shown += wire.ask(web, None, chat(PROMPT), path=f"/v1/{alice.secret}?key={alice.secret}").body
        keys.revoke(key=alice.key, now=datetime.now(UTC))
        until(lambda: wire.ask(web, alice.secret, chat(PROMPT)).status == 401)
    finally:
        web.stop()
    logs = [web.log, *(other.log for other in stack.webs), stack.webs[0].log.with_name("worker.log")]
    written = b"".join(log.read_bytes() for log in logs)
    assert b"backend" in written  # The failures were noted.
    for canary in (alice.secret, alice.secret[3:], unknown, CANARY_CREDENTIAL, PROMPT):
        assert canary.encode() not in written
        assert canary.encode() not in shown
    for address in (stack.backend.base_url, "10.0.0.12", lab.first, lab.second):
        assert address.encode() not in shown


def without_content(body: bytes) -> bytes:
    """Only the errors: an answer's text may well repeat its prompt."""
    return b"".join(line for line in body.split(b"\n\n") if b'"choices"' not in line)
