"""The three people of the tests: alice owns an account, charlie owns another, staff has the admin."""

from __future__ import annotations

from django.test import Client

from accounts import registration
from accounts.models import Account, Membership, User
from tests import factories

PASSWORD = "correct horse battery staple"


def customer(name: str, *, password: str | None = None) -> tuple[Account, str]:
    """An account, and the e-mail address of its owner."""
    email = f"{factories.unique(name)}@example.test"
    return registration.create_account(email=email, password=password, name=name), email


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def owner_of(account: Account) -> Client:
    return signed_in(account.users.filter(memberships__role="owner", memberships__account=account).order_by("pk")[0])


def member_of(account: Account, role: str, *, password: str | None = None) -> User:
    user = User.objects.create_user(f"{factories.unique(role)}@example.test", password)
    Membership.objects.create(account=account, user=user, role=role)
    return user


def superuser() -> Client:
    return signed_in(User.objects.create_superuser(f"{factories.unique('staff')}@example.test"))
