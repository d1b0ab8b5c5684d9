"""The pages in a browser that runs no scripts: nothing that a customer needs is lost."""

from __future__ import annotations

from datetime import UTC, datetime

from playwright.sync_api import expect

from apikeys import keys
from billing import money, settlement
from billing.models import UsageRecord
from tests import factories, people
from tests.browser.conftest import NewPage
from tests.browser.people import sign_in
from tests.stack import Stack


def test_keys_are_made_and_money_is_looked_at_without_scripts(new_page: NewPage, stack: Stack) -> None:
    account, email = people.customer("alice", password=people.PASSWORD)
    factories.credit(account, money.PICO_PER_USD)
    keys.create(account=account, name="her laptop", now=datetime.now(UTC))
    call = factories.recorded(account, 38_400_000)
    settlement.settle_accounts(account_ids=[account.pk])
    page = new_page(java_script_enabled=False)
    sign_in(page, stack, email)
    site = stack.webs[0].url

    page.goto(f"{site}/keys/create/")
    page.get_by_label("Name").fill("no scripts")
    page.get_by_role("button", name="Create", exact=True).click()
    assert page.get_by_label("API key").input_value().startswith("tk-")
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    page.locator("label", has_text="Python").click()
    expect(page.get_by_label("The call in Python")).to_be_visible()

    page.goto(f"{site}/usage/")
    page.get_by_label("Time").select_option(label="Today")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("The same as a table").click()
    expect(page.get_by_role("main").get_by_title("0.0000384 USD").first).to_be_visible()

    page.goto(f"{site}/statement/")
    page.get_by_role("link", name="Usage", exact=True).last.click()
    expect(page.get_by_role("main").get_by_text(UsageRecord.objects.get(pk=call.id).model.public_id)).to_be_visible()

    page.goto(f"{site}/requests/")
    page.get_by_role("main").locator("tbody a").first.click()
    expect(page.get_by_role("main")).to_contain_text(str(call.id))
