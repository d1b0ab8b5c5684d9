"""Every page, as people with different eyes, hands and screens meet it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing import receipts, settlement
from tests import factories, people
from tests.billing import papers
from tests.browser.conftest import NewPage
from tests.browser.people import sign_in
from tests.stack import Stack

STRANGERS = [
    *("/", "/docs/", "/accounts/login/", "/accounts/signup/", "/accounts/password/reset/"),
    *("/sandbox/mailbox/", "/nowhere"),
]
CUSTOMERS = [
    *("/", "/docs/", "/usage/?group=key", "/requests/", "/requests/{call}/", "/statement/", "/statement/?day={day}"),
    *("/statement/document/", "/billing/", "/billing/details/", "/billing/receipts/{receipt}/"),
    *("/keys/", "/keys/create/", "/keys/{key}/", "/keys/{key}/limits/", "/keys/{key}/rotate/", "/keys/{key}/revoke/"),
    *("/billing/redeem/", "/billing/alerts/", "/billing/auto-recharge/", "/billing/close/"),
    *("/team/", "/activity/", "/settings/", "/accounts/email/", "/accounts/password/change/", "/accounts/sessions/"),
    *("/accounts/2fa/", "/accounts/2fa/totp/activate/", "/accounts/2fa/webauthn/", "/accounts/logout/"),
]
# Both themes, and the widest and the narrowest window: what differs between the others is found by these.
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone-dark": {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
}


def faults(page: Page) -> list[str]:
    """What axe-core finds, and whether the page is wider than its window."""
    found = [
        f"{page.url} {violation['id']}: {violation['help']}: {[node['html'] for node in violation['nodes']][:3]}"
        for violation in Axe().run(page).response["violations"]
    ]
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return [*found, *([f"{page.url} is {wide} px too wide"] if wide > 0 else [])]


def look_at(page: Page, stack: Stack, addresses: list[str]) -> Iterator[str]:
    for address in addresses:
        page.goto(stack.webs[0].url + address)
        yield from faults(page)


@pytest.mark.console_may_say("404 (Not Found)")  # One of the pages is the one for an address that does not exist.
@pytest.mark.parametrize("screen", SCREENS)
def test_a_strangers_pages_can_be_used_by_everybody(new_page: NewPage, stack: Stack, screen: str) -> None:
    assert list(look_at(new_page(**SCREENS[screen]), stack, STRANGERS)) == []


@pytest.mark.parametrize("screen", SCREENS)
def test_a_customers_pages_can_be_used_by_everybody(new_page: NewPage, stack: Stack, screen: str) -> None:
    account, email = people.customer("alice", password=people.PASSWORD)
    key, _ = keys.create(account=account, name="her laptop", now=datetime.now(UTC), by=account.users.get())
    keys.set_limits(key=key, requests_per_minute=30, tokens_per_minute=None, concurrent_requests=2)
    keys.set_spend_cap(key=key, cap=SpendCap(10**8, SpendPeriod.MONTH))
    factories.credit(account, 10**12)
    call = factories.recorded(account, 38_400_000)
    settlement.settle_accounts(account_ids=[account.pk])
    receipt = receipts.issue(papers.paid(account, 1000, tax=190), datetime.now(UTC))
    page = new_page(**SCREENS[screen])
    sign_in(page, stack, email)

    hers = [
        address.format(receipt=receipt, key=key.pk, call=call.id, day=call.admitted_at.date()) for address in CUSTOMERS
    ]

    assert list(look_at(page, stack, hers)) == []


def test_on_a_phone_a_row_is_read_and_used_without_scrolling_sideways(new_page: NewPage, stack: Stack) -> None:
    account, email = people.customer("alice", password=people.PASSWORD)
    people.member_of(account, "member")
    page = new_page(viewport={"width": 390, "height": 800})
    sign_in(page, stack, email)

    page.goto(f"{stack.webs[0].url}/team/")
    expect(page.get_by_role("link", name="Remove")).to_be_in_viewport(ratio=1)
    page.goto(f"{stack.webs[0].url}/activity/")
    expect(page.get_by_text("opened the account alice")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone_every_amount_of_a_statement_and_a_receipt_is_seen(
    new_page: NewPage, stack: Stack, width: int
) -> None:
    account, email = people.customer("alice", password=people.PASSWORD)
    keys.create(account=account, name="her laptop", now=datetime.now(UTC))
    receipt = receipts.issue(papers.paid(account, 123_456_78), datetime.now(UTC))
    factories.credit(account, 123_456_789_012_345_678, reason="An agreement on what was wrong in the month before")
    day = factories.recorded(account, 38_400_123_457).admitted_at.date()
    settlement.settle_accounts(account_ids=[account.pk])
    page = new_page(viewport={"width": width, "height": 800})
    sign_in(page, stack, email)

    for address in (f"/statement/?day={day}", "/statement/document/", f"/billing/receipts/{receipt}/"):
        page.goto(stack.webs[0].url + address)
        hidden = page.evaluate(BEYOND_THE_EDGE)
        assert (page.url, hidden) == (page.url, [])


BEYOND_THE_EDGE = """[...document.querySelectorAll("main :is(tbody, dl) :is(td, th, dt, dd)")]
    .filter(cell => cell.getBoundingClientRect().right > innerWidth - 16).map(cell => cell.textContent)"""
