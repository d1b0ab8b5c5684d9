"""Authenticator apps, recovery codes, and the question whether it is still you. Passkeys need tests/browser."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.core import mail
from django.test import Client, override_settings

from accounts.models import User
from tests import people
from tests.accounts import browsing
from tests.accounts.test_signing_in import NEW, ask_for_link, reset

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _time_stands_still() -> Iterator[None]:
    """So that a code is not over between its reading and its use."""
    with browsing.later(timedelta(0)):
        yield


def code(secret: str) -> str:
    """What the app shows now (RFC 6238)."""
    digest = hmac.new(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


def with_app() -> tuple[User, str, str, list[str]]:
    """Somebody with an authenticator app: the user, the address, the app's secret, the recovery codes."""
    user, email = browsing.customer()
    client = Client()
    browsing.sign_in(client, email)
    browsing.say_it_is_still_me(client)
    page = client.get("/accounts/2fa/totp/activate/").content.decode()
    found = re.search(r'id="totp-secret" value="([A-Z2-7]+)"', page)
    assert found is not None
    page = client.post("/accounts/2fa/totp/activate/", {"code": code(found[1])}, follow=True).content.decode()
    return user, email, found[1], re.findall(r"[>\n](\d{8})(?=\n)", page)


class TestTheApp:
    def test_is_asked_for_after_the_password(self) -> None:
        _, email, secret, _ = with_app()
        client = Client()

        response = browsing.sign_in(client, email)

        assert response["Location"] == "/accounts/2fa/authenticate/"
        assert not browsing.is_signed_in(client)
        client.post("/accounts/2fa/authenticate/", {"code": code(secret)})
        assert browsing.is_signed_in(client)

    def test_a_wrong_code_does_not_sign_in(self) -> None:
        _, email, secret, _ = with_app()
        client = Client()
        browsing.sign_in(client, email)
        wrong = f"{(int(code(secret)) + 1) % 10**6:06}"
        assert "Incorrect code" in client.post("/accounts/2fa/authenticate/", {"code": wrong}).content.decode()
        assert not browsing.is_signed_in(client)

    def test_a_code_works_once(self) -> None:
        _, email, secret, _ = with_app()
        first, second = Client(), Client()
        used = code(secret)
        for client in (first, second):
            browsing.sign_in(client, email)
            client.post("/accounts/2fa/authenticate/", {"code": used})
        assert browsing.is_signed_in(first)
        assert not browsing.is_signed_in(second)

    def test_its_secret_lies_encrypted(self) -> None:
        user, _, secret, codes = with_app()
        stored = str(list(Authenticator.objects.filter(user=user).values_list("data", flat=True)))
        assert secret not in stored
        assert not [one for one in codes if one in stored]

    def test_the_person_is_told_when_it_is_turned_off(self) -> None:
        user, email, secret, _ = with_app()
        client = Client()
        browsing.sign_in(client, email)
        client.post("/accounts/2fa/authenticate/", {"code": code(secret)})
        browsing.say_it_is_still_me(client)

        client.post("/accounts/2fa/totp/deactivate/")

        assert not Authenticator.objects.filter(user=user).exists()
        assert mail.outbox[-1].subject == "[Flint] The authenticator app was turned off"
        assert "From: 127.0.0.1" in str(mail.outbox[-1].body)

    def test_a_reset_password_does_not_get_round_it(self) -> None:
        _, email, _, _ = with_app()
        client = Client()
        reset(client, ask_for_link(email))
        assert not browsing.is_signed_in(client)
        assert browsing.sign_in(client, email, NEW)["Location"] == "/accounts/2fa/authenticate/"
        assert not browsing.is_signed_in(client)


class TestRecoveryCodes:
    def test_each_lets_in_once(self) -> None:
        _, email, _, codes = with_app()
        assert len(set(codes)) == 10
        first, second = Client(), Client()
        for client in (first, second):
            browsing.sign_in(client, email)
            client.post("/accounts/2fa/authenticate/", {"code": codes[0]})
        assert browsing.is_signed_in(first)
        assert not browsing.is_signed_in(second)

    def test_they_are_shown_once(self) -> None:
        _, email, secret, codes = with_app()
        client = Client()
        browsing.sign_in(client, email)
        client.post("/accounts/2fa/authenticate/", {"code": code(secret)})
        page = client.get("/accounts/2fa/recovery-codes/").content.decode()
        assert not [one for one in codes if one in page]
        browsing.say_it_is_still_me(client)
        assert client.get("/accounts/2fa/recovery-codes/download/").status_code == 403


