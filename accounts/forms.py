"""What people say about accounts and teams."""

from __future__ import annotations

from typing import Any

from django import forms

from accounts import access, audit, team
from accounts.access import Permission, Role
from accounts.models import Account, Membership
from accounts.registration import NAME_LENGTH

WORDS = {
    Role.OWNER: "Owner: everything, and who is an owner",
    Role.ADMIN: "Admin: all keys, money, team, activity",
    Role.MEMBER: "Member: keys of their own, usage",
    Role.BILLING: "Billing: money and usage, no keys",
}


def roles_for(membership: Membership) -> list[tuple[str, str]]:
    """The roles that this person may give."""
    may_give = [role for role in Role if role != Role.OWNER or access.may(membership, Permission.MANAGE_OWNERS)]
    return [(str(role), WORDS[role]) for role in reversed(may_give)]


class RoleForm(forms.Form):
    role = forms.ChoiceField()

    def __init__(self, *args: Any, by: Membership, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = roles_for(by)  # type: ignore[attr-defined]  # A ChoiceField has them.


class InviteForm(RoleForm):
    email = forms.EmailField(label="E-mail address", max_length=254)
    role = forms.ChoiceField(initial=Role.MEMBER)
    field_order = ["email", "role"]


class AccountForm(forms.Form):
    name = forms.CharField(label="Name of the account", max_length=NAME_LENGTH)


class ActivityFilter(forms.Form):
    """Of the page's address, so that it can be shared."""

    group = forms.ChoiceField(label="What", required=False, choices=[("", "Everything"), *audit.GROUPS.items()])
    person = forms.TypedChoiceField(label="Who", required=False, coerce=int, empty_value=None)

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        people = account.users.order_by("email").values_list("pk", "email")
        gone = team.former_members(account=account).values_list("pk", "email")
        former = [("No longer here", list(gone))] if gone else []
        self.fields["person"].choices = [("", "Everybody"), *people, *former]  # type: ignore[attr-defined]
