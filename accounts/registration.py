"""How a customer comes to be, is found, and is shut out.

A user, the account and the owner's membership are made together or not at all.
"""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts.models import Account, Membership, Tier, User

STANDARD_TIER = "Standard"
NAME_LENGTH = 100


class EmailTaken(Exception):
    """There is already a user with this e-mail address."""


class InvalidEmail(Exception):
    """The text is not an e-mail address."""


class InvalidName(Exception):
    """The name of an account has at most 100 characters."""


class UnknownTier(Exception):
    """There is no tier of this name."""


class AccountNotFound(Exception):
    """No account belongs to this e-mail address, or more than one does."""


def create_account(*, email: str, password: str | None = None, name: str = "", tier: str = STANDARD_TIER) -> Account:
    """Create a user with an account of its own, whose address the operator vouches for.

    Without a password the user cannot sign in until one is set. Raises InvalidEmail, InvalidName, EmailTaken,
    UnknownTier.
    """
    try:
        User._meta.get_field("email").clean(email, None)
    except ValidationError as fault:
        raise InvalidEmail(f"{email!r} is not an e-mail address that can be used.") from fault
    user = User(email=User.objects.normalize_email(email))
    user.set_password(password)
    with transaction.atomic():
        account = open_account(user=user, name=name, tier=tier)
        User.objects.vouch_for_email(user)
    return account


def open_account(*, user: User, name: str = "", tier: str = STANDARD_TIER) -> Account:
    """Save a new user together with the account that it owns. Raises InvalidName, EmailTaken, UnknownTier."""
    if len(name) > NAME_LENGTH:
        raise InvalidName(f"The name of an account has at most {NAME_LENGTH} characters.")
    tier_row = Tier.objects.filter(name__iexact=tier).first()
    if tier_row is None:
        known = ", ".join(Tier.objects.order_by("name").values_list("name", flat=True))
        raise UnknownTier(f"There is no tier {tier!r}. Known tiers: {known}.")
    try:
        with transaction.atomic():
            user.save()
            account = Account.objects.create(name=name or user.email[:NAME_LENGTH], tier=tier_row)
            Membership.objects.create(account=account, user=user, role=Membership.Role.OWNER)
    except IntegrityError as fault:
        if "user_email_unique" in str(fault):
            raise EmailTaken(f"There is already a user {user.email}.") from fault
        raise
    return account


def own_account(*, user: User) -> Account | None:
    """The account that was opened together with this user."""
    owned = Account.objects.filter(memberships__user=user, memberships__role=Membership.Role.OWNER)
    return owned.order_by("id").first()


def disable(*, chosen: QuerySet[Account], now: datetime) -> list[Account]:
    """Refuse their calls with 403 until they are enabled again; returns those that this changed."""
    return _set_disabled(chosen.filter(disabled_at=None), now)


def enable(*, chosen: QuerySet[Account]) -> list[Account]:
    """Let disabled accounts call again; returns those that this changed."""
    return _set_disabled(chosen.exclude(disabled_at=None), None)


def _set_disabled(chosen: QuerySet[Account], at: datetime | None) -> list[Account]:
    accounts = list(chosen)
    Account.objects.filter(pk__in=[account.pk for account in accounts]).update(disabled_at=at)
    return accounts


def account_of(*, email: str) -> Account:
    """The one account that the user of this e-mail address owns. Raises AccountNotFound."""
    accounts = list(
        Account.objects.filter(
            memberships__user__email__iexact=email, memberships__role=Membership.Role.OWNER
        ).order_by("id")[:2]
    )
    if not accounts:
        raise AccountNotFound(f"No account is owned by {email}. Create one with: manage.py create_account {email}")
    if len(accounts) > 1:
        raise AccountNotFound(f"{email} owns more than one account. Use the admin to choose one.")
    return accounts[0]
