"""Credit that nobody paid for: from an operator, for an error of ours or as goodwill, and to start with."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from accounts.models import Account, User
from billing import ledger
from billing.models import CreditLot, LedgerAccount, Transfer, TransferKind

REASON_LENGTH = 500
CAUSE_LENGTH = 150


class InvalidReason(ValueError):
    """A reason, or the name of a cause, is missing or too long."""


def grant(
    *, account: Account, amount: int, reason: str, now: datetime, cause: str | None = None, by: User | None = None
) -> Transfer:
    """Credit an account as an adjustment; it is spent before paid money, and is never refunded to a card.

    `amount` is pico-USD. The same `cause` again credits nothing more. Raises InvalidReason, ledger.InvalidTransfer,
    ledger.CauseReused.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= REASON_LENGTH:
        raise InvalidReason(f"A credit needs a reason of at most {REASON_LENGTH} characters.")
    if cause is not None and not 1 <= len(cause) <= CAUSE_LENGTH:
        raise InvalidReason(f"The name of a cause has 1 to {CAUSE_LENGTH} characters.")
    return ledger.credit(
        account=account,
        amount=amount,
        kind=TransferKind.ADJUSTMENT,
        source=LedgerAccount.ADJUSTMENTS,
        # The prefix keeps the causes of operators apart from those of payments.
        cause=f"adjustment:{cause or uuid4()}",
        now=now,
        lot=CreditLot.Kind.PROMOTIONAL,
        reason=reason,
        by=by,
    )


def welcome(*, account: Account, amount: int, now: datetime) -> Transfer | None:
    """Give an account what it starts with, once for ever; nothing where `amount` (pico-USD) is zero."""
    if amount == 0:
        return None
    cause = f"welcome:{account.pk}"
    given = Transfer.objects.filter(cause=cause).first()
    # The amount may have been another one in those days, which the ledger would take for a mistake.
    return given or ledger.credit(
        account=account,
        amount=amount,
        kind=TransferKind.PROMOTION,
        source=LedgerAccount.PROMOTIONS,
        cause=cause,
        now=now,
        lot=CreditLot.Kind.PROMOTIONAL,
        reason="Welcome credit",
    )
