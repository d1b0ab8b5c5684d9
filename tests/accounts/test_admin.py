from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from accounts.models import Account, Tier, User
from tests import factories, people

pytestmark = pytest.mark.django_db

ACCOUNTS = "admin:accounts_account_changelist"


def act(action: str, account: Account) -> None:
    response = people.superuser().post(reverse(ACCOUNTS), {"action": action, "_selected_action": [account.pk]})
    assert response.status_code == 302


def test_an_account_is_disabled_and_enabled() -> None:
    account, _ = people.customer("alice")

    act("disable", account)
    account.refresh_from_db()
    assert account.disabled_at is not None

    act("enable", account)
    account.refresh_from_db()
    assert account.disabled_at is None


def test_disabling_again_keeps_the_first_moment() -> None:
    account, _ = people.customer("alice")
    act("disable", account)
    account.refresh_from_db()
    first = account.disabled_at

    act("disable", account)

    account.refresh_from_db()
    assert account.disabled_at == first


def test_who_disabled_is_in_the_history() -> None:
    account, _ = people.customer("alice")
    act("disable", account)

    history = people.superuser().get(reverse("admin:accounts_account_history", args=[account.pk]))

    assert b"Disabled." in history.content


def test_an_account_is_found_by_the_address_of_a_member() -> None:
    account, email = people.customer("alice")
    people.customer("charlie")

    found = people.superuser().get(reverse(ACCOUNTS), {"q": email}).context["cl"].result_list

    assert list(found) == [account]


def test_a_user_is_made_by_e_mail_address() -> None:
    email = f"{factories.unique('new')}@example.test"
    given = {"email": email, "usable_password": "true", "password1": people.PASSWORD, "password2": people.PASSWORD}

    people.superuser().post(reverse("admin:accounts_user_add"), given)

    assert User.objects.get(email=email).check_password(people.PASSWORD)


def test_a_taken_address_is_told_not_raised() -> None:
    _, email = people.customer("alice")
    given = {
        "email": email.upper(), "usable_password": "true",
        "password1": people.PASSWORD, "password2": people.PASSWORD,
    }  # fmt: skip

    response = people.superuser().post(reverse("admin:accounts_user_add"), given)

    assert b"There is already a user with this e-mail address." in response.content


def test_the_tier_of_an_account_is_changed() -> None:
    account, _ = people.customer("alice")
    enterprise = Tier.objects.get(name="Enterprise")
    given = {
        "name": "Acme", "tier": enterprise.pk,
        "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0,
    }  # fmt: skip

    people.superuser().post(reverse("admin:accounts_account_change", args=[account.pk]), given)

    account.refresh_from_db()
    assert (account.name, account.tier) == ("Acme", enterprise)


def test_staff_who_may_change_users_cannot_make_themselves_superuser() -> None:
    staff = factories.user()
    staff.is_staff = True
    staff.save()
    staff.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts"))
    url = reverse("admin:accounts_user_change", args=[staff.pk])

    response = people.signed_in(staff).post(url, {"email": staff.email, "is_active": "on", "is_superuser": "on"})

    assert response.status_code == 302
    staff.refresh_from_db()
    assert not staff.is_superuser
    assert staff.is_staff
