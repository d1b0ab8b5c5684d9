"""What curl does by itself, unlike the packages: other types of content, and a question before a large body."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from flint.sandbox.programs import CURL
from tests.gateway.customers import Customer, chat

pytestmark = [
    pytest.mark.usefixtures("committed"),
    pytest.mark.skipif(CURL.path is None, reason=CURL.missing),
]


def curl(base_url: str, secret: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--show-error", "--verbose", "-H", f"Authorization: Bearer {secret}"]
    return subprocess.run(
        [*command, f"{base_url}/chat/completions", *options], capture_output=True, text=True, check=True
    )


def test_a_body_without_a_content_type_is_read_as_json(base_url: str, alice: Customer) -> None:
    done = curl(base_url, alice.secret, "-d", json.dumps(chat()))
    assert "> Content-Type: application/x-www-form-urlencoded" in done.stderr
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop"


def test_a_large_body_is_sent_after_the_server_agreed(base_url: str, alice: Customer, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat(user="x" * 1_500_000)))
    done = curl(base_url, alice.secret, "-d", f"@{body}")
    assert "> Expect: 100-continue" in done.stderr
    assert "< HTTP/1.1 100 Continue" in done.stderr
    assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("status", "secret_ends"), [(413, ""), (401, "x")])
def test_a_large_body_that_is_refused_is_not_sent(
    base_url: str, alice: Customer, tmp_path: Path, status: int, secret_ends: str
) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat(user="x" * 33 * 2**20)))
    done = curl(base_url, alice.secret + secret_ends, "-d", f"@{body}", "--write-out", " %{size_upload}")
    assert f"< HTTP/1.1 {status}" in done.stderr
    answer, _, sent = done.stdout.rpartition(" ")
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    assert int(sent) == 0


def test_a_stream_is_shown_as_it_comes(base_url: str, alice: Customer) -> None:
    done = curl(base_url, alice.secret, "--no-buffer", "-d", json.dumps(chat(stream=True)))
    assert re.search(r"< content-type: text/event-stream", done.stderr, re.IGNORECASE)
    assert done.stdout.endswith("data: [DONE]\n\n")
