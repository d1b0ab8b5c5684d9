"""What a person does in a browser to sign up and in, in the words of the tests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from allauth.usersessions.models import UserSession
from django.core import mail
from django.test import Client

from accounts import registration
from accounts.models import User
from tests import factories
from tests.people import PASSWORD, signed_in


def address(name: str = "alice") -> str:
    return f"{factories.unique(name)}@example.test"


def sign_up(client: Client, email: str, password: str = PASSWORD) -> Any:
    return client.post("/accounts/signup/", {"email": email, "password1": password})


def sign_in(client: Client, email: str, password: str = PASSWORD, **fields: str) -> Any:
    return client.post("/accounts/login/", {"login": email, "password": password, **fields})


def confirm(client: Client, code: str) -> Any:
    return client.post("/accounts/confirm-email/", {"code": code})


def code_in(message: mail.EmailMessage) -> str:
    found = re.search(r"^[A-Z]{4}-[A-Z]{4}$", str(message.body), re.MULTILINE)
    assert found is not None, message.body
    return found[0]


def link_in(message: mail.EmailMessage) -> str:
    found = re.search(r"^http://testserver(/\S+)$", str(message.body), re.MULTILINE)
    assert found is not None, message.body
    return found[1]


def confirmed(client: Client, email: str) -> User:
    """Signed up, confirmed, and so signed in."""
    sign_up(client, email)
    confirm(client, code_in(mail.outbox[-1]))
    return User.objects.get(email=email)


def customer() -> tuple[User, str]:
    """Somebody with a confirmed address and a password, signed in nowhere."""
    email = address()
    return registration.create_account(email=email, password=PASSWORD).users.get(), email


def is_signed_in(client: Client) -> bool:
    return bool(client.get("/settings/").status_code == 200)


def signed_in_a_while_ago(email: str, ago: timedelta = timedelta(minutes=6)) -> Client:
    """Signed in so long ago that this alone no longer proves who it is."""
    client = Client()
    sign_in(client, email)
    began = datetime.now(UTC) - ago
    UserSession.objects.filter(session_key=client.session.session_key).update(created_at=began)
    return client


def with_password(user: User) -> Client:
    """Signed in an hour ago, and asked for the password where it is asked whether it is still the same person."""
    user.set_password(PASSWORD)
    user.save()
    return signed_in(user)


def go_on(client: Client, asked: Any) -> Any:
    """Answer a page that asks whether it is still the same person, and follow where that leads."""
    return client.post(asked["Location"], {"password": PASSWORD}, follow=True)


def say_it_is_still_me(client: Client, password: str = PASSWORD) -> Any:
    return client.post("/accounts/reauthenticate/", {"password": password})


@contextmanager
def later(by: timedelta) -> Iterator[None]:
    """allauth reads the wall clock; nothing here waits for it."""
    moment = time.time() + by.total_seconds()
    with mock.patch("time.time", return_value=moment):
        yield
