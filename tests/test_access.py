"""Every address of the site, for everybody: strangers, customers of another account, each role, and staff.

The addresses come from the URLconf itself, so a page that is added must say who may see it, here or by `requires`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from pytest_django import DjangoAssertNumQueries

from accounts import access
from accounts.access import Permission
from accounts.models import Account, Invitation, Membership
from apikeys import keys
from billing import receipts
from billing.models import Payment
from tests import factories, people
from tests.billing import papers

pytestmark = pytest.mark.django_db
Role = Membership.Role


@dataclass(frozen=True)
class Address:
    """A named address, what it takes, and what it asks of the person."""

    name: str
    arguments: frozenset[str]
    view: Callable[..., HttpResponseBase]

    @property
    def permission(self) -> Permission | None:
        return getattr(self.view, "permission", None)

    def __str__(self) -> str:
        return self.name


def addresses(
    resolver: URLResolver | None = None, namespace: str = "", before: frozenset[str] = frozenset()
) -> Iterator[Address]:
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from addresses(entry, inner, before | _arguments(entry))
        elif isinstance(entry, URLPattern):
            if entry.name is None:
                # A redirect to what has a name, of allauth or of the admin; and the admin's own answer to all else.
                assert hasattr(entry.callback, "view_class") or entry.callback.__name__ == "catch_all_view"
                continue
            yield Address(f"{namespace}{entry.name}", before | _arguments(entry), entry.callback)


def _arguments(entry: URLPattern | URLResolver) -> frozenset[str]:
    return frozenset(entry.pattern.converters) | frozenset(entry.pattern.regex.groupindex)


EVERY = list(addresses())
OURS = [address for address in EVERY if address.permission]
ADMIN = [address for address in EVERY if address.name.startswith("admin:") and address.name != "admin:login"]
# What a stranger may see, or must be able to do.
PUBLIC = {
    "billing:stripe_webhook",
    "billing:home",
    "gateway:docs",
    "sandbox:mailbox",
    "admin:login",
    "accounts:invitation",
}
# What everybody may do who is signed in, whatever the account.
PERSONAL = {"accounts:settings", "accounts:theme", "accounts:switch"}
# allauth's pages for those who cannot sign in yet, or not quite.
ENTRANCE = {
    "account_login",
    "account_logout",
    "account_signup",
    "account_inactive",
    "account_reset_password",
    "account_reset_password_done",
    "account_reset_password_from_key",
    "account_reset_password_from_key_done",
    "account_confirm_email",
    "account_email_verification_sent",
    "mfa_authenticate",
    "mfa_login_webauthn",
    "mfa_trust",
    "socialaccount_login_cancelled",
    "socialaccount_login_error",
    "socialaccount_signup",
}
ALLAUTH = [
    address
    for address in EVERY
    if address.name.startswith(("account_", "mfa_", "socialaccount_", "usersessions_")) and address.name not in ENTRANCE
]


def ask(client: Client, address: Address, **arguments: Any) -> HttpResponseBase:
    """A GET, or a POST of an empty form where only that is allowed."""
    url = reverse(address.name, kwargs={name: arguments[name] for name in address.arguments})
    answer = client.get(url)
    return client.post(url) if answer.status_code == 405 else answer


def belongings(account: Account) -> dict[str, Any]:
    """Something of the account for everything that an address can name."""
    key = account.api_keys.earliest("id")
    member = Membership.objects.create(account=account, user=factories.user(), role=Role.MEMBER)
    invitation = Invitation.objects.create(
        account=account,
        email=f"{factories.unique('bob')}@example.test",
        role=Role.MEMBER,
        invited_by=member.user,
        digest=os.urandom(32),
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )
    return {
        "key_id": key.pk,
        "call_id": factories.recorded(account, 1).id,
        "number": receipts.issue(papers.paid(account), datetime.now(UTC)).number,
        "member_id": member.pk,
        "invitation_id": invitation.pk,
        "payment_id": Payment.objects.create(account=account, kind="topup", livemode=False, amount_cents=1000).pk,
    }


def member(account: Account, role: str) -> Client:
    """Who made the account's key, so that it is the member's own."""
    user = factories.user()
    Membership.objects.create(account=account, user=user, role=role)
    account.api_keys.update(created_by=user)
    return people.signed_in(user)


@pytest.fixture
def alices() -> Account:
    account = factories.account()
    factories.credit(account, 10**12)
    return account


def test_every_address_says_who_may_see_it() -> None:
    said = {address.name for address in [*OURS, *ADMIN, *ALLAUTH]} | PUBLIC | PERSONAL | ENTRANCE

    assert [address.name for address in EVERY if address.name not in said] == []


@pytest.mark.parametrize("address", [*OURS, *ALLAUTH], ids=str)
def test_who_is_not_signed_in_is_sent_to_sign_in(address: Address, alices: Account) -> None:
    named = belongings(alices)
    answer = ask(Client(), address, **{name: named.get(name, 1) for name in address.arguments})

    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("role", Role.values)
@pytest.mark.parametrize("address", OURS, ids=str)
def test_a_role_may_do_what_it_may_and_nothing_else(address: Address, role: str, alices: Account) -> None:
    answer = ask(member(alices, role), address, **belongings(alices))

    assert address.permission is not None
    assert (answer.status_code == 403) is (address.permission not in access.ROLES[role])
    assert answer.status_code in (200, 302, 400, 403)


@pytest.mark.parametrize("address", [address for address in OURS if address.arguments], ids=str)
def test_what_belongs_to_another_account_does_not_exist(address: Address, alices: Account) -> None:
    charlie = member(factories.account(), Role.OWNER)

    assert ask(charlie, address, **belongings(alices)).status_code == 404


@pytest.mark.parametrize("address", OURS, ids=str)
def test_a_page_needs_at_most_twelve_queries(
    address: Address, alices: Account, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    owner = member(alices, Role.OWNER)
    for number in range(30):
        named = belongings(alices)
        keys.create(account=alices, name=f"key {number}", now=datetime.now(UTC))

    url = reverse(address.name, kwargs={name: named[name] for name in address.arguments})
    with django_assert_max_num_queries(12):
        owner.get(url)


@pytest.mark.parametrize("address", ADMIN, ids=str)
def test_the_admin_is_closed_to_customers(address: Address, alices: Account) -> None:
    arguments = {"object_id": 1, "app_label": "accounts", "content_type_id": 1, "url": "nowhere", "id": 1, "pk": 1}
    arguments["payment_id"] = uuid4()
    answer = ask(member(alices, Role.OWNER), address, **arguments)

    assert answer.status_code in (302, 403)
