"""What staff may do to the sign-ins of customers, and may not do to those of other staff."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, User
from tests import factories, people
from tests.accounts import browsing

pytestmark = pytest.mark.django_db

SESSIONS = "admin:usersessions_usersession_changelist"
FACTORS = "admin:mfa_authenticator_changelist"


def support() -> Client:
    """Staff with every right that is not a superuser's."""
    user = User.objects.create_user(f"{factories.unique('support')}@example.test", is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    return people.signed_in(user)


def boss() -> User:
    return User.objects.create_superuser(f"{factories.unique('boss')}@example.test", "the password of a boss")


def act(staff: Client, page: str, action: str, row: Any) -> str:
    given = {"action": action, "_selected_action": [row.pk]}
    return str(staff.post(reverse(page), given, follow=True).content.decode())


def app_of(user: User) -> Authenticator:
    return Authenticator.objects.create(user=user, type="totp", data={"secret": "x"})


def test_a_session_that_is_ended_is_over_and_it_is_written_down() -> None:
    user, email = browsing.customer()
    client = people.signed_in(user)

    act(support(), SESSIONS, "end", UserSession.objects.get(user=user))

    assert not browsing.is_signed_in(client)
    assert AuditEvent.objects.filter(action="person.session_ended", object=email).exists()


def test_a_session_is_found_by_the_address_of_the_person() -> None:
    user, email = browsing.customer()
    people.signed_in(user)

    found = support().get(reverse(SESSIONS), {"q": email}).context["cl"].result_list

    assert [session.user for session in found] == [user]


def test_a_lost_app_is_removed_and_it_is_written_down() -> None:
    user, email = browsing.customer()

    act(support(), FACTORS, "remove", app_of(user))

    assert not Authenticator.objects.filter(user=user).exists()
    assert AuditEvent.objects.filter(action="person.factor_removed", object__endswith=email).exists()


@pytest.mark.parametrize(("page", "action"), [(SESSIONS, "end"), (FACTORS, "remove")])
def test_staff_who_may_only_look_are_offered_nothing(page: str, action: str) -> None:
    user, _ = browsing.customer()
    people.signed_in(user)
    app_of(user)
    looker = User.objects.create_user(f"{factories.unique('auditor')}@example.test", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))

    shown = people.signed_in(looker).get(reverse(page)).content.decode()

    assert f'value="{action}"' not in shown


def test_what_signs_a_superuser_in_is_not_for_other_staff() -> None:
    user = boss()
    client = people.signed_in(user)
    staff = support()

    told = act(staff, SESSIONS, "end", UserSession.objects.get(user=user))
    act(staff, FACTORS, "remove", app_of(user))

    assert "only a superuser may touch them" in told
    assert browsing.is_signed_in(client)
    assert Authenticator.objects.filter(user=user).exists()


def test_a_superusers_address_and_password_are_not_for_other_staff() -> None:
    user, staff = boss(), support()
    change = reverse("admin:accounts_user_change", args=[user.pk])
    password = reverse("admin:auth_user_password_change", args=[user.pk])
    given = {"password1": people.PASSWORD, "password2": people.PASSWORD, "usable_password": "true"}

    assert staff.post(change, {"email": "thief@example.test", "is_active": "on"}).status_code == 403
    assert staff.post(password, given).status_code == 403
    assert User.objects.get(pk=user.pk).check_password("the password of a boss")


def test_a_superuser_may_touch_staff() -> None:
    user = boss()

    act(people.superuser(), FACTORS, "remove", app_of(user))

    assert not Authenticator.objects.filter(user=user).exists()


def test_groups_are_for_superusers() -> None:
    group = Group.objects.create(name=factories.unique("support"))
    change = reverse("admin:auth_group_change", args=[group.pk])

    assert support().post(change, {"name": "mine"}).status_code == 403
    assert people.superuser().post(change, {"name": group.name}).status_code == 302


def test_an_address_cannot_be_confirmed_here() -> None:
    user, _ = browsing.customer()
    address = EmailAddress.objects.get(user=user)
    change = reverse("admin:account_emailaddress_change", args=[address.pk])

    assert people.superuser().post(change, {"verified": "on"}).status_code == 403
    assert (
        "make_verified" not in people.superuser().get(reverse("admin:account_emailaddress_changelist")).content.decode()
    )
