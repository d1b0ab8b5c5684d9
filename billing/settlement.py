"""Which wallets have recorded calls to charge, and charging them all.

The usage record is the queue of record. A message that names a wallet is only a doorbell: if it is lost, the sweep of
pending wallets finds the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

from django.db import DatabaseError, connection
from structlog.contextvars import bound_contextvars

from billing import ledger
from billing.models import CreditLot, UsageRecord

logger = logging.getLogger(__name__)

NAMED_CALLS = 20  # In one line of a log.


def settle_accounts(*, account_ids: Iterable[int]) -> int:
    """Charge everything recorded so far for these accounts; returns the number of calls. Safe to repeat and to race.

    One wallet that is locked for long, or broken, does not keep the others waiting: it is logged, and rung for again.
    """
    calls = 0
    for account_id in sorted(set(account_ids)):
        with bound_contextvars(account_id=account_id):
            calls += _settle(account_id)
    return calls


def _settle(account_id: int) -> int:
    calls = 0
    try:
        while batch := ledger.settle(account_id=account_id).calls:
            logger.debug("settled %d calls of account %s", batch, account_id)
            calls += batch
    except DatabaseError:
        logger.exception("account %s could not be settled; calls that wait: %s", account_id, _waiting(account_id))
    return calls


def _waiting(account_id: int) -> str:
    """The oldest calls that are not charged, for a log."""
    try:
        waiting = UsageRecord.objects.filter(account_id=account_id, settled_at=None).order_by("pk")
        return ", ".join(map(str, waiting.values_list("pk", flat=True)[:NAMED_CALLS])) or "none"
    except DatabaseError:
        return "unknown"


def pending_accounts() -> list[int]:
    """The accounts with recorded calls that are not charged yet."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT account_id FROM billing_usagerecord WHERE settled_at IS NULL")
        return [row[0] for row in cursor.fetchall()]


def expire_credit(*, now: datetime) -> int:
    """Take back promotional credit whose time is over, wallet by wallet; returns pico-USD."""
    expired = CreditLot.objects.filter(remaining__gt=0, expires_at__lte=now)
    taken = 0
    for account_id in expired.order_by("wallet_id").values_list("wallet_id", flat=True).distinct():
        try:
            taken += ledger.expire_lots(account_id=account_id, now=now)
        except DatabaseError:
            logger.exception("credit of account %s could not be expired", account_id)
    return taken
