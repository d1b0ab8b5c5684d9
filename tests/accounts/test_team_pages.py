from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import invitations
from accounts.models import Account, Invitation, Membership, User
from tests import factories, people
from tests.accounts.test_invitations import guest, token_for
from tests.accounts.test_team import joined, owner, roles

pytestmark = pytest.mark.django_db

EVIL = """'"><img src=x onerror=alert(1)>{{7*7}}"""
ROLES = ("owner", "admin", "member", "billing")


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


def post(client: Client, view: str, *args: Any, **fields: Any) -> Any:
    return client.post(reverse(f"accounts:{view}", args=args), fields, follow=True)


def page(client: Client, view: str = "team", *args: Any) -> str:
    response = client.get(reverse(f"accounts:{view}", args=args))
    assert response.status_code == 200
    return response.content.decode()


def invited(account: Account, email: str = "bob@example.test", role: str = "member") -> Invitation:
    return invitations.invite(email=email, role=role, now=datetime.now(UTC), by=owner(account))


def by(account: Account, role: str) -> Client:
    return people.signed_in(people.member_of(account, role))


class TestTeam:
    def test_lists_people_and_open_invitations(self, account: Account) -> None:
        carol = people.member_of(account, "billing")
        invited(account)
        content = page(people.owner_of(account))
        assert [text in content for text in (carol.email, "bob@example.test", "open until")] == [True] * 3

    @pytest.mark.parametrize("role", ["member", "billing"])
    def test_who_may_not_change_it_only_sees_who_belongs(self, account: Account, role: str) -> None:
        invited(account)
        content = page(by(account, role))
        assert account.users.order_by("pk")[0].email in content
        assert not [text for text in ("bob@example.test", "<select", "Remove", "Invite", "Rename") if text in content]

    def test_an_admin_is_offered_nothing_about_owners(self, account: Account) -> None:
        content = page(by(account, "admin"))
        assert reverse("accounts:role", args=[owner(account).pk]) not in content
        assert 'value="owner"' not in content

    def test_needs_few_queries_whatever_there_is(self, account: Account) -> None:
        for number in range(20):
            people.member_of(account, "member")
            invited(account, f"guest{number}@example.test")
        alice = people.owner_of(account)
        with CaptureQueriesContext(connection) as done:
            page(alice)
        assert len(done) <= 8

    def test_changes_roles(self, account: Account) -> None:
        bob = joined(account, "member")
        response = post(people.owner_of(account), "role", bob.pk, role="admin", user=1, account=1)
        assert f"{bob.user} is now admin." in response.content.decode()
        bob.refresh_from_db()
        assert (bob.role, bob.account, bob.user) == ("admin", account, bob.user)

    @pytest.mark.parametrize("role", ["", "king", "OWNER"])
    def test_other_roles_do_not_exist(self, account: Account, role: str) -> None:
        bob = joined(account, "member")
        post(people.owner_of(account), "role", bob.pk, role=role)
        bob.refresh_from_db()
        assert bob.role == "member"

    def test_an_admin_who_forges_the_form_makes_no_owner(self, account: Account) -> None:
        bob, admin = joined(account, "member"), by(account, "admin")
        post(admin, "role", bob.pk, role="owner")
        assert post(admin, "role", owner(account).pk, role="member").status_code == 403
        assert post(admin, "remove", owner(account).pk).status_code == 403
        post(admin, "invite", email="eve@example.test", role="owner")
        assert roles(account) == ["admin", "member", "owner"]
        assert not account.invitations.exists()

    def test_removing_asks_first_and_shuts_out_with_the_next_click(self, account: Account) -> None:
        bob = joined(account, "admin")
        client, alice = people.signed_in(bob.user), people.owner_of(account)
        page(client)

        assert "The keys that they created stay" in page(alice, "remove", bob.pk)
        post(alice, "remove", bob.pk)

        assert client.get("/team/").status_code == 403
        assert "You belong to no account" in client.get("/team/").content.decode()

    def test_the_last_owner_is_told_why_they_must_stay(self, account: Account) -> None:
        alice = people.owner_of(account)
        for response in (post(alice, "leave"), post(alice, "role", owner(account).pk, role="admin")):
            assert "An account needs an owner" in response.content.decode()

    @pytest.mark.parametrize("role", ["admin", "member", "billing"])
    def test_everybody_else_may_leave(self, account: Account, role: str) -> None:
        client = by(account, role)
        page(client, "leave")
        assert account.memberships.count() == 2
        post(client, "leave")
        assert roles(account) == ["owner"]

    def test_renames_the_account(self, account: Account) -> None:
        response = post(people.owner_of(account), "rename", name="ACME", tier=2, disabled_at="2030-01-01")
        assert "The account is now called ACME." in response.content.decode()
        account.refresh_from_db()
        assert (account.name, account.tier.name, account.disabled_at) == ("ACME", "Standard", None)