class TestIsItStillYou:
    @pytest.mark.parametrize(
        "page",
        ["/accounts/2fa/totp/activate/", "/accounts/2fa/webauthn/add/", "/accounts/2fa/recovery-codes/generate/"],
    )
    def test_is_asked_before_what_changes_the_sign_in(self, page: str) -> None:
        client = browsing.signed_in_a_while_ago(browsing.customer()[1])
        assert client.get(page)["Location"].startswith("/accounts/reauthenticate/")

    def test_is_asked_again_after_five_minutes(self) -> None:
        client = browsing.signed_in_a_while_ago(browsing.customer()[1])
        browsing.say_it_is_still_me(client)
        assert client.get("/accounts/2fa/totp/activate/").status_code == 200
        with browsing.later(timedelta(minutes=5, seconds=1)):
            assert client.get("/accounts/2fa/totp/activate/").status_code == 302

    def test_is_asked_before_the_address_changes(self) -> None:
        client = browsing.signed_in_a_while_ago(browsing.customer()[1])
        response = client.post("/accounts/email/", {"action_add": "1", "email": browsing.address("new")})
        assert response["Location"].startswith("/accounts/reauthenticate/")
        assert not mail.outbox

    def test_wants_the_right_password(self) -> None:
        client = browsing.signed_in_a_while_ago(browsing.customer()[1])
        browsing.say_it_is_still_me(client, "not the password")
        assert client.get("/accounts/2fa/totp/activate/").status_code == 302

    def test_is_not_asked_of_who_has_just_signed_in(self) -> None:
        client = Client()
        browsing.sign_in(client, browsing.customer()[1])
        assert client.get("/accounts/2fa/totp/activate/").status_code == 200

    @pytest.mark.parametrize(("seconds", "status"), [(290, 200), (301, 302)])
    def test_a_sign_in_is_proof_for_five_minutes(self, seconds: int, status: int) -> None:
        client = browsing.signed_in_a_while_ago(browsing.customer()[1], timedelta(seconds=seconds))
        assert client.get("/accounts/2fa/totp/activate/").status_code == status

    def test_a_fresh_sign_in_elsewhere_proves_nothing_here(self) -> None:
        _, email = browsing.customer()
        here = browsing.signed_in_a_while_ago(email)
        browsing.sign_in(Client(), email)
        assert here.get("/accounts/2fa/totp/activate/").status_code == 302


class TestTheAdmin:
    def test_is_open_to_staff_in_the_sandbox(self) -> None:
        assert people.superuser().get("/admin/").status_code == 200

    @override_settings(STAFF_NEED_SECOND_FACTOR=True)
    def test_sends_staff_without_a_second_factor_to_get_one(self) -> None:
        client = people.superuser()
        response = client.get("/admin/accounts/user/", follow=True)
        assert response.redirect_chain[-1][0] == "/accounts/2fa/"
        assert "needs a second factor" in response.content.decode()

    @override_settings(STAFF_NEED_SECOND_FACTOR=True)
    def test_lets_staff_in_who_have_one(self) -> None:
        user, _, _, codes = with_app()
        User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
        assert people.signed_in(User.objects.get(pk=user.pk)).get("/admin/").status_code == 200
        assert codes

    @override_settings(STAFF_NEED_SECOND_FACTOR=True)
    def test_recovery_codes_alone_are_none(self) -> None:
        user, _, _, _ = with_app()
        User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
        Authenticator.objects.filter(user=user, type=Authenticator.Type.TOTP).delete()
        assert people.signed_in(User.objects.get(pk=user.pk)).get("/admin/").status_code == 302

    def test_customers_stay_out(self) -> None:
        client = people.signed_in(browsing.customer()[0])
        assert client.get("/admin/", follow=True).status_code == 403
