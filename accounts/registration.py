"""How a customer comes to be, is found, and is shut out.

A user, the account and the owner's membership are made together or not at all.
"""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.audit import Action
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


def open_account(*, user: User, name: str = "", tier: str = STANDARD_TIER, by: User | None = None) -> Account:
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
            audit.record(Action.ACCOUNT_CREATED, account=account, by=by, object=account.name)
    except IntegrityError as fault:
        if "user_email_unique" in str(fault):
            raise EmailTaken(f"There is already a user {user.email}.") from fault
        raise
    return account


def own_account(*, user: User) -> Account | None:
    """The account that was opened together with this user."""
    owned = Account.objects.filter(memberships__user=user, memberships__role=Membership.Role.OWNER)
    return owned.order_by("id").first()


def rename(*, account: Account, name: str, by: User | None = None) -> None:
    """Raises InvalidName."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= NAME_LENGTH:
        raise InvalidName(f"An account needs a name of 1 to {NAME_LENGTH} characters.")
    with transaction.atomic():
        before = Account.objects.select_for_update(no_key=True).values_list("name", flat=True).get(pk=account.pk)
        account.name = name
        if name != before:
            account.save(update_fields=["name"])
            audit.record(Action.ACCOUNT_RENAMED, account=account, by=by, object=name, details={"before": before})


def disable(*, chosen: QuerySet[Account], now: datetime, by: User | None = None) -> list[Account]:
    """Refuse their calls with 403 until they are enabled again; returns those that this changed."""
    with transaction.atomic():
        return _set_disabled(_locked(chosen).filter(disabled_at=None), now, Action.ACCOUNT_DISABLED, by)


def enable(*, chosen: QuerySet[Account], by: User | None = None) -> list[Account]:
    """Let disabled accounts call again; returns those that this changed."""
    with transaction.atomic():
        return _set_disabled(_locked(chosen).exclude(disabled_at=None), None, Action.ACCOUNT_ENABLED, by)


def _locked(chosen: QuerySet[Account]) -> QuerySet[Account]:
    found = Account.objects.filter(pk__in=[account.pk for account in chosen])
    return found.select_for_update(no_key=True).order_by("pk")


def _set_disabled(chosen: QuerySet[Account], at: datetime | None, action: Action, by: User | None) -> list[Account]:
    accounts = list(chosen)
    Account.objects.filter(pk__in=[account.pk for account in accounts]).update(disabled_at=at)
    for account in accounts:
        audit.record(action, account=account, by=by, object=account.name)
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
