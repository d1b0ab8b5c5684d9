"""Sign-in with another site, over sockets: the running product, and an OpenID Connect provider of the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import requests
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialAccount
from django.conf import settings

from accounts import registration
from accounts.models import Membership, User
from billing.models import Transfer, Wallet
from tests import factories
from tests.accounts import browsing
from tests.accounts.identity_provider import CLIENT_ID, CLIENT_SECRET, SLOW_SECONDS, IdentityProvider
from tests.people import PASSWORD
from tests.stack import WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

WELCOME = 5 * 10**12
BUTTON = "Continue with Example Inc."


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def web(
    provider: IdentityProvider, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebProcess]:
    web = WebProcess(
        tmp_path_factory.mktemp("single-sign-on") / "web.log",
        SOCIAL_OIDC_CLIENT_ID=CLIENT_ID,
        SOCIAL_OIDC_SECRET=CLIENT_SECRET,
        SOCIAL_OIDC_SERVER_URL=provider.url,
        SOCIAL_OIDC_NAME="Example Inc.",
    )
    web.wait_until_ready()
    yield web
    web.stop()


@dataclass
class Browser:
    """It keeps cookies and follows redirects; `page` is where it is now."""

    web: WebProcess
    session: requests.Session = field(default_factory=requests.Session)
    page: requests.Response = field(default_factory=requests.Response)

    @property
    def path(self) -> str:
        return self.page.url.removeprefix(self.web.url)

    def open(self, path: str) -> Browser:
        self.page = self.session.get(self.web.url + path, timeout=60)
        return self

    def send(self, path: str, **fields: Any) -> Browser:
        """The form of this page that goes there."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.page.text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], **fields}
        self.page = self.session.post(self.web.url + path, form, timeout=60)
        return self

    def press(self, button: str) -> Browser:
        """The button of a provider's form: alone in it."""
        found = re.search(rf'<form method="post" action="([^"]+)">[^§]*?<button[^>]*>{re.escape(button)}<', self._cut())
        assert found is not None, self.page.text
        return self.send(found[1].replace("&amp;", "&"))

    def _cut(self) -> str:
        return self.page.text.replace("</form>", "§")

    def continue_with_provider(self, query: str = "") -> Browser:
        return self.open(f"/accounts/login/{query}").press(BUTTON)

    def is_signed_in(self) -> bool:
        return self.session.get(f"{self.web.url}/settings/", allow_redirects=False, timeout=60).status_code == 200


@pytest.fixture
def browser(web: WebProcess) -> Browser:
    return Browser(web)


def somebody() -> tuple[str, str]:
    """Whom the provider knows: its name for the person, and the address."""
    return factories.unique("sub"), browsing.address()


