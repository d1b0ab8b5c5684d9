"""The whole road of a customer, in one browser: from a stranger to a paying caller, and out again."""

from __future__ import annotations

import re

import openai
import pytest
from playwright.sync_api import Page, expect

from billing import money, settlement
from billing.models import PriceRate, UsageRecord
from tests import factories, people
from tests.billing.stage import assert_books_hold
from tests.stack import Stack, until

MODEL = "deepseek-v4-flash"
WELCOME = 5 * money.PICO_PER_USD


def sign_up(page: Page, site: str, email: str) -> None:
    page.goto(site)
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(people.PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("heading", name="Confirm your e-mail address")).to_be_visible()
    mailbox = page.context.new_page()
    mailbox.goto(f"{site}/sandbox/mailbox/")
    mail = mailbox.get_by_role("main").inner_text()
    mailbox.close()
    found = re.search(rf"{re.escape(email)}:\s+([A-Z0-9]{{4}}-[A-Z0-9]{{4}})", mail)
    assert found is not None, mail
    page.get_by_label("Code").fill(found[1])
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text(f"{email} is confirmed")).to_be_visible()


def create_key(page: Page) -> str:
    page.get_by_role("main").get_by_role("link", name="Create a key").first.click()
    page.get_by_label("Name").fill("my laptop")
    page.get_by_role("button", name="Create", exact=True).click()
    secret = page.get_by_label("API key").input_value()
    page.get_by_role("link", name="I have stored it").click()
    assert secret not in page.content()
    return secret


def cost_in_journal(stack: Stack, record: UsageRecord) -> int:
    """What the backend's own account of the call comes to at the price in force, in pico-USD."""
    entry = stack.backend.entry(str(record.id))
    rates = dict(PriceRate.objects.filter(version=record.price_version).values_list("meter", "pico_per_token"))
    return int(entry["prompt_tokens"] * rates["input"] + entry["completion_tokens"] * rates["output"])


@pytest.mark.timeout(180)
def test_a_stranger_becomes_a_paying_caller_without_help(page: Page, stack: Stack) -> None:
    site, email = stack.webs[0].url, f"{factories.unique('alice')}@example.test"

    sign_up(page, site, email)
    expect(page.get_by_title("Available to spend")).to_have_text("$5.00")
    secret = create_key(page)

    # The first call appears by itself on the page that waits for it.
    page.goto(site)
    expect(page.get_by_text("Waiting for your first call")).to_be_visible()
    client = openai.OpenAI(base_url=stack.api_base, api_key=secret, max_retries=0)
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "How do tides work?"}])
    assert answer.usage is not None
    expect(page.get_by_role("heading", name="Your first call arrived")).to_be_visible()

    # Its cost is the same in the backend's journal, in the log, in the usage and on the statement.
    record = UsageRecord.objects.get(api_key__display=f"{secret[:7]}...{secret[-4:]}")
    settlement.settle_accounts(account_ids=[record.account_id])
    cost = money.usd(record.charge)
    assert record.charge == cost_in_journal(stack, record) > 0
    assert (record.input_tokens, record.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    page.get_by_role("link", name="See how the cost was computed").click()
    expect(page.get_by_role("main")).to_contain_text(cost)
    for entry in ("Usage", "Requests", "Statement"):
        page.get_by_role("link", name=entry, exact=True).first.click()
        expect(
            page.get_by_role("main").get_by_title(f"{cost} USD").or_(page.get_by_title(f"-{cost} USD")).first
        ).to_be_visible()
    expect(page.get_by_role("main").get_by_title(f"{money.usd(WELCOME - record.charge)} USD").first).to_be_visible()

    # A revoked key is refused within a second.
    page.get_by_role("link", name="Keys", exact=True).first.click()
    page.get_by_role("link", name="my laptop").click()
    page.get_by_role("link", name="Revoke").click()
    page.get_by_label("name").fill("my laptop")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("There is no key in use").or_(page.get_by_text("revoked")).first).to_be_visible()
    until(lambda: refused(client), seconds=1.5)
    assert_books_hold()


def refused(client: openai.OpenAI) -> bool:
    try:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Still there?"}])
    except openai.AuthenticationError:
        return True
    return False