class TestInvite:
    def test_sends_a_mail_and_says_so(self, account: Account) -> None:
        response = post(people.owner_of(account), "invite", email="bob@example.test", role="admin")
        assert "bob@example.test is invited." in response.content.decode()
        assert token_for("bob@example.test")

    @pytest.mark.parametrize("fields", [{"email": "bob"}, {"role": "king"}, {"email": ""}], ids=repr)
    def test_a_bad_form_sends_nothing_and_says_why(self, account: Account, fields: dict[str, str]) -> None:
        asked = {"email": "bob@example.test", "role": "member", **fields}
        assert "errorlist" in post(people.owner_of(account), "invite", **asked).content.decode()
        assert mail.outbox == []

    def test_a_member_is_told_to_be_one(self, account: Account) -> None:
        bob = people.member_of(account, "member")
        response = post(people.owner_of(account), "invite", email=bob.email, role="admin")
        assert f"{bob.email} belongs to alice already." in response.content.decode()

    def test_only_address_and_role_are_taken_from_the_form(self, account: Account) -> None:
        fields = {"account": factories.account().pk, "digest": "x", "invited_by": 1, "expires_at": "2099-01-01"}
        post(people.owner_of(account), "invite", email="bob@example.test", role="member", **fields)
        made = Invitation.objects.get(email="bob@example.test")
        assert (made.account, made.invited_by) == (account, owner(account).user)
        assert made.expires_at < datetime.now(UTC) + timedelta(days=7, minutes=1)

    def test_again_and_withdraw(self, account: Account) -> None:
        invitation, alice = invited(account), people.owner_of(account)
        first = token_for("bob@example.test")
        post(alice, "send_again", invitation.pk)
        assert token_for("bob@example.test") != first
        post(alice, "withdraw", invitation.pk)
        assert not account.invitations.exists()


class TestAccept:
    def test_a_stranger_is_told_where_to_go_and_comes_back(self, account: Account) -> None:
        invited(account)
        address = f"/invitations/{token_for('bob@example.test')}/"

        content = Client().get(address).content.decode()

        assert "bob@example.test" in content
        assert f"/accounts/login/?next={address.replace('/', '%2F')}" in content
        assert f"/accounts/signup/?next={address.replace('/', '%2F')}" in content
        assert Client().post(address)["Location"].startswith("/accounts/login/?next=/invitations/")
        assert account.memberships.count() == 1

    def test_signing_in_leads_back_and_accepting_leads_to_the_account(self, account: Account) -> None:
        _, email = people.customer("bob", password=people.PASSWORD)
        EmailAddress.objects.update_or_create(
            user=User.objects.get(email=email), email=email, defaults={"verified": True, "primary": True}
        )
        invited(account, email, "admin")
        address, client = f"/invitations/{token_for(email)}/", Client()

        answer = client.post(
            "/accounts/login/", {"login": email, "password": people.PASSWORD, "next": address}, follow=True
        )
        assert answer.redirect_chain[-1][0] == address
        answer = client.post(address, follow=True)

        assert "Welcome to alice. You are admin." in answer.content.decode()
        assert answer.context["membership"].account == account
        gone = client.post(address)
        assert (gone.status_code, "does not work any more" in gone.content.decode()) == (404, True)

    @pytest.mark.parametrize("verified", [True, False])
    def test_another_person_is_told_what_to_do(self, account: Account, verified: bool) -> None:
        invited(account)
        user = guest(verified=verified)
        if not verified:
            EmailAddress.objects.filter(user=user).update(email="bob@example.test")
        client = people.signed_in(user)
        address = f"/invitations/{token_for('bob@example.test')}/"

        answer = client.post(address, follow=True)

        assert "is not a confirmed address of yours" in answer.content.decode()
        assert not Membership.objects.filter(user=user).exists()

    @pytest.mark.parametrize("token", ["x", "x" * 500, "..", "%00"])
    def test_a_made_up_link_is_gone(self, token: str) -> None:
        assert Client().get(f"/invitations/{token}/").status_code == 404

    def test_looking_does_not_accept(self, account: Account) -> None:
        bob = guest()
        invited(account, bob.email)
        assert "Accept" in people.signed_in(bob).get(f"/invitations/{token_for(bob.email)}/").content.decode()
        assert not Membership.objects.filter(user=bob).exists()


