"""Sign-in with another site in Chromium, which asks our policy where a sent form may redirect to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests import factories
from tests.accounts import browsing
from tests.accounts.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.stack import WebProcess


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.stop()


@pytest.fixture
def web(provider: IdentityProvider, tmp_path: Path) -> Iterator[WebProcess]:
    web = WebProcess(
        tmp_path / "web.log",
        SOCIAL_OIDC_CLIENT_ID=CLIENT_ID,
        SOCIAL_OIDC_SECRET=CLIENT_SECRET,
        SOCIAL_OIDC_SERVER_URL=provider.url,
        SOCIAL_OIDC_NAME="Example Inc.",
    )
    web.wait_until_ready()
    yield web
    web.stop()


def test_a_new_person_comes_in_and_sees_the_credit(page: Page, web: WebProcess, provider: IdentityProvider) -> None:
    email = browsing.address()
    provider.signs_in(factories.unique("sub"), email=email, email_verified=True)

    page.goto(f"{web.url}/accounts/login/")
    page.get_by_role("button", name="Continue with Example Inc.").click()

    page.wait_for_url(f"{web.url}/")
    expect(page.locator("body")).to_contain_text("$5.00")
    page.goto(f"{web.url}/accounts/3rdparty/")
    expect(page.get_by_label(f"Example Inc.: {email}")).to_be_visible()
