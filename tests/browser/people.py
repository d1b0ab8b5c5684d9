"""What a person does with a browser: signs in, looks at a page."""

from __future__ import annotations

from playwright.sync_api import Page

from tests import people
from tests.stack import Stack


def sign_in(page: Page, stack: Stack, email: str) -> None:
    page.goto(f"{stack.webs[0].url}/accounts/login/")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(people.PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{stack.webs[0].url}/")
