"""Closing an account with money left: nothing that was paid is ever forfeited, and what happens is said before.

Asking shuts the account out and revokes its keys. Once the last calls are charged, a sweep ends its promotional credit
by transfers, and what was paid and not spent is a task for a person: a refund. Amounts are pico-USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, Sum

from accounts import access, audit, registration, team
from accounts.access import Permission
from accounts.audit import Action
from accounts.models import Account, Membership
from apikeys import keys
from apikeys.models import ApiKey
from billing import funds, ledger, money
from billing.models import AccountClosing, CreditLot, Hold, LedgerAccount, TransferKind, UsageRecord, Wallet

# Gateways hear within a second that an account is disabled; a call that was admitted in it has its hold by then.
QUIET = timedelta(seconds=15)
SWEPT = 100
State = AccountClosing.State


class CannotClose(Exception):
    """The sentence says to the owner what has to be done before."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What closing would do now. `paid` goes back or keeps the account open, `promotional` ends."""

    posted: int
    held: int
    paid: int
    promotional: int
    obstacle: str  # Empty where nothing is in the way.


def outlook(account: Account) -> Outlook:
    wallet = funds.wallet_of(account)
    left = CreditLot.objects.filter(wallet_id=account.pk, remaining__gt=0).aggregate(
        paid=Sum("remaining", filter=Q(kind="paid"), default=0),
        promotional=Sum("remaining", filter=Q(kind="promotional"), default=0),
    )
    obstacle = _obstacle(wallet.posted, left["paid"])
    return Outlook(wallet.posted, wallet.held, left["paid"], left["promotional"], obstacle)


def ask(*, account: Account, by: Membership, now: datetime) -> None:
    """Shut the account out for ever; asking again does nothing more. Raises CannotClose, PermissionDenied."""
    with transaction.atomic():
        team.lock(account)
        access.insist(Membership.objects.get(pk=by.pk), Permission.CLOSE_ACCOUNT)
        seen = Account.objects.get(pk=account.pk)
        if seen.disabled_at and AccountClosing.objects.filter(account=account).exists():
            return
        found = outlook(seen)
        if found.obstacle:
            raise CannotClose(found.obstacle)
        # There is a row where staff have let the account in again since.
        asked = {"state": State.CLOSING, "requested_by": by.user, "requested_at": now}
        AccountClosing.objects.update_or_create(account=account, defaults=asked)
        registration.disable(chosen=Account.objects.filter(pk=account.pk), now=now, by=by.user)
        for key in ApiKey.objects.of_account(account).filter(revoked_at=None):
            keys.revoke(key=key, now=now, by=by.user)
        details = {"paid": money.display(found.paid), "promotional": money.display(found.promotional)}
        audit.record(Action.ACCOUNT_CLOSING, account=account, by=by.user, object=account.name, details=details)


def finish_all(*, now: datetime) -> int:
    """Go on with closings that can; also where money came in after the end. Returns how many are closed by it.

    A run looks at SWEPT of each kind; the next one goes on with the others, so none waits behind those that cannot end.
    """
    shut = AccountClosing.objects.filter(account__disabled_at__isnull=False, requested_at__lte=now - QUIET)
    open_ones = shut.exclude(state=State.CLOSED).order_by(F("looked_at").asc(nulls_first=True), "account")
    came_back = shut.filter(state=State.CLOSED).filter(
        Q(account__wallet__posted__gt=0) | Q(account__wallet__posted__lt=0)
    )
    closed = 0
    for found in (open_ones, came_back):
        for account_id in list(found.values_list("pk", flat=True)[:SWEPT]):
            AccountClosing.objects.filter(pk=account_id).update(looked_at=now)
            closed += _finish(account_id, now)
    return closed


def _finish(account_id: int, now: datetime) -> bool:
    with transaction.atomic():
        closing = AccountClosing.objects.select_for_update(no_key=True).get(pk=account_id)
        running = Hold.objects.filter(account_id=account_id).exists()
        if running or UsageRecord.objects.filter(account_id=account_id, settled_at=None).exists():
            return False
        ledger.end_promotions(account_id=account_id, now=now)
        _write_off_residue(closing.account, now)
        posted = sum(Wallet.objects.filter(pk=account_id).values_list("posted", flat=True))
        before, closing.state = closing.state, State.MONEY_LEFT if posted else State.CLOSED
        if closing.state == before:
            return False
        closing.save(update_fields=["state"])
        if closing.state == State.CLOSED:
            audit.record(Action.ACCOUNT_CLOSED, account=closing.account, by=None, object=closing.account.name)
    return closing.state == State.CLOSED


def _write_off_residue(account: Account, now: datetime) -> None:
    """What no card can be paid: less than a cent, said before, and a line of the statement."""
    wallet = Wallet.objects.filter(pk=account.pk, posted__gt=0, posted__lt=money.PICO_PER_CENT, held=0)
    for posted, seq in wallet.values_list("posted", "seq"):
        ledger.debit(
            account=account, amount=posted, kind=TransferKind.ADJUSTMENT, target=LedgerAccount.ADJUSTMENTS,
            cause=f"closing:{account.pk}:{seq + 1}", now=now, reason="Account closed; less than a cent was left",
        )  # fmt: skip


def _obstacle(posted: int, paid: int) -> str:
    if posted < 0:
        return f"The balance is below zero: {money.display(posted)}. Add funds to pay that off first."
    if settings.ACCOUNT_CLOSING == "block" and paid >= money.PICO_PER_CENT:
        return (
            f"{money.display(paid)} of what you paid is not spent. Spend it first, or write to "
            f"{settings.SUPPORT_EMAIL} to have it refunded; then the account can be closed."
        )
    return ""
