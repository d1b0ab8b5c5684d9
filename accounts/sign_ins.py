"""What staff may do to the ways in which people sign in."""

from __future__ import annotations

from collections.abc import Iterable

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.db import transaction

from accounts import audit
from accounts.audit import Action
from accounts.models import User


def may_touch(by: User, user: User) -> bool:
    """Staff help customers. What signs other staff in is for superusers, else the lowest could become the highest."""
    return by.is_superuser or by == user or not (user.is_staff or user.is_superuser)


@transaction.atomic
def end_sessions(*, chosen: Iterable[UserSession], by: User) -> None:
    for session in chosen:
        audit.record(Action.PERSON_SESSION_ENDED, account=None, by=by, object=session.user.email)
        session.end()


@transaction.atomic
def remove_authenticators(*, chosen: Iterable[Authenticator], by: User) -> None:
    for authenticator in chosen:
        what = f"{authenticator.get_type_display()} of {authenticator.user.email}"
        audit.record(Action.PERSON_FACTOR_REMOVED, account=None, by=by, object=what)
        authenticator.delete()
