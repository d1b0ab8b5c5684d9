"""Where a person is signed in, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from django.test import Client

from accounts.models import User
from tests import people
from tests.accounts import browsing
from tests.people import PASSWORD

pytestmark = pytest.mark.django_db
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def signed_in(email: str, **headers: Any) -> Client:
    client = Client(headers=headers)
    browsing.sign_in(client, email)
    return client


def begun(user: User, ago: timedelta) -> None:
    UserSession.objects.filter(user=user).update(created_at=datetime.now(UTC) - ago)


class TestTheList:
    def test_shows_where_the_person_is_signed_in(self) -> None:
        user, email = browsing.customer()
        here = signed_in(email)
        signed_in(email, user_agent=FIREFOX)

        content = here.get("/accounts/sessions/").content.decode()

        assert UserSession.objects.filter(user=user).count() == 2
        assert "Firefox on Linux" in content
        assert content.count("this browser") == 1

    def test_shows_nothing_of_others(self) -> None:
        signed_in(browsing.customer()[1], user_agent=FIREFOX)
        assert "Firefox" not in signed_in(browsing.customer()[1]).get("/accounts/sessions/").content.decode()

    def test_the_others_can_be_ended(self) -> None:
        _, email = browsing.customer()
        here, there = signed_in(email), signed_in(email)

        here.post("/accounts/sessions/")

        assert browsing.is_signed_in(here)
        assert not browsing.is_signed_in(there)

    def test_last_seen_is_written_once_a_minute(self) -> None:
        user, email = browsing.customer()
        client = signed_in(email)
        before = UserSession.objects.get(user=user).last_seen_at
        client.get("/settings/")
        assert UserSession.objects.get(user=user).last_seen_at == before
        UserSession.objects.filter(user=user).update(last_seen_at=before - timedelta(seconds=61))
        client.get("/settings/")
        assert UserSession.objects.get(user=user).last_seen_at >= before


class TestTheEnd:
    def test_comes_after_fourteen_days_however_much_it_is_used(self) -> None:
        user, email = browsing.customer()
        client = signed_in(email)
        begun(user, timedelta(days=13, hours=23))
        assert browsing.is_signed_in(client)
        begun(user, timedelta(days=14, seconds=1))
        assert not browsing.is_signed_in(client)
        assert not UserSession.objects.filter(user=user).exists()

    def test_comes_after_eight_hours_for_staff(self) -> None:
        user, email = browsing.customer()
        User.objects.filter(pk=user.pk).update(is_staff=True)
        client = signed_in(email)
        begun(user, timedelta(hours=7, minutes=59))
        assert browsing.is_signed_in(client)
        begun(user, timedelta(hours=8, seconds=1))
        assert not browsing.is_signed_in(client)

    def test_comes_with_a_new_password_everywhere(self) -> None:
        _, email = browsing.customer()
        here, there = signed_in(email), signed_in(email)
        fields = {"oldpassword": PASSWORD, "password1": "a new long one 123", "password2": "a new long one 123"}
        here.post("/accounts/password/change/", fields)
        assert not browsing.is_signed_in(here)
        assert not browsing.is_signed_in(there)

    def test_comes_when_its_row_is_taken_away(self) -> None:
        user, email = browsing.customer()
        client = signed_in(email)
        row = UserSession.objects.get(user=user)

        row.delete()  # By hand, and not by the action of the admin.

        assert not browsing.is_signed_in(client)
        assert not UserSession.objects.filter(user=user).exists()

    def test_the_session_key_changes_at_sign_in(self) -> None:
        client = Client()
        client.get("/accounts/login/")
        client.session["planted"] = True
        before = client.session.session_key
        browsing.sign_in(client, browsing.customer()[1])
        assert client.session.session_key not in (None, before)


@pytest.mark.parametrize("page", ["/settings/", "/accounts/email/", "/accounts/2fa/", "/accounts/sessions/"])
def test_no_cache_keeps_pages_about_a_person(page: str) -> None:
    client = people.signed_in(browsing.customer()[0])
    response = client.get(page)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]


class TestTheme:
    def test_is_remembered_and_rendered(self) -> None:
        client = people.signed_in(browsing.customer()[0])
        assert client.post("/settings/theme/", {"theme": "dark"})["Location"] == "/settings/"
        assert '<html lang="en" data-theme="dark">' in client.get("/settings/").content.decode()

    @pytest.mark.parametrize("choice", ["", '"><script>', "blue"])
    def test_anything_else_leaves_it_to_the_browser(self, choice: str) -> None:
        client = people.signed_in(browsing.customer()[0])
        client.post("/settings/theme/", {"theme": "dark"})
        client.post("/settings/theme/", {"theme": choice})
        assert "data-theme" not in client.get("/settings/").content.decode()

    def test_is_not_for_strangers_nor_links(self) -> None:
        assert Client().post("/settings/theme/", {"theme": "dark"})["Location"].startswith("/accounts/login/")
        assert people.signed_in(browsing.customer()[0]).get("/settings/theme/").status_code == 405
