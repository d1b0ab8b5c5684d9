"""What a role may do, and for which account a person acts: decided here and nowhere else.

A page says what it needs with `requires`, and gets the **Membership** for which the person acts: it names the account,
the user and the role. Objects are then looked up within that account, so those of another are not found (404).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from allauth.account.internal.flows.reauthentication import STATE_SESSION_KEY
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render

from accounts.models import Membership

P = ParamSpec("P")
SESSION_KEY = "account_id"
Role = Membership.Role


class Permission(StrEnum):
    """The text ends the sentence «Your role may not ...»."""

    SEE_USAGE = "see what the account used"
    SEE_KEYS = "see the keys of the account"
    MANAGE_OWN_KEYS = "create keys"
    MANAGE_ALL_KEYS = "change the keys of others"
    SEE_MONEY = "see the statement of the account"
    MANAGE_MONEY = "add funds to the account"
    SEE_TEAM = "see who belongs to the account"
    MANAGE_TEAM = "change who belongs to the account"
    MANAGE_OWNERS = "make or remove owners"
    SEE_ACTIVITY = "see what was done in the account"
    CLOSE_ACCOUNT = "close the account"
    MANAGE_ACCOUNT = "change the account"


_LOOK = {Permission.SEE_USAGE, Permission.SEE_TEAM}
_MEMBER = _LOOK | {Permission.SEE_KEYS, Permission.MANAGE_OWN_KEYS}
_BILLING = _LOOK | {Permission.SEE_MONEY, Permission.MANAGE_MONEY}
_ADMIN = set(Permission) - {Permission.MANAGE_OWNERS, Permission.CLOSE_ACCOUNT}
ROLES: Mapping[str, frozenset[Permission]] = {
    Role.OWNER: frozenset(Permission),
    Role.ADMIN: frozenset(_ADMIN),
    Role.MEMBER: frozenset(_MEMBER),
    Role.BILLING: frozenset(_BILLING),
}


def roles_with(permission: Permission) -> list[str]:
    return [role for role, permissions in ROLES.items() if permission in permissions]


def may(membership: Membership | None, permission: Permission) -> bool:
    return membership is not None and permission in ROLES[membership.role]


def insist(membership: Membership, permission: Permission) -> None:
    """Raises PermissionDenied with a sentence for the person."""
    if not may(membership, permission):
        raise PermissionDenied(f"Your role in {membership.account}, {membership.role}, may not {permission}.")


def memberships(request: HttpRequest) -> list[Membership]:
    """All that the person belongs to, the oldest first; one query for each request."""
    if not request.user.is_authenticated:
        return []
    if not hasattr(request, "flint_memberships"):
        found = list(request.user.memberships.select_related("account__tier").order_by("id"))
        for membership in found:
            membership.user = request.user
        request.flint_memberships = found  # type: ignore[attr-defined]
    return request.flint_memberships  # type: ignore[attr-defined,no-any-return]


def current(request: HttpRequest) -> Membership | None:
    """The membership for which the person acts: of the account chosen in this session, else the oldest."""
    belongs_to = memberships(request)
    if not belongs_to:
        return None
    chosen = request.session.get(SESSION_KEY)
    return next((one for one in belongs_to if one.account_id == chosen), belongs_to[0])


def choose(request: HttpRequest, account_id: int) -> Membership | None:
    """Act for this account from now on, in this session; None, and no change, for one to which they do not belong."""
    found = next((one for one in memberships(request) if one.account_id == account_id), None)
    if found is not None:
        act_for(request, account_id)
    return found


def act_for(request: HttpRequest, account_id: int) -> None:
    """Remember the account; what was sent for another one and waits for a proof of who it is is not done for it."""
    request.session[SESSION_KEY] = account_id
    forget_what_waits_for_a_proof(request)


def forget_what_waits_for_a_proof(request: HttpRequest) -> None:
    """allauth keeps a form that was sent without a proof of who it is, and does it after the next proof."""
    request.session.pop(STATE_SESSION_KEY, None)


def requires(
    permission: Permission,
) -> Callable[
    [Callable[Concatenate[HttpRequest, Membership, P], HttpResponseBase]],
    Callable[Concatenate[HttpRequest, P], HttpResponseBase],
]:
    """Let in who is signed in and whose role has this permission; the view gets the membership."""

    def decorate(
        view: Callable[Concatenate[HttpRequest, Membership, P], HttpResponseBase],
    ) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @login_required
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            membership = current(request)
            if membership is None:
                return render(request, "accounts/no_account.html", status=403)
            insist(membership, permission)
            return view(request, membership, *args, **kwargs)

        guarded.permission = permission  # type: ignore[attr-defined]  # For the test that walks all addresses.
        return guarded  # type: ignore[return-value]

    return decorate
