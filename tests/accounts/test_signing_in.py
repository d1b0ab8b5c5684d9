"""Sign-in, sign-out and the forgotten password: who gets in, where they land, and what a stranger can learn."""

from __future__ import annotations

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client, override_settings

from accounts.models import User
from tests import people
from tests.accounts import browsing
from tests.people import PASSWORD

pytestmark = pytest.mark.django_db
NEW = "a new long one 123"


def reset(client: Client, link: str, password: str = NEW) -> None:
    form = client.get(link)["Location"]
    client.post(form, {"password1": password, "password2": password})


def ask_for_link(email: str) -> str:
    Client().post("/accounts/password/reset/", {"email": email})
    return browsing.link_in(mail.outbox[-1])


class TestSignIn:
    def test_a_wrong_password_and_an_unknown_address_look_the_same(self) -> None:
        _, email = browsing.customer()
        sentence = "not correct"
        assert sentence in browsing.sign_in(Client(), email, "not the password").content.decode()
        assert sentence in browsing.sign_in(Client(), browsing.address(), PASSWORD).content.decode()

    def test_who_is_not_active_stays_out(self) -> None:
        user, email = browsing.customer()
        client = Client()
        browsing.sign_in(client, email)
        User.objects.filter(pk=user.pk).update(is_active=False)

        assert not browsing.is_signed_in(client)
        assert browsing.sign_in(Client(), email)["Location"] == "/accounts/inactive/"
        assert "You cannot sign in" in Client().get("/accounts/inactive/").content.decode()

    def test_five_wrong_passwords_close_the_door_for_this_person(self) -> None:
        _, email = browsing.customer()
        for _ in range(5):
            browsing.sign_in(Client(), email, "not the password")
        client = Client()
        assert "Too many failed login attempts" in browsing.sign_in(client, email).content.decode()
        assert not browsing.is_signed_in(client)
        with browsing.later(timedelta(minutes=5, seconds=1)):
            browsing.sign_in(client, email)
            assert browsing.is_signed_in(client)

    @pytest.mark.parametrize("there", ["/keys/", "/settings/?a=b"])
    def test_one_lands_where_one_wanted_to_go(self, there: str) -> None:
        _, email = browsing.customer()
        assert browsing.sign_in(Client(), email, next=there)["Location"] == there

    @pytest.mark.parametrize(
        "elsewhere",
        [
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            "https:evil.example",
            "///evil.example",
        ],
    )
    def test_one_never_lands_on_another_site(self, elsewhere: str) -> None:
        _, email = browsing.customer()
        client = Client()
        assert browsing.sign_in(client, email, next=elsewhere)["Location"] == "/"
        assert "evil" not in client.post("/accounts/logout/", {"next": elsewhere})["Location"]

    def test_without_the_tick_it_ends_with_the_browser(self) -> None:
        _, email = browsing.customer()
        short, long = Client(), Client()
        browsing.sign_in(short, email)
        browsing.sign_in(long, email, remember="on")
        assert short.cookies["sessionid"]["max-age"] == ""
        assert long.cookies["sessionid"]["max-age"] == 14 * 24 * 3600


class TestSignOut:
    def test_a_link_only_asks(self) -> None:
        client = people.signed_in(browsing.customer()[0])
        assert "Sign out?" in client.get("/accounts/logout/").content.decode()
        assert browsing.is_signed_in(client)

    def test_the_button_does_it(self) -> None:
        client = people.signed_in(browsing.customer()[0])
        client.post("/accounts/logout/")
        assert not browsing.is_signed_in(client)

    def test_another_site_cannot_do_it(self) -> None:
        client = people.signed_in(browsing.customer()[0], enforce_csrf_checks=True)
        assert client.post("/accounts/logout/").status_code == 403
        assert browsing.is_signed_in(client)


class TestForgottenPassword:
    def test_the_link_sets_a_new_one_and_ends_every_session(self) -> None:
        user, email = browsing.customer()
        elsewhere = Client()
        browsing.sign_in(elsewhere, email)

        client = Client()
        reset(client, ask_for_link(email))

        user.refresh_from_db()
        assert user.check_password(NEW)
        assert not browsing.is_signed_in(elsewhere)
        assert not browsing.is_signed_in(client)
        assert mail.outbox[-1].subject == "[Flint] Your password was changed"

    def test_the_link_works_once(self) -> None:
        _, email = browsing.customer()
        link = ask_for_link(email)
        reset(Client(), link)
        assert "This link is used up" in Client().get(link).content.decode()

    def test_the_link_works_for_an_hour(self) -> None:
        _, email = browsing.customer()
        link = ask_for_link(email)
        with override_settings(PASSWORD_RESET_TIMEOUT=-1):
            assert "This link is used up" in Client().get(link).content.decode()
        assert Client().get(link).status_code == 302

    def test_an_unknown_address_looks_the_same_and_only_the_mail_tells(self) -> None:
        _, known = browsing.customer()
        pages = []
        for email in (known, browsing.address()):
            response = Client().post("/accounts/password/reset/", {"email": email}, follow=True)
            pages.append(response.content)
        assert pages[0] == pages[1]
        assert "no account has this address" in str(mail.outbox[-1].body)

    def test_it_does_not_confirm_an_address_by_the_way(self) -> None:
        email = browsing.address()
        browsing.sign_up(Client(), email)
        reset(Client(), ask_for_link(email))
        assert not EmailAddress.objects.get(email=email).verified

    def test_nobody_who_is_not_active_gets_a_link(self) -> None:
        user, email = browsing.customer()
        User.objects.filter(pk=user.pk).update(is_active=False)
        Client().post("/accounts/password/reset/", {"email": email})
        assert "no account" in str(mail.outbox[-1].body)

    def test_too_many_are_refused(self) -> None:
        _, email = browsing.customer()
        answers = [Client().post("/accounts/password/reset/", {"email": email}).status_code for _ in range(6)]
        assert answers == [302] * 5 + [429]


class TestANewAddress:
    def test_replaces_the_old_once_it_is_confirmed_and_the_old_is_told(self) -> None:
        user, old = browsing.customer()
        new = browsing.address("new")
        client = Client()
        browsing.sign_in(client, old)
        browsing.say_it_is_still_me(client)

        client.post("/accounts/email/", {"action_add": "1", "email": new})
        user.refresh_from_db()
        assert user.email == old
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))

        user.refresh_from_db()
        assert user.email == new
        assert [address.email for address in EmailAddress.objects.filter(user=user)] == [new]
        assert mail.outbox[-1].to == [old]
        assert "was changed from" in str(mail.outbox[-1].body)

    def test_changed_by_an_operator_the_old_one_is_dead_and_the_new_one_is_to_be_confirmed(self) -> None:
        user, old = browsing.customer()
        new = browsing.address("new")
        staff = people.superuser()
        form = {"email": new, "is_active": "on", "first_name": "", "last_name": ""}

        assert staff.post(f"/admin/accounts/user/{user.pk}/change/", form).status_code == 302

        client = Client()
        browsing.sign_in(client, old)
        assert not browsing.is_signed_in(client)
        browsing.sign_in(client, new)
        assert not browsing.is_signed_in(client)
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
        assert browsing.is_signed_in(client)
