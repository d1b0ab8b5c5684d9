"""Ways to sign in that need a real browser. The fingerprint is Chromium's own virtual authenticator."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Page, expect

from tests import people
from tests.accounts.test_second_factor import code
from tests.stack import Stack

PERIOD = 30
ENOUGH_SECONDS = 10  # To type a code and send it.
FINGERPRINT = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


def site_of(stack: Stack) -> str:
    """By its name: browsers bind passkeys to names, not to numbers."""
    return f"http://localhost:{stack.webs[0].port}"


def give_password(page: Page, site: str, email: str) -> None:
    page.goto(f"{site}/accounts/login/")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(people.PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def give_code(page: Page, text: str) -> None:
    page.get_by_label("Code").fill(text)
    page.get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in").first).to_be_visible()


def code_that_lasts(page: Page, secret: str) -> str:
    """A code is good for its period only, so one that is nearly over is not used."""
    left = PERIOD - time.time() % PERIOD
    if left < ENOUGH_SECONDS:
        page.wait_for_timeout((left + 0.1) * 1000)
    return code(secret)


def attach_fingerprint(page: Page) -> None:
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": FINGERPRINT})
    page.bring_to_front()  # Chromium asks only the window that has the focus.


def add_passkey(page: Page, site: str) -> None:
    page.goto(f"{site}/settings/")
    page.get_by_role("link", name="See and add").click()
    page.get_by_role("link", name="Add one").click()
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_url(re.compile(r"/accounts/2fa/(recovery-codes/)?$"))


def set_up_app(page: Page, site: str) -> tuple[str, list[str]]:
    """The app's secret and the recovery codes."""
    page.goto(f"{site}/accounts/2fa/")
    page.get_by_role("link", name="Set up").click()
    secret = page.get_by_label("Secret").input_value()
    page.get_by_label("Code").fill(code_that_lasts(page, secret))
    page.get_by_role("button", name="Turn on").click()
    return secret, page.locator("#recovery-codes").inner_text().split()


def test_a_passkey_alone_signs_in(page: Page, stack: Stack) -> None:
    _, email = people.customer("alice", password=people.PASSWORD)
    site = site_of(stack)
    attach_fingerprint(page)
    give_password(page, site, email)
    page.wait_for_url(f"{site}/")
    add_passkey(page, site)
    page.goto(f"{site}/accounts/2fa/webauthn/")
    expect(page.get_by_role("row", name="Passkey 1")).to_contain_text("passkey")
    sign_out(page)

    page.goto(f"{site}/accounts/login/")
    page.get_by_role("button", name="Sign in with a passkey").click()

    page.wait_for_url(f"{site}/")
    expect(page.get_by_role("link", name=email).first).to_be_visible()


def test_a_passkey_is_a_second_step_after_the_password(page: Page, stack: Stack) -> None:
    _, email = people.customer("alice", password=people.PASSWORD)
    site = site_of(stack)
    attach_fingerprint(page)
    give_password(page, site, email)
    page.wait_for_url(f"{site}/")
    add_passkey(page, site)
    sign_out(page)

    give_password(page, site, email)
    page.get_by_role("button", name="Use a passkey").click()

    page.wait_for_url(f"{site}/")
    expect(page.get_by_role("link", name=email).first).to_be_visible()


def test_a_browser_without_the_passkey_does_not_get_in(page: Page, stack: Stack) -> None:
    site = site_of(stack)
    attach_fingerprint(page)

    page.goto(f"{site}/accounts/login/")
    page.get_by_role("button", name="Sign in with a passkey").click()

    expect(page.locator("#passkey-fault")).to_be_visible()
    expect(page).to_have_url(f"{site}/accounts/login/")


def test_the_app_signs_in_and_a_recovery_code_does_so_once(page: Page, stack: Stack) -> None:
    _, email = people.customer("alice", password=people.PASSWORD)
    site = site_of(stack)
    give_password(page, site, email)
    page.wait_for_url(f"{site}/")
    secret, recovery = set_up_app(page, site)
    assert len(recovery) == 10
    sign_out(page)

    give_password(page, site, email)
    expect(page.get_by_role("heading", name="Second step")).to_be_visible()
    give_code(page, code_that_lasts(page, secret))
    page.wait_for_url(f"{site}/")
    sign_out(page)

    give_password(page, site, email)
    give_code(page, recovery[0])
    page.wait_for_url(f"{site}/")
    sign_out(page)

    give_password(page, site, email)
    give_code(page, recovery[0])
    expect(page.get_by_text("Incorrect code")).to_be_visible()
    give_code(page, recovery[1])
    page.wait_for_url(f"{site}/")