class TestSwitch:
    def test_leads_to_the_chosen_account_and_stays_there(self, account: Account) -> None:
        other, _ = people.customer("other")
        user = account.users.get()
        Membership.objects.create(account=other, user=user, role="member")
        client = people.signed_in(user)
        assert "<h1>Team of alice</h1>" in page(client)

        post(client, "switch", account=other.pk)

        assert "<h1>Team of other</h1>" in page(client)
        assert client.get("/activity/").status_code == 403  # There, this person is only a member.

    @pytest.mark.parametrize("which", ["another", "unknown", "", "x", "-1", "9" * 30])
    def test_of_an_account_that_is_not_theirs_is_404(self, account: Account, which: str) -> None:
        chosen = {"another": str(people.customer("charlie")[0].pk), "unknown": "123456789"}.get(which, which)
        client = people.owner_of(account)
        assert post(client, "switch", account=chosen).status_code == 404
        assert "<h1>Team of alice</h1>" in page(client)

    def test_is_offered_to_those_who_have_a_choice(self, account: Account) -> None:
        client = people.owner_of(account)
        assert "/switch/" not in page(client)
        Membership.objects.create(account=people.customer("other")[0], user=account.users.get(), role="member")
        with CaptureQueriesContext(connection) as done:
            assert page(client).count('action="/switch/"') == 2  # In the menu of phones, too.
        assert len(done) <= 8

    def test_who_was_removed_from_the_chosen_account_is_back_in_their_own(self, account: Account) -> None:
        other, _ = people.customer("other")
        membership = Membership.objects.create(account=other, user=account.users.get(), role="admin")
        client = people.owner_of(account)
        post(client, "switch", account=other.pk)
        membership.delete()
        assert "<h1>Team of alice</h1>" in page(client)


MANAGE = ["role", "remove", "send_again", "withdraw", "invite", "rename"]


def send(client: Client, view: str, member: int, invitation: int) -> Any:
    args = {"role": [member], "remove": [member], "send_again": [invitation], "withdraw": [invitation]}.get(view, [])
    fields = {"role": "billing", "email": "eve@example.test", "name": "EVE"}
    return client.post(reverse(f"accounts:{view}", args=args), fields)


class TestRoles:
    @pytest.mark.parametrize("view", MANAGE)
    @pytest.mark.parametrize("role", ROLES)
    def test_the_team_is_changed_by_owners_and_admins(self, account: Account, view: str, role: str) -> None:
        bob, invitation = joined(account, "member"), invited(account)
        client = by(account, role)
        before = state(account)

        answer = send(client, view, bob.pk, invitation.pk)

        if role in ("owner", "admin"):
            assert (answer.status_code, state(account) != before) == (302, True)
        else:
            assert (answer.status_code, state(account)) == (403, before)

    @pytest.mark.parametrize("view", ["role", "remove", "send_again", "withdraw"])
    def test_what_belongs_to_another_account_is_found_no_more_than_what_does_not_exist(
        self, account: Account, view: str
    ) -> None:
        bob, invitation = joined(account, "member"), invited(account)
        before = state(account)
        charlie = people.owner_of(people.customer("charlie")[0])

        theirs, nobodys = send(charlie, view, bob.pk, invitation.pk), send(charlie, view, 10**9, 10**9)

        assert (theirs.status_code, nobodys.status_code) == (404, 404)
        assert without_token(theirs) == without_token(nobodys)
        assert state(account) == before

    @pytest.mark.parametrize("view", MANAGE)
    def test_strangers_sign_in_first(self, account: Account, view: str) -> None:
        bob, invitation = joined(account, "member"), invited(account)
        before = state(account)
        assert send(Client(), view, bob.pk, invitation.pk)["Location"].startswith("/accounts/login/?next=/team/")
        assert state(account) == before

    @pytest.mark.parametrize("view", [*MANAGE, "leave"])
    def test_a_form_from_elsewhere_is_refused_and_looking_changes_nothing(self, account: Account, view: str) -> None:
        bob, invitation = joined(account, "member"), invited(account)
        people.member_of(account, "owner")
        before = state(account)
        client = people.signed_in(owner_user(account), enforce_csrf_checks=True)

        assert send(client, view, bob.pk, invitation.pk).status_code == 403
        args = {"role": [bob.pk], "remove": [bob.pk], "send_again": [invitation.pk], "withdraw": [invitation.pk]}
        looked = client.get(reverse(f"accounts:{view}", args=args.get(view, [])), {"role": "admin", "name": "x"})

        assert looked.status_code in (200, 405)
        assert state(account) == before

    def test_a_name_is_only_a_name(self, account: Account) -> None:
        alice = people.owner_of(account)
        content = post(alice, "rename", name=EVIL).content.decode()
        invitation = invited(account)
        contents = [content, Client().get(f"/invitations/{token_for(invitation.email)}/").content.decode()]
        for each in contents:
            assert "<img src=x" not in each
            assert "{{7*7}}" in each


def owner_user(account: Account) -> User:
    return Membership.objects.filter(account=account, role="owner").order_by("pk")[0].user


def state(account: Account) -> str:
    rows = [
        Account.objects.filter(pk=account.pk).values_list("name", "tier_id"),
        account.memberships.order_by("pk").values_list("user_id", "role"),
        account.invitations.order_by("pk").values_list("email", "role", "digest"),
    ]
    return repr([[tuple(map(str, row)) for row in found] for found in rows])


def without_token(response: Any) -> str:
    return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", response.content.decode())
