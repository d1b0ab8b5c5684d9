"""The process: where it listens, what it imports, how it stops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.demo_backend.process import DemoBackend, until


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])  # noqa: S104 that it is refused
def test_it_listens_on_loopback_only(host: str) -> None:
    from flint.sandbox.demo_backend import __main__

    assert not __main__.is_loopback(host)


def test_another_host_ends_it_with_a_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flint.sandbox.demo_backend", "--port", "0", "--host", "0.0.0.0"]  # noqa: S104
    ended = subprocess.run([*command, "--journal", str(tmp_path / "j")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "loopback only" in ended.stderr


def test_production_does_not_get_made_up_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flint.sandbox.demo_backend", "--port", "0", "--journal", str(tmp_path / "j")]
    environment = {**os.environ, "FLINT_ENV": "production"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "production" in ended.stderr


def test_it_imports_nothing_of_the_product() -> None:
    script = "import sys, flint.sandbox.demo_backend.server; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not roots & {"django", "accounts", "apikeys", "billing", "gateway", "celery"}


def test_a_key_is_asked_for_and_a_stream_may_finish_after_sigterm(start: Callable[..., DemoBackend]) -> None:
    demo = start("--api-key", "let-me-in", "--tokens-per-second", "100")
    assert demo.chat("Hello").status == 401
    assert demo.ask("GET", "/v1/models").status == 401

    bearer = {"Authorization": "Bearer let-me-in"}
    connection, call_id = demo.begin("[demo: tokens=40]", stream=True, headers=bearer)
    hung, hung_id = demo.begin("[demo: hang_before]", headers=bearer)
    with connection.getresponse() as response:
        until(lambda: demo.entries(hung_id))
        demo.process.terminate()
        body = response.read()
    assert demo.wait() == 0
    hung.close()
    connection.close()
    assert body.count(b'"content":"') == 41
    assert body.endswith(b"data: [DONE]\n\n")
    ends = [line for line in demo.journal_path.read_text().splitlines() if '"ended"' in line]
    assert [('"done"' in line, call_id in line) for line in ends] == [(False, False), (True, True)]
