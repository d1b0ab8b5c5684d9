"""What people do to their own sign-in is in the trail, by the hooks through which allauth passes."""

from __future__ import annotations

import pytest
from django.test import Client

from accounts.models import AuditEvent, User
from tests import people
from tests.accounts import browsing

pytestmark = pytest.mark.django_db


def trail(email: str) -> list[tuple[str, str]]:
    """What was done by a person or about their address."""
    events = AuditEvent.objects.filter(actor__email=email) | AuditEvent.objects.filter(object=email)
    return list(events.filter(action__startswith="person.").order_by("id").values_list("action", "object"))


def test_a_sign_in_is_kept_with_its_address() -> None:
    _, email = people.customer("alice", password=people.PASSWORD)

    browsing.sign_in(Client(), email)

    event = AuditEvent.objects.get(action="person.signed_in", actor__email=email)
    assert (event.ip, event.account) == ("127.0.0.1", None)


def test_a_wrong_password_is_kept_without_saying_who_it_was() -> None:
    _, email = people.customer("alice", password=people.PASSWORD)

    Client().post("/accounts/login/", {"login": email, "password": "a wrong password"})

    event = AuditEvent.objects.get(action="person.sign_in_failed", object=email)
    assert event.actor is None


def test_of_an_address_that_nobody_has_only_the_attempt_is_kept() -> None:
    Client().post("/accounts/login/", {"login": "nobody@example.test", "password": "a wrong password"})

    assert AuditEvent.objects.get(action="person.sign_in_failed").object == "an address that nobody has"


def test_a_change_of_the_password_is_kept() -> None:
    _, email = people.customer("alice", password=people.PASSWORD)
    alice = Client()
    browsing.sign_in(alice, email)
    new = "another horse battery staple"

    alice.post("/accounts/password/change/", {"oldpassword": people.PASSWORD, "password1": new, "password2": new})

    assert User.objects.get(email=email).check_password(new)
    assert ("person.sign_in_changed", "password changed") in trail(email)


def test_no_secret_is_kept() -> None:
    _, email = people.customer("alice", password=people.PASSWORD)

    Client().post("/accounts/login/", {"login": email, "password": "tell nobody this word"})

    kept = "".join(f"{event.object}{event.details}" for event in AuditEvent.objects.all())
    assert "tell nobody" not in kept
