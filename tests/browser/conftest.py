"""A real Chromium over the running product. What it complains about on its console fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from flint.sandbox.programs import CHROMIUM
from tests.stack import Stack

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    # Without these it asks the world for updates.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 15_000
NewPage: TypeAlias = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium(stack: Stack) -> Iterator[Browser]:
    """For one module only: while it lives, an event loop of Playwright's runs in this thread, and no other one can.

    For the same reason Django thinks that queries would block an event loop, and has to be told otherwise.
    """
    path = CHROMIUM.path
    if path is None:
        pytest.skip(CHROMIUM.missing)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(committed: None, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[NewPage]:
    """Pages of browsers that know nothing of each other; arguments are Playwright's for a context."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.page.url if message.page else ''}: {message.text}")

    def make(**options: Any) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        return page

    yield make
    for context in contexts:
        context.close()
    allowed = [mark.args[0] for mark in request.node.iter_markers("console_may_say")]
    assert not [text for text in complaints if not any(word in text for word in allowed)]


@pytest.fixture
def page(new_page: NewPage) -> Page:
    return new_page(viewport={"width": 1280, "height": 900})
