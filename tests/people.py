"""The three people of the tests: alice owns an account, charlie owns another, staff has the admin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from allauth.usersessions.models import UserSession
from django.test import Client

from accounts import registration
from accounts.models import Account, Membership, User
from tests import factories

PASSWORD = "correct horse battery staple"


def customer(name: str, *, password: str | None = None) -> tuple[Account, str]:
    """An account, and the e-mail address of its owner."""
    email = f"{factories.unique(name)}@example.test"
    return registration.create_account(email=email, password=password, name=name), email


def signed_in(user: User, **options: Any) -> Client:
    """A client as an hour after a sign-in, without the quarter of a second that a password takes.

    An hour, so that a page which asks whether it is still the same person asks.
    """
    client = Client(**options)
    client.force_login(user)
    began = datetime.now(UTC) - timedelta(hours=1)
    UserSession.objects.create(user=user, session_key=client.session.session_key, ip="127.0.0.1", created_at=began)
    return client


def owner_of(account: Account) -> Client:
    return signed_in(account.users.filter(memberships__role="owner", memberships__account=account).order_by("pk")[0])


def member_of(account: Account, role: str, *, password: str | None = None) -> User:
    user = User.objects.create_user(f"{factories.unique(role)}@example.test", password)
    Membership.objects.create(account=account, user=user, role=role)
    return user


def superuser() -> Client:
    return signed_in(User.objects.create_superuser(f"{factories.unique('staff')}@example.test"))
