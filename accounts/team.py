"""Who belongs to an account. It has one owner at least, and only owners make and unmake owners.

Everything here happens under the lock of the account's row: the rules are judged by what is so at that moment, for the
person who acts too.
"""

from __future__ import annotations

from django.apps import apps
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet

from accounts import access, audit
from accounts.access import Permission, Role
from accounts.audit import Action
from accounts.models import Account, Membership, User

MEMBERS_PER_ACCOUNT = 100
FORMER_MEMBERS_SHOWN = 200


class LastOwner(Exception):
    """An account without an owner could never get one again."""


def change_role(*, member: Membership, role: str, by: Membership) -> None:
    """Raises LastOwner, PermissionDenied, and Membership.DoesNotExist for one who has left."""
    with transaction.atomic():
        actor = acting(by)
        found = _of_team(actor, member)
        if found.role == role:
            return
        _insist_on_owner(actor, found.role, role)
        _insist_on_another_owner(found)
        before, found.role = found.role, role
        found.save(update_fields=["role"])
        details = {"before": before, "role": role}
        audit.record(Action.TEAM_ROLE_CHANGED, account=by.account, by=by.user, object=found.user.email, details=details)


def remove(*, member: Membership, by: Membership) -> None:
    """End a membership; what the person made stays. Raises as `change_role`."""
    with transaction.atomic():
        actor = acting(by)
        found = _of_team(actor, member)
        _insist_on_owner(actor, found.role)
        _insist_on_another_owner(found)
        found.delete()
        details = {"role": found.role}
        audit.record(Action.TEAM_REMOVED, account=by.account, by=by.user, object=found.user.email, details=details)


def leave(*, member: Membership) -> None:
    """End one's own membership. Raises LastOwner."""
    with transaction.atomic():
        lock(member.account)
        found = Membership.objects.get(pk=member.pk)
        _insist_on_another_owner(found)
        found.delete()
        audit.record(Action.TEAM_LEFT, account=member.account, by=member.user, details={"role": found.role})


def former_members(*, account: Account) -> QuerySet[User]:
    """Who belonged to the account and no longer does: some of them, should they be very many."""
    ever = apps.get_model("accounts", "MembershipHistory").objects.filter(account=account)
    gone = User.objects.filter(pk__in=ever.values("user")).exclude(pk__in=account.users.values("pk"))
    return gone.order_by("email")[:FORMER_MEMBERS_SHOWN]


def lock(account: Account) -> None:
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)


def acting(by: Membership, *roles: str) -> Membership:
    """The person who changes the team, as they are under the lock: they may have been shut out a moment ago."""
    lock(by.account)
    actor = Membership.objects.filter(pk=by.pk).first()
    if actor is None:
        raise PermissionDenied(f"You do not belong to {by.account} any more.")
    access.insist(actor, Permission.MANAGE_TEAM)
    _insist_on_owner(actor, *roles)
    return actor


def _insist_on_owner(actor: Membership, *roles: str) -> None:
    if Role.OWNER in roles:
        access.insist(actor, Permission.MANAGE_OWNERS)


def _insist_on_another_owner(member: Membership) -> None:
    """Before this one stops to be an owner."""
    others = Membership.objects.filter(account_id=member.account_id, role=Role.OWNER).exclude(pk=member.pk)
    if member.role == Role.OWNER and not others.exists():
        raise LastOwner("An account needs an owner. Make somebody else one first.")


def _of_team(actor: Membership, member: Membership) -> Membership:
    return Membership.objects.select_related("user").get(pk=member.pk, account_id=actor.account_id)
