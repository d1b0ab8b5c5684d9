"""The clients that customers use: a process each, in its own locked environment, that runs errands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flint.sandbox.bootstrap import ROOT
from flint.sandbox.programs import CURL, GO, NODE, NPM, Program
from tests.sdk import environments

MODEL = "deepseek-v4-flash"


@dataclass(frozen=True)
class Client:
    """`start` gives the command that starts it, and the folder to start it in."""

    name: str
    start: Callable[[], tuple[list[str], Path]]
    needs: tuple[Program, ...] = ()
    lists_models: bool = True
    completes: bool = True  # The older POST /v1/completions.
    retries: bool = True
    tells_codes: bool = True  # The type, code and param of an error.
    tells_request_ids: bool = True

    @property
    def missing(self) -> list[str]:
        return [program.missing for program in self.needs if program.path is None]


@dataclass
class Note:
    """What a client saw. `error` is how it told of a refusal."""

    seconds: float
    id: str | None = None
    text: str | None = None
    finish: str | None = None
    usage: dict[str, int] | None = None
    calls: list[Any] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)
    document: dict[str, Any] | None = None
    models: list[str] = field(default_factory=list)
    one: str | None = None
    request_id: str | None = None
    error: dict[str, Any] | None = None


class Runner:
    """The running process of a client."""

    def __init__(self, client: Client, log: Path) -> None:
        command, folder = client.start()
        # Nothing of ours but the key and the address may reach it.
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log

    def run(self, do: str, **errand: Any) -> Note:
        """What came of an errand that succeeds."""
        note = self.try_to(do, **errand)
        assert note.error is None, note.error
        return note

    def refused(self, do: str, **errand: Any) -> dict[str, Any]:
        """The error of an errand that fails."""
        note = self.try_to(do, **errand)
        assert note.error is not None, note
        return note.error

    def try_to(self, do: str, *, base_url: str, key: str, text: str, model: str = MODEL, **more: Any) -> Note:
        errand = {"retries": 0, "megabytes": 0, "options": {}} | more
        errand |= {"do": do, "base_url": base_url, "key": key, "text": text, "model": model}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(errand) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()
        return Note(**json.loads(line))

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def _in_python(environment: str, module: str) -> Callable[[], tuple[list[str], Path]]:
    command = ["-m", f"tests.sdk.python.{module}"]
    return lambda: ([str(environments.python(environment) / "bin" / "python"), *command], ROOT)


def _in_node(name: str) -> Callable[[], tuple[list[str], Path]]:
    def start() -> tuple[list[str], Path]:
        folder = environments.node(name)
        # A module finds the packages beside itself.
        for source in (environments.LOCKS / name / "runner.mjs", environments.LOCKS / "node" / "loop.mjs"):
            shutil.copy(source, folder)
        return ["node", "runner.mjs"], folder

    return start


def _in_go(name: str) -> Callable[[], tuple[list[str], Path]]:
    return lambda: ([str(environments.go(name) / "runner")], ROOT)


CLIENTS = [
    Client("openai-python", _in_python("openai_python", "openai_sync")),
    Client("openai-python async", _in_python("openai_python", "openai_async")),
    Client("openai-python 1.x", _in_python("openai_python_1", "openai_sync")),
    Client("openai-python 1.x async", _in_python("openai_python_1", "openai_async")),
    Client("openai-node", _in_node("openai_node"), (NODE, NPM)),
    Client("go-openai", _in_go("go_openai"), (GO,), retries=False, tells_request_ids=False),
    Client("langchain", _in_python("langchain", "langchain_client"), lists_models=False, completes=False),
    Client("litellm", _in_python("litellm", "litellm_client"), lists_models=False, completes=False, tells_codes=False),
    Client("ai-sdk", _in_node("ai_sdk"), (NODE, NPM), lists_models=False),
    Client("curl", lambda: ([sys.executable, "-m", "tests.sdk.python.curl_client"], ROOT), (CURL,)),
]
