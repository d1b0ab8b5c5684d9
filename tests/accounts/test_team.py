from __future__ import annotations

from functools import partial

import pytest
from django.core.exceptions import PermissionDenied

from accounts import registration, team
from accounts.models import Account, AuditEvent, Membership
from accounts.registration import InvalidName
from tests import people
from tests.billing import stage


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


def owner(account: Account) -> Membership:
    return account.memberships.select_related("user", "account").get(role="owner")


def joined(account: Account, role: str) -> Membership:
    user = people.member_of(account, role)
    return account.memberships.select_related("user", "account").get(user=user)


def roles(account: Account) -> list[str]:
    return sorted(account.memberships.values_list("role", flat=True))


@pytest.mark.django_db
class TestRoles:
    @pytest.mark.parametrize(
        ("by", "of", "role", "allowed"),
        [
            ("owner", "member", "owner", True),
            ("owner", "admin", "billing", True),
            ("admin", "member", "admin", True),
            ("admin", "admin", "member", True),
            ("admin", "member", "owner", False),
            ("admin", "owner", "member", False),
            ("member", "billing", "member", False),
            ("billing", "member", "billing", False),
        ],
    )
    def test_who_may_change_whom(self, account: Account, by: str, of: str, role: str, allowed: bool) -> None:
        actor = owner(account) if by == "owner" else joined(account, by)
        member = joined(account, of)

        if allowed:
            team.change_role(member=member, role=role, by=actor)
        else:
            with pytest.raises(PermissionDenied):
                team.change_role(member=member, role=role, by=actor)

        member.refresh_from_db()
        assert member.role == (role if allowed else of)

    @pytest.mark.parametrize(("by", "of", "allowed"), [
        ("owner", "admin", True), ("admin", "admin", True), ("admin", "billing", True), ("admin", "owner", False),
        ("member", "member", False), ("billing", "member", False),
    ])  # fmt: skip
    def test_who_may_remove_whom(self, account: Account, by: str, of: str, allowed: bool) -> None:
        actor = owner(account) if by == "owner" else joined(account, by)
        member = joined(account, of)

        if allowed:
            team.remove(member=member, by=actor)
        else:
            with pytest.raises(PermissionDenied):
                team.remove(member=member, by=actor)

        assert Membership.objects.filter(pk=member.pk).exists() is not allowed

    def test_the_last_owner_stays_one(self, account: Account) -> None:
        alice = owner(account)
        with pytest.raises(team.LastOwner):
            team.change_role(member=alice, role="admin", by=alice)
        with pytest.raises(team.LastOwner):
            team.remove(member=alice, by=alice)
        with pytest.raises(team.LastOwner):
            team.leave(member=alice)
        assert roles(account) == ["owner"]

    def test_one_of_two_owners_may_go(self, account: Account) -> None:
        alice, _ = owner(account), joined(account, "owner")
        team.leave(member=alice)
        assert roles(account) == ["owner"]

    def test_nobody_acts_who_was_shut_out_a_moment_ago(self, account: Account) -> None:
        bob, carol = joined(account, "admin"), joined(account, "member")
        stale = joined(account, "admin")
        Membership.objects.filter(pk=stale.pk).update(role="member")
        team.remove(member=bob, by=owner(account))
        for actor in (bob, stale):
            with pytest.raises(PermissionDenied):
                team.remove(member=carol, by=actor)
        assert Membership.objects.filter(pk=carol.pk).exists()

    def test_members_of_another_account_are_not_found(self, account: Account) -> None:
        stranger = owner(people.customer("charlie")[0])
        with pytest.raises(Membership.DoesNotExist):
            team.remove(member=stranger, by=owner(account))

    def test_what_was_done_is_recorded(self, account: Account) -> None:
        alice, bob, carol = owner(account), joined(account, "member"), joined(account, "admin")
        team.change_role(member=bob, role="admin", by=alice)
        team.change_role(member=bob, role="admin", by=alice)
        team.remove(member=bob, by=carol)
        team.leave(member=carol)

        events = AuditEvent.objects.filter(account=account, action__startswith="team.").order_by("id")

        assert [(event.action, event.actor, event.object, event.details) for event in events] == [
            ("team.role_changed", alice.user, bob.user.email, {"before": "member", "role": "admin"}),
            ("team.removed", carol.user, bob.user.email, {"role": "admin"}),
            ("team.left", carol.user, "", {"role": "admin"}),
        ]


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_two_owners_who_leave_do_not_leave_the_account_without_one(self) -> None:
        account, _ = people.customer("alice")
        owners = [owner(account), *[joined(account, "owner") for _ in range(5)]]

        done = stage.at_the_same_time(*[partial(team.leave, member=one) for one in owners])

        assert sum(isinstance(result, team.LastOwner) for result in done) == 1
        assert roles(account) == ["owner"]

    def test_owners_who_remove_each_other_leave_one(self) -> None:
        account, _ = people.customer("alice")
        alice = owner(account)
        bob = joined(account, "owner")

        done = stage.at_the_same_time(
            partial(team.remove, member=alice, by=bob), partial(team.remove, member=bob, by=alice)
        )

        assert [type(result) for result in done if result] == [PermissionDenied]
        assert roles(account) == ["owner"]

    def test_owners_who_demote_themselves_leave_one(self) -> None:
        account, _ = people.customer("alice")
        owners = [owner(account), *[joined(account, "owner") for _ in range(5)]]

        done = stage.at_the_same_time(*[partial(team.change_role, member=one, role="member", by=one) for one in owners])

        assert sum(isinstance(result, team.LastOwner) for result in done) == 1
        assert roles(account) == ["member"] * 5 + ["owner"]


@pytest.mark.django_db
class TestAccountName:
    def test_is_changed_and_recorded_once(self, account: Account) -> None:
        alice = owner(account)
        for _ in range(2):
            registration.rename(account=account, name=" ACME\n GmbH ", by=alice.user)
        account.refresh_from_db()
        assert account.name == "ACME GmbH"
        event = AuditEvent.objects.get(account=account, action="account.renamed")
        assert (event.actor, event.object, event.details) == (alice.user, "ACME GmbH", {"before": "alice"})

    @pytest.mark.parametrize("name", ["", " ", "x" * 101])
    def test_has_1_to_100_characters(self, account: Account, name: str) -> None:
        with pytest.raises(InvalidName):
            registration.rename(account=account, name=name)