def mail_to(email: str) -> str:
    def newest() -> str | None:
        files = sorted(Path(settings.DATA_FOLDER, "mail").glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
        mails = [message_from_bytes(file.read_bytes()) for file in reversed(files)]
        return next((str(mail.get_payload()) for mail in mails if mail["To"] == email), None)

    return until(newest)


def credit_of(email: str) -> list[int]:
    account = registration.account_of(email=email)
    return list(Transfer.objects.filter(cause=f"welcome:{account.pk}").values_list("amount", flat=True))


def signed_in(web: WebProcess) -> tuple[Browser, User]:
    user, email = browsing.customer()
    browser = Browser(web).open("/accounts/login/").send("/accounts/login/", login=email, password=PASSWORD)
    assert browser.is_signed_in()
    return browser, user


def connected(web: WebProcess, provider: IdentityProvider) -> tuple[Browser, User, str]:
    """Somebody who has a password, and the provider: the browser, the user, the provider's name for them."""
    browser, user = signed_in(web)
    sub, address = somebody()
    provider.signs_in(sub, email=address, email_verified=True)
    browser.open("/accounts/3rdparty/").press("Example Inc.")
    return browser, user, sub


class TestTheWayThere:
    def test_begins_by_a_post_only(self, browser: Browser, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)

        browser.open("/accounts/oidc/oidc/login/")

        assert browser.path == "/accounts/oidc/oidc/login/"
        assert "Go on at Example Inc." in browser.page.text
        assert not browser.is_signed_in()

    def test_a_form_may_redirect_to_the_provider(self, browser: Browser, provider: IdentityProvider) -> None:
        policy = browser.open("/accounts/login/").page.headers["Content-Security-Policy"]
        assert f"form-action 'self' {provider.url};" in f"{policy};"

    def test_another_provider_is_not_found(self, browser: Browser) -> None:
        assert browser.open("/accounts/oidc/another/login/").page.status_code == 404


class TestSomebodyNew:
    def test_is_signed_in_at_once_where_the_provider_vouches(
        self, browser: Browser, provider: IdentityProvider
    ) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)

        browser.continue_with_provider()

        user = User.objects.get(email=email)
        assert (browser.path, browser.is_signed_in()) == ("/", True)
        assert not user.has_usable_password()
        assert Membership.objects.get(user=user).role == Membership.Role.OWNER
        assert EmailAddress.objects.get(user=user).verified
        assert credit_of(email) == [WELCOME]
        assert Wallet.objects.get(pk=registration.account_of(email=email).pk).posted == WELCOME

    def test_gets_the_credit_once(self, web: WebProcess, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)

        for _ in range(2):
            assert Browser(web).continue_with_provider().is_signed_in()

        assert credit_of(email) == [WELCOME]

    @pytest.mark.parametrize("claims", [{}, {"email_verified": False}, {"email_verified": "false"}])
    def test_confirms_by_code_first_where_it_does_not(
        self, browser: Browser, provider: IdentityProvider, claims: dict[str, Any]
    ) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, **claims)

        browser.continue_with_provider()
        assert (browser.path, browser.is_signed_in()) == ("/accounts/confirm-email/", False)
        assert credit_of(email) == []

        code = re.search(r"^[A-Z]{4}-[A-Z]{4}$", mail_to(email), re.MULTILINE)
        assert code is not None
        browser.send("/accounts/confirm-email/", code=code[0])
        assert browser.is_signed_in()
        assert credit_of(email) == [WELCOME]

    def test_is_asked_for_an_address_that_the_provider_does_not_tell(
        self, browser: Browser, provider: IdentityProvider
    ) -> None:
        sub, email = somebody()
        provider.signs_in(sub)

        browser.continue_with_provider()
        assert browser.path == "/accounts/3rdparty/signup/"
        browser.send("/accounts/3rdparty/signup/", email=email)

        assert (browser.path, browser.is_signed_in()) == ("/accounts/confirm-email/", False)
        assert credit_of(email) == []

    def test_goes_to_the_page_they_came_for(self, browser: Browser, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)
        assert browser.continue_with_provider("?next=/keys/").path == "/keys/"

    def test_never_goes_to_another_site(self, browser: Browser, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)
        assert browser.continue_with_provider("?next=//elsewhere.example.test/").path == "/"


class TestAnAddressThatHasAUser:
    def test_is_not_signed_in_by_the_provider_and_hears_what_to_do(
        self, browser: Browser, provider: IdentityProvider
    ) -> None:
        user, email = browsing.customer()
        provider.signs_in(factories.unique("sub"), email=email.upper(), email_verified=True)

        browser.continue_with_provider()

        assert (browser.path, browser.is_signed_in()) == ("/accounts/login/", False)
        assert "has signed up here already" in browser.page.text
        assert not SocialAccount.objects.filter(user=user).exists()

    def test_is_told_by_mail_alone_where_the_provider_does_not_vouch(
        self, browser: Browser, provider: IdentityProvider
    ) -> None:
        user, email = browsing.customer()
        provider.signs_in(factories.unique("sub"), email=email, email_verified=False)

        browser.continue_with_provider()

        assert (browser.path, browser.is_signed_in()) == ("/accounts/confirm-email/", False)
        assert "connect that site in your settings" in mail_to(email)
        assert not SocialAccount.objects.filter(user=user).exists()


