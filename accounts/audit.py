"""The audit trail: who did what to an account or to a person, when and from where.

Whoever changes something records it in the same transaction, so that there is never one without the other. What is
recorded is a name, never a secret. An **Action** is a text key and the sentence that tells it, after the person's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from django.db import models

from accounts.models import Account, AuditEvent, User

OBJECT_LENGTH = 300

_address: ContextVar[str | None] = ContextVar("address", default=None)


class Action(models.TextChoices):
    """`{object}` and the details of the event stand in braces. A key is for ever; its sentence may be mended."""

    KEY_CREATED = "key.created", "created the key {object}"
    KEY_RENAMED = "key.renamed", "renamed the key {before} to {object}"
    KEY_EXPIRY_SET = "key.expiry_set", "set when the key {object} expires: {ends}"
    KEY_LIMITS_SET = "key.limits_set", "changed the limits of the key {object} from {before} to {limits}"
    KEY_CAP_SET = "key.cap_set", "set the spend cap of the key {object} from {before} to {cap}"
    KEY_DISABLED = "key.disabled", "disabled the key {object}"
    KEY_ENABLED = "key.enabled", "enabled the key {object} again"
    KEY_ROTATED = "key.rotated", "rotated the key {object}; the old one ends {ends}"
    KEY_REVOKED = "key.revoked", "revoked the key {object} for ever"
    TEAM_INVITED = "team.invited", "invited {object} as {role}"
    TEAM_INVITED_AGAIN = "team.invited_again", "sent {object} the invitation as {role} again"
    TEAM_INVITATION_WITHDRAWN = "team.invitation_withdrawn", "withdrew the invitation of {object}"
    TEAM_JOINED = "team.joined", "joined as {role}, invited by {inviter}"
    TEAM_ROLE_CHANGED = "team.role_changed", "changed the role of {object} from {before} to {role}"
    TEAM_REMOVED = "team.removed", "removed {object}, who was {role}"
    TEAM_LEFT = "team.left", "left the account; was {role}"
    BILLING_DETAILS_SET = "billing.details_set", "changed the billing details: {object}"
    FUNDS_ADDED = "billing.funds_added", "added funds: {object}"
    FUNDS_ADDED_BY_ITSELF = "billing.recharged", "added funds from the saved card: {object}"
    CARD_SAVED = "billing.card_saved", "agreed that a card is saved: {object}"
    STATEMENT_MAILS_SET = "billing.statement_mails_set", "set whether a monthly statement is mailed: {object}"
    CODE_REDEEMED = "billing.code_redeemed", "redeemed the code {object} for {amount} of credit"
    LOW_BALANCE_SET = "billing.low_balance_set", "set at which balance a mail is sent: {object}"
    FLAG_CLEARED = "billing.flag_cleared", "cleared the flag on payments: {object}"
    REFUND_STARTED = "billing.refund_started", "asked for a refund of {object}"
    RECHARGE_ON = "billing.recharge_on", "turned on auto-recharge: {object}"
    RECHARGE_CHANGED = "billing.recharge_changed", "changed auto-recharge: {object}"
    RECHARGE_OFF = "billing.recharge_off", "turned off auto-recharge"
    RECHARGE_STOPPED = "billing.recharge_stopped", "stopped auto-recharge: {object}"
    CARD_REMOVED = "billing.card_removed", "removed the saved card {object}"
    DATA_EXPORTED = "data.exported", "exported {object}"
    ACCOUNT_CREATED = "account.created", "opened the account {object}"
    ACCOUNT_RENAMED = "account.renamed", "renamed the account from {before} to {object}"
    ACCOUNT_DISABLED = "account.disabled", "disabled the account: calls are refused"
    ACCOUNT_ENABLED = "account.enabled", "enabled the account again"
    ACCOUNT_CLOSING = "account.closing", "asked to close the account, with {paid} paid and {promotional} given left"
    ACCOUNT_CLOSED = "account.closed", "closed the account: no money is left"
    # About people, whatever the account.
    PERSON_SIGNED_IN = "person.signed_in", "signed in"
    PERSON_SIGN_IN_FAILED = "person.sign_in_failed", "somebody gave a wrong password for {object}"
    PERSON_SIGN_IN_CHANGED = "person.sign_in_changed", "changed how they sign in: {object}"
    PERSON_SESSION_ENDED = "person.session_ended", "ended a session of {object}"
    PERSON_FACTOR_REMOVED = "person.factor_removed", "removed {object}"


# The first word of a key says what it is about. What people did to their own sign-in belongs to no account.
GROUPS = {
    key: key.capitalize()
    for key in dict.fromkeys(action.value.partition(".")[0] for action in Action)
    if key != "person"
}


def record(
    action: Action,
    *,
    account: Account | None,
    by: User | None,
    object: str = "",
    details: Mapping[str, str | int | None] | None = None,
) -> None:
    """Write down what is done, in the caller's transaction. Without `by` it was an operator's command.

    The address is that of the request in which this runs, if it runs in one.
    """
    AuditEvent.objects.create(
        account=account,
        actor=by,
        action=action,
        object=object[:OBJECT_LENGTH],
        details=dict(details or {}),
        ip=_address.get(),
    )


@contextlib.contextmanager
def coming_from(address: str | None) -> Iterator[None]:
    """What is recorded inside came from this IP address."""
    token = _address.set(address)
    try:
        yield
    finally:
        _address.reset(token)


def address() -> str | None:
    """Where what runs now came from, if it is known."""
    return _address.get()


def events(
    *, account: Account, group: str = "", person: int | None = None, before: int | None = None
) -> models.QuerySet[AuditEvent]:
    """What was done in an account, the newest first, from before that event on."""
    found = AuditEvent.objects.filter(account=account).select_related("actor").order_by("-id")
    if group:
        found = found.filter(action__startswith=f"{group}.")
    if person is not None:
        found = found.filter(actor=person)
    return found.filter(id__lt=before) if before is not None else found


def sentence(event: AuditEvent) -> str:
    """What was done, for a person to read after the name of who did it."""
    known = Action._value2member_map_.get(event.action)
    if not isinstance(known, Action):
        return f"{event.action} {event.object}".rstrip()  # Written by a newer version.
    return str(known.label).format_map(_Words(event.details, object=event.object))


class _Words(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "?"
