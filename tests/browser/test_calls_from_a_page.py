"""A page of another site calls /v1, as openai-node does in a browser, and reads what it needs of the answer."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import NewPage
from tests.gateway.customers import Customer, chat, customer
from tests.stack import Stack

FETCH = """
async ([url, secret, body]) => {
    const headers = {
        "Authorization": `Bearer ${secret}`, "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID(),
        "X-Stainless-Lang": "js", "X-Stainless-Retry-Count": "0", "X-Stainless-Helper-Method": "stream",
        "OpenAI-Organization": "org",
    };
    const answer = await fetch(url, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body)});
    const seen = name => answer.headers.get(name);
    return {
        status: answer.status, text: await answer.text(), id: seen("x-request-id"), cost: seen("x-flint-cost-usd"),
        left: seen("x-ratelimit-remaining-requests"),
    };
}
"""


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


@pytest.fixture
def page(new_page: NewPage, stack: Stack) -> Page:
    """On another port, so of another origin."""
    page = new_page()
    page.goto(f"{stack.webs[1].url}/livez")
    stack.webs[0].wait_until_ready()  # A browser that starts may take the whole machine for a moment.
    return page


def fetched(page: Page, stack: Stack, path: str, secret: str, body: Any = None) -> dict[str, Any]:
    return dict(page.evaluate(FETCH, [f"{stack.webs[0].url}{path}", secret, body]))


# The browser looks for an icon beside /livez, which has none.
@pytest.mark.console_may_say("the server responded with a status of 404")
def test_a_page_of_another_site_reads_answers_and_streams(page: Page, stack: Stack, alice: Customer) -> None:
    answer = fetched(page, stack, "/v1/chat/completions", alice.secret, chat())
    assert answer["status"] == 200, answer["text"]
    assert answer["id"].startswith("req_")
    assert f'"cost":"{answer["cost"]}"' in answer["text"]
    assert int(answer["left"]) > 0
    stream = fetched(page, stack, "/v1/chat/completions", alice.secret, chat(stream=True))
    assert stream["text"].endswith("data: [DONE]\n\n")
    assert fetched(page, stack, "/v1/balance", alice.secret)["status"] == 200


@pytest.mark.console_may_say("the server responded with a status of 40")
def test_it_reads_refusals_too(page: Page, stack: Stack, alice: Customer) -> None:
    for path, secret, body, status in (
        ("/v1/chat/completions", "tk-nothing", chat(), 401),
        ("/v1/chat/completions", alice.secret, {}, 400),
        ("/v1/models/nothing", alice.secret, None, 404),
    ):
        answer = fetched(page, stack, path, secret, body)
        assert (answer["status"], bool(answer["id"])) == (status, True)
        assert '"error"' in answer["text"]
