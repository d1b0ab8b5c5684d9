"""How somebody comes to belong to an account: invited by e-mail, by a link that works once and for a week.

The link holds a random **token**, of which only the digest is stored. It opens for the person who has shown that the
invited address is theirs, and while the one who sent it may still invite.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import datetime, timedelta

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse

from accounts import access, audit, team
from accounts.access import Permission, Role
from accounts.audit import Action
from accounts.models import AuditEvent, Invitation, Membership, User

logger = logging.getLogger(__name__)

LIFETIME = timedelta(days=7)
MAILS_A_DAY = 50  # An account must not be a way to send mails to strangers.


class Refused(Exception):
    """The text says why, and what to do."""


class Gone(Exception):
    """The link was used, withdrawn or replaced, has expired, or never was."""


class NotYours(Exception):
    """The person has not shown that the invited address is theirs."""


class NotSent(Exception):
    """The invitation stands, but its mail could not be sent."""


def invite(*, email: str, role: str, now: datetime, by: Membership) -> Invitation:
    """Offer somebody a role, by mail. Raises Refused, NotSent, PermissionDenied."""
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        team.acting(by, role)
        account = by.account
        account.invitations.filter(expires_at__lte=now).delete()
        if account.memberships.filter(user__email__iexact=email).exists():
            raise Refused(f"{email} belongs to {account} already.")
        if account.invitations.filter(email__iexact=email).exists():
            raise Refused(f"{email} is invited already. Send the invitation again, or withdraw it, below.")
        if account.memberships.count() + account.invitations.count() >= team.MEMBERS_PER_ACCOUNT:
            raise Refused(f"An account has at most {team.MEMBERS_PER_ACCOUNT} members and open invitations.")
        _insist_on_few_mails(by, now)
        invitation = Invitation.objects.create(
            account=account,
            email=email,
            role=role,
            invited_by=by.user,
            digest=_digest(token),
            expires_at=now + LIFETIME,
        )
        audit.record(Action.TEAM_INVITED, account=account, by=by.user, object=email, details={"role": role})
    _send(invitation, token)
    return invitation


def send_again(*, invitation: Invitation, now: datetime, by: Membership) -> None:
    """A new link for another week; the old one is dead. Raises Refused, NotSent, PermissionDenied, Gone."""
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        team.acting(by, invitation.role)
        _insist_on_few_mails(by, now)
        fields = {"digest": _digest(token), "invited_by": by.user, "expires_at": now + LIFETIME}
        if not Invitation.objects.filter(pk=invitation.pk, account=by.account).update(**fields):
            raise Gone
        details = {"role": invitation.role}
        audit.record(
            Action.TEAM_INVITED_AGAIN, account=by.account, by=by.user, object=invitation.email, details=details
        )
    invitation.invited_by, invitation.expires_at = by.user, now + LIFETIME
    _send(invitation, token)


def withdraw(*, invitation: Invitation, by: Membership) -> None:
    """Raises PermissionDenied, and Gone for one that was accepted meanwhile."""
    with transaction.atomic():
        team.acting(by, invitation.role)
        deleted, _ = Invitation.objects.filter(pk=invitation.pk, account=by.account).delete()
        if not deleted:
            raise Gone
        audit.record(Action.TEAM_INVITATION_WITHDRAWN, account=by.account, by=by.user, object=invitation.email)


def find(*, token: str, now: datetime) -> Invitation:
    """The invitation behind a link. Raises Gone."""
    found = Invitation.objects.filter(digest=_digest(token), expires_at__gt=now)
    invitation = found.select_related("account", "invited_by").first()
    if invitation is None or not _still_meant(invitation):
        raise Gone
    return invitation


def is_for(invitation: Invitation, user: User) -> bool:
    """Whether the person has shown that the invited address is theirs."""
    theirs = EmailAddress.objects.filter(user=user, email__iexact=invitation.email, verified=True)
    return bool(theirs.exists())


def accept(*, token: str, user: User, now: datetime) -> Membership:
    """Join, once. One who belongs already keeps the role they have. Raises Gone, NotYours."""
    invitation = find(token=token, now=now)
    if not is_for(invitation, user):
        raise NotYours
    with transaction.atomic():
        team.lock(invitation.account)
        invitation = find(token=token, now=now)
        details = {"role": invitation.role, "inviter": invitation.invited_by.email}
        invitation.delete()
        membership, new = Membership.objects.get_or_create(
            account=invitation.account, user=user, defaults={"role": invitation.role}
        )
        if new:
            audit.record(Action.TEAM_JOINED, account=invitation.account, by=user, details=details)
    return membership


def _still_meant(invitation: Invitation) -> bool:
    """What a person who was removed has sent does not let anybody in."""
    sender = Membership.objects.filter(account=invitation.account, user=invitation.invited_by).first()
    needed = Permission.MANAGE_OWNERS if invitation.role == Role.OWNER else Permission.MANAGE_TEAM
    return access.may(sender, needed)


def _insist_on_few_mails(by: Membership, now: datetime) -> None:
    sent = AuditEvent.objects.filter(
        account=by.account, action__in=[Action.TEAM_INVITED, Action.TEAM_INVITED_AGAIN]
    ).order_by("-id")
    limit_ago = sent.values_list("created_at", flat=True)[MAILS_A_DAY - 1 : MAILS_A_DAY]
    if any(at > now - timedelta(days=1) for at in limit_ago):
        raise Refused(f"An account sends at most {MAILS_A_DAY} invitations a day. Try again tomorrow.")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _send(invitation: Invitation, token: str) -> None:
    """Outside of the transaction: a mail server may be slow, and the account's row is locked."""
    link = settings.SITE_URL.rstrip("/") + reverse("accounts:invitation", args=[token])
    context = {"invitation": invitation, "link": link}
    subject = " ".join(f"You are invited to {invitation.account} on Flint".split())
    try:
        send_mail(subject, render_to_string("accounts/mails/invitation.txt", context), None, [invitation.email])
    except OSError as fault:  # SMTP's own errors are OSErrors too.
        logger.error("the mail of invitation %s was not sent: %s", invitation.pk, type(fault).__name__)
        raise NotSent(
            f"{invitation.email} is invited, but the mail could not be sent. Send it again in a moment."
        ) from fault
