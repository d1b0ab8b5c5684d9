"""The calls that our pages show, in four languages and for other clients, answer when they are pasted as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.template.loader import render_to_string
from pytest_django import Settings

from flint.sandbox.programs import CURL, GO, NODE, NPM, Program
from tests.gateway.customers import Customer
from tests.sdk import environments
from tests.sdk.clients import MODEL
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


class Snippet(HTMLParser):
    """The text that the button beside a snippet copies."""

    def __init__(self, page: str, name: str) -> None:
        super().__init__()
        self.text = ""
        self._id, self._inside = f"{name}-code", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside |= ("id", self._id) in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "code"

    def handle_data(self, data: str) -> None:
        self.text += data if self._inside else ""


def curl(folder: Path, snippet: str) -> list[str]:
    return ["sh", "-c", snippet]


def python(folder: Path, snippet: str) -> list[str]:
    return _in_python("openai_python", folder, snippet)


def javascript(folder: Path, snippet: str) -> list[str]:
    return _in_node("openai_node", folder, snippet)


def go(folder: Path, snippet: str) -> list[str]:
    for name in ("go.mod", "go.sum"):
        shutil.copy(environments.LOCKS / "go_openai" / name, folder)
    (folder / "main.go").write_text(snippet)
    environments.build_go(folder, folder / "call")
    return [str(folder / "call")]


def langchain(folder: Path, snippet: str) -> list[str]:
    return _in_python("langchain", folder, snippet)


def litellm(folder: Path, snippet: str) -> list[str]:
    return _in_python("litellm", folder, snippet)


def vercel(folder: Path, snippet: str) -> list[str]:
    return _in_node("ai_sdk", folder, snippet)


def _in_python(client: str, folder: Path, snippet: str) -> list[str]:
    (folder / "call.py").write_text(snippet)
    return [str(environments.python(client) / "bin" / "python"), "call.py"]


def _in_node(client: str, folder: Path, snippet: str) -> list[str]:
    (folder / "call.mjs").write_text(snippet)
    (folder / "node_modules").symlink_to(environments.node(client) / "node_modules")
    return ["node", "call.mjs"]


SNIPPETS: list[tuple[str, Callable[[Path, str], list[str]], list[Program]]] = [
    ("snippet", curl, [CURL]),
    ("snippet", python, []),
    ("snippet", javascript, [NODE, NPM]),
    ("snippet", go, [GO]),
    ("client", langchain, []),
    ("client", litellm, []),
    ("client", vercel, [NODE, NPM]),
]
TEMPLATES = {"snippet": "_snippets.html", "client": "gateway/docs/_clients.html"}


@pytest.mark.parametrize(("kind", "prepare", "needs"), SNIPPETS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_snippet_answers(
    stack: Stack,
    alice: Customer,
    settings: Settings,
    tmp_path: Path,
    kind: str,
    prepare: Callable[[Path, str], list[str]],
    needs: list[Program],
) -> None:
    if missing := [program.missing for program in needs if program.path is None]:
        pytest.skip("; ".join(missing))
    settings.SITE_URL = stack.webs[0].url
    page = render_to_string(TEMPLATES[kind], {"key": alice.secret, "model": MODEL})
    snippet = Snippet(page, f"{kind}-{prepare.__name__}").text
    assert alice.secret in snippet
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = prepare(tmp_path, snippet)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout
    assert "demo backend" in done.stdout
    assert alice.only_record().output_tokens > 0
