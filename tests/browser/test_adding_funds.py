"""Adding funds in a browser: the form, the page of the payment service, and back with the money."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import people
from tests.billing.fake_stripe import FakeStripe
from tests.browser.conftest import NewPage
from tests.stack import WebProcess


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    with FakeStripe().serving() as fake:
        yield fake


@pytest.fixture
def site(stripe: FakeStripe, committed: None, tmp_path: Path) -> Iterator[str]:
    """A process of the site that knows this Stripe."""
    web = WebProcess(
        tmp_path / "web.log",
        STRIPE_SECRET_KEY="sk_sim_browser",
        STRIPE_API_BASE=stripe.url,
        STRIPE_WEBHOOK_SECRETS="whsec_of_the_browser_tests",
    )
    try:
        web.wait_until_ready()
        yield web.url
    finally:
        web.stop()


@pytest.mark.console_may_say("404")  # The stand-in for Stripe's page has no icon.
def test_money_is_there_at_once_after_the_payment(new_page: NewPage, site: str, stripe: FakeStripe) -> None:
    _account, email = people.customer("payer", password=people.PASSWORD)
    page = new_page()
    page.goto(f"{site}/accounts/login/?next=/billing/funds/")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(people.PASSWORD)
    page.get_by_role("button", name="Sign in").first.click()

    page.get_by_label("$25.00").check()
    page.get_by_role("button", name="Continue to payment").click()
    expect(page).to_have_url(re.compile(f"^{stripe.url}/pay/"))  # The page's policy let the form go there.
    (session,) = stripe.made("checkout.session")
    stripe.pay(session["id"], status="processing")

    page.goto(session["success_url"])
    expect(page.get_by_text("still working on it")).to_be_visible()
    stripe.attempt(session["id"], status="succeeded")
    # It noticed by itself, without a message of Stripe's: the page asks again after ten seconds.
    expect(page.get_by_text("was added to your balance")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("definition").filter(has_text="$25.00")).to_have_count(2)  # The amount, the balance.