class TestConnecting:
    def test_lets_the_provider_sign_in(self, web: WebProcess, provider: IdentityProvider) -> None:
        browser, user, sub = connected(web, provider)
        assert "You can sign in with it from now on." in browser.page.text
        assert SocialAccount.objects.get(user=user).uid == sub

        elsewhere = Browser(web).continue_with_provider()

        assert user.email in elsewhere.open("/settings/").page.text

    def test_is_undone_by_disconnecting(self, web: WebProcess, provider: IdentityProvider) -> None:
        browser, user, _ = connected(web, provider)
        connection = SocialAccount.objects.get(user=user)

        browser.send("/accounts/3rdparty/", account=connection.pk)

        assert "It no longer signs you in." in browser.page.text
        assert Browser(web).continue_with_provider().open("/settings/").page.text.count(user.email) == 0

    def test_the_only_way_in_cannot_be_disconnected(self, browser: Browser, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)
        browser.continue_with_provider().open("/accounts/3rdparty/")

        browser.send("/accounts/3rdparty/", account=SocialAccount.objects.get(uid=sub).pk)

        assert "This is your only way to sign in. Set a password" in browser.page.text
        assert SocialAccount.objects.filter(uid=sub).exists()

    def test_what_belongs_to_another_person_is_refused(self, web: WebProcess, provider: IdentityProvider) -> None:
        _, owner, sub = connected(web, provider)
        browser, _ = signed_in(web)

        browser.open("/accounts/3rdparty/").press("Example Inc.")

        assert "belongs to somebody else" in browser.page.text
        assert SocialAccount.objects.get(uid=sub).user == owner

    def test_does_not_go_around_the_second_factor(self, web: WebProcess, provider: IdentityProvider) -> None:
        _, user, _ = connected(web, provider)
        TOTP.activate(user, generate_totp_secret())

        elsewhere = Browser(web).continue_with_provider()

        assert (elsewhere.path, elsewhere.is_signed_in()) == ("/accounts/2fa/authenticate/", False)


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        "fault",
        [
            *("error", "state", "nonce", "signature", "issuer", "audience", "expired", "userinfo"),
            *("500/token", "500/userinfo", "500/jwks", "500/.well-known/openid-configuration"),
            *(
                "lifetime",
                "rubbish/token",
                "rubbish/userinfo",
                "rubbish/jwks",
                "rubbish/.well-known/openid-configuration",
            ),
            "slow/userinfo",
        ],
    )
    def test_ends_in_a_sentence(self, browser: Browser, provider: IdentityProvider, fault: str) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True, fault=fault)

        browser.continue_with_provider()

        assert browser.page.status_code == 401
        assert "The other site did not let us know who you are. Nothing was changed." in browser.page.text
        assert browser.page.elapsed.total_seconds() < SLOW_SECONDS
        assert not browser.is_signed_in()
        assert not User.objects.filter(email=email).exists()

    def test_who_cancels_there_hears_that_nothing_changed(self, browser: Browser, provider: IdentityProvider) -> None:
        provider.signs_in(*somebody()[:1], fault="denied")
        assert "You cancelled" in browser.continue_with_provider().page.text

    def test_a_provider_that_is_away(self, browser: Browser, provider: IdentityProvider) -> None:
        provider.stop()
        try:
            browser.continue_with_provider()
        finally:
            provider.start()

        assert browser.page.status_code == 401
        assert "The other site did not let us know who you are." in browser.page.text

    def test_an_answer_is_good_once(self, browser: Browser, provider: IdentityProvider) -> None:
        sub, email = somebody()
        provider.signs_in(sub, email=email, email_verified=True)
        browser.continue_with_provider()
        (answer,) = [step.url for step in browser.page.history if "/login/callback/" in step.url]

        again = browser.open(answer.removeprefix(browser.web.url))

        assert again.page.status_code == 401
