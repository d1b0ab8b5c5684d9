from __future__ import annotations

import re
import smtplib
from datetime import datetime, timedelta
from functools import partial

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.core.mail.backends.locmem import EmailBackend

from accounts import invitations, team
from accounts.models import Account, AuditEvent, Invitation, Membership, User
from tests import factories, people
from tests.accounts.test_team import joined, owner
from tests.billing import stage

DAY = timedelta(days=1)


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


def guest(*, verified: bool = True) -> User:
    user = factories.user()
    EmailAddress.objects.create(user=user, email=user.email.upper(), verified=verified, primary=True)
    return user


def token_for(email: str) -> str:
    """From the last mail to this address."""
    (last,) = [message for message in mail.outbox if message.to == [email]][-1:]
    found = re.search(r"http://127.0.0.1:8000/invitations/([^/\s]+)/", str(last.body))
    assert found
    return found[1]


def invited(account: Account, email: str, now: datetime, role: str = "member") -> str:
    invitations.invite(email=email, role=role, now=now, by=owner(account))
    return token_for(email)


@pytest.mark.django_db
class TestInvite:
    def test_the_mail_holds_a_link_and_the_database_only_its_digest(self, account: Account, now: datetime) -> None:
        token = invited(account, "bob@example.test", now)

        (row,) = Invitation.objects.filter(account=account).values()
        assert token not in repr(row)
        assert row["expires_at"] == now + 7 * DAY
        body = str(mail.outbox[-1].body)
        assert 'the account "alice" on Flint, as member' in body
        assert account.users.get().email in body

    def test_names_with_line_breaks_forge_no_mail(self, account: Account, now: datetime) -> None:
        Account.objects.filter(pk=account.pk).update(name="a\r\nBcc: all@example.test")
        invited(account, "bob@example.test", now)
        assert mail.outbox[-1].subject == "You are invited to a Bcc: all@example.test on Flint"
        assert mail.outbox[-1].recipients() == ["bob@example.test"]

    def test_a_member_is_not_invited(self, account: Account, now: datetime) -> None:
        bob = people.member_of(account, "member")
        with pytest.raises(invitations.Refused, match="belongs to alice already"):
            invited(account, bob.email.upper(), now)

    def test_nobody_is_invited_twice_at_a_time(self, account: Account, now: datetime) -> None:
        invited(account, "bob@example.test", now)
        with pytest.raises(invitations.Refused, match="is invited already"):
            invited(account, "BOB@example.test", now)
        invited(account, "bob@example.test", now + 7 * DAY)

    @pytest.mark.parametrize(("by", "role", "allowed"), [
        ("admin", "admin", True), ("admin", "owner", False), ("owner", "owner", True),
        ("member", "member", False), ("billing", "billing", False),
    ])  # fmt: skip
    def test_who_may_invite_whom(self, account: Account, now: datetime, by: str, role: str, allowed: bool) -> None:
        actor = joined(account, by)
        if allowed:
            invitations.invite(email="bob@example.test", role=role, now=now, by=actor)
        else:
            with pytest.raises(PermissionDenied):
                invitations.invite(email="bob@example.test", role=role, now=now, by=actor)
        assert account.invitations.exists() is allowed

    def test_an_account_is_no_way_to_send_many_mails(
        self, account: Account, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(invitations, "MAILS_A_DAY", 2)
        invited(account, "bob@example.test", now)
        invitation = account.invitations.get()
        invitations.send_again(invitation=invitation, now=now, by=owner(account))
        invitations.withdraw(invitation=invitation, by=owner(account))
        with pytest.raises(invitations.Refused, match="at most 2 invitations a day"):
            invited(account, "carol@example.test", now)
        invited(account, "carol@example.test", now + 2 * DAY)

    def test_members_and_open_invitations_are_limited(
        self, account: Account, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(team, "MEMBERS_PER_ACCOUNT", 2)
        invited(account, "bob@example.test", now)
        with pytest.raises(invitations.Refused, match="at most 2 members"):
            invited(account, "carol@example.test", now)

    def test_a_mail_that_cannot_be_sent_is_told_and_can_be_sent_again(
        self, account: Account, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise smtplib.SMTPServerDisconnected

        with monkeypatch.context() as patch:
            patch.setattr(EmailBackend, "send_messages", refuse)
            with pytest.raises(invitations.NotSent):
                invitations.invite(email="bob@example.test", role="member", now=now, by=owner(account))
        invitations.send_again(invitation=account.invitations.get(), now=now, by=owner(account))
        assert token_for("bob@example.test")


@pytest.mark.django_db
class TestAccept:
    def test_the_invited_person_joins_with_the_role(self, account: Account, now: datetime) -> None:
        bob = guest()
        token = invited(account, bob.email, now, "billing")

        membership = invitations.accept(token=token, user=bob, now=now)

        assert (membership.account, membership.role) == (account, "billing")
        event = AuditEvent.objects.get(account=account, action="team.joined")
        assert (event.actor, event.details) == (bob, {"role": "billing", "inviter": account.users.first().email})  # type: ignore[union-attr]

    def test_a_link_works_once(self, account: Account, now: datetime) -> None:
        bob = guest()
        token = invited(account, bob.email, now)
        team.remove(member=invitations.accept(token=token, user=bob, now=now), by=owner(account))
        with pytest.raises(invitations.Gone):
            invitations.accept(token=token, user=bob, now=now)

    def test_only_who_has_shown_that_the_address_is_theirs(self, account: Account, now: datetime) -> None:
        bob, eve = guest(verified=False), guest()
        token = invited(account, bob.email, now)
        for user in (bob, eve, factories.user()):
            with pytest.raises(invitations.NotYours):
                invitations.accept(token=token, user=user, now=now)
        assert account.memberships.count() == 1

    def test_not_after_a_week(self, account: Account, now: datetime) -> None:
        bob = guest()
        token = invited(account, bob.email, now)
        with pytest.raises(invitations.Gone):
            invitations.accept(token=token, user=bob, now=now + 7 * DAY)
        invitations.accept(token=token, user=bob, now=now + 7 * DAY - timedelta(seconds=1))

    @pytest.mark.parametrize("token", ["", "x", "x" * 5000, "\0"])
    def test_not_by_guessing(self, account: Account, now: datetime, token: str) -> None:
        invited(account, "bob@example.test", now)
        with pytest.raises(invitations.Gone):
            invitations.accept(token=token, user=guest(), now=now)

    def test_not_once_withdrawn_or_replaced(self, account: Account, now: datetime) -> None:
        bob = guest()
        first = invited(account, bob.email, now)
        invitation = account.invitations.get()
        invitations.send_again(invitation=invitation, now=now, by=owner(account))
        second = token_for(bob.email)
        with pytest.raises(invitations.Gone):
            invitations.accept(token=first, user=bob, now=now)
        invitations.withdraw(invitation=invitation, by=owner(account))
        with pytest.raises(invitations.Gone):
            invitations.accept(token=second, user=bob, now=now)

    @pytest.mark.parametrize("then", ["removed", "demoted"])
    def test_not_when_the_sender_may_not_invite_any_more(self, account: Account, now: datetime, then: str) -> None:
        eve, bob = joined(account, "admin"), guest()
        invitations.invite(email=bob.email, role="admin", now=now, by=eve)
        if then == "removed":
            team.remove(member=eve, by=owner(account))
        else:
            team.change_role(member=eve, role="member", by=owner(account))
        with pytest.raises(invitations.Gone):
            invitations.accept(token=token_for(bob.email), user=bob, now=now)

    def test_who_belongs_already_keeps_the_role(self, account: Account, now: datetime) -> None:
        bob = guest()
        token = invited(account, bob.email, now, "member")
        Membership.objects.create(account=account, user=bob, role="admin")
        assert invitations.accept(token=token, user=bob, now=now).role == "admin"
        assert not account.invitations.exists()


@pytest.mark.usefixtures("committed")
def test_a_link_that_is_opened_eight_times_at_the_same_time_works_once(now: datetime) -> None:
    account, _ = people.customer("alice")
    bob = guest()
    invitation = invitations.invite(email=bob.email, role="member", now=now, by=owner(account))
    token = "a token for eight"
    Invitation.objects.filter(pk=invitation.pk).update(digest=invitations._digest(token))

    done = stage.at_the_same_time(*[partial(invitations.accept, token=token, user=bob, now=now)] * 8)

    assert sum(isinstance(result, Membership) for result in done) == 1
    assert sum(isinstance(result, invitations.Gone) for result in done) == 7
    assert AuditEvent.objects.filter(account=account, action="team.joined").count() == 1
