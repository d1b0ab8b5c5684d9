"""What Stripe did to our balance there, stored as it says and posted to the books.

The amounts of payments, refunds and disputes are posted by those who know them, and here it is seen that they were:
what Stripe has moved and the books have not makes us ask for the object once more. Here are posted fees, payouts, and
what Stripe corrects by itself. What is in another currency or belongs to another app in the same Stripe account posts
nothing; the comparison shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from billing import clock, ledger, money
from billing.models import BalanceTransaction, LedgerAccount, Payment, Transfer, TransferKind
from billing.payments import disputes, fulfilment, inbox, refunds, stripe_api
from billing.payments.stripe_lists import Movement

OF_PAYMENTS = ("charge", "refund", "dispute")  # Kinds of objects that belong to a payment.
FEES = ("stripe_fee", "stripe_fx_fee", "tax_fee")
PAGE = 500
TO_BANK = ("payout", "payout_cancel", "payout_failure", "topup", "topup_reversal")

logger = logging.getLogger(__name__)


def store(found: Sequence[Movement]) -> None:
    """Keep what was listed; what is known already stays as it is."""
    BalanceTransaction.objects.bulk_create([_row(movement) for movement in found], ignore_conflicts=True)


def unposted() -> Iterator[str]:
    """In the order in which they happened; a page at a time is read, and what is posted meanwhile left out."""
    waiting = BalanceTransaction.objects.filter(posted_at=None, livemode=settings.STRIPE_LIVEMODE)
    behind = Q()
    while page := list(waiting.filter(behind).order_by("created", "id").values_list("created", "pk")[:PAGE]):
        yield from (movement_id for _created, movement_id in page)
        created, last = page[-1]
        behind = Q(created__gte=created) & ~Q(created=created, pk__lte=last)


def post(movement_id: str) -> None:
    """Post what this balance transaction asks for; once, whoever asks. Raises stripe_api.Unavailable.

    What cannot be posted stays with its `error`, and is tried again by the next run.
    """
    movement = BalanceTransaction.objects.get(pk=movement_id)
    if movement.posted_at is not None:
        return
    try:
        movement.foreign = _is_foreign(movement)
        if movement.currency == stripe_api.CURRENCY and not movement.foreign:
            _see_that_it_was_posted(movement)
        _write(movement)
    except (stripe_api.Unavailable, stripe_api.NotConfigured, SoftTimeLimitExceeded):
        raise
    except Exception as fault:
        logger.exception("balance transaction %s is not posted", movement.pk)
        BalanceTransaction.objects.filter(pk=movement.pk).update(error=f"{type(fault).__name__}: {fault}"[:500])


def _row(movement: Movement) -> BalanceTransaction:
    return BalanceTransaction(
        id=movement.id, type=movement.type[:100], reporting_category=movement.reporting_category[:100],
        amount_cents=movement.amount, fee_cents=movement.fee, net_cents=movement.net, currency=movement.currency,
        kind=movement.kind[:100], source=movement.source, subject=_subject(movement),
        payment_intent=movement.payment_intent, payment=movement.payment,
        created=movement.created, available_on=movement.available_on, livemode=settings.STRIPE_LIVEMODE,
    )  # fmt: skip


def _subject(movement: Movement) -> str:
    """The id in the causes of our transfers: a payment has that of its PaymentIntent."""
    if movement.kind == "charge":
        return movement.payment_intent or movement.source
    if movement.kind in (*OF_PAYMENTS, "payout", "topup"):
        return movement.source
    return movement.id


def _is_foreign(movement: BalanceTransaction) -> bool:
    if movement.kind not in OF_PAYMENTS:
        return movement.type not in (*FEES, *TO_BANK, "adjustment")
    intent = movement.payment_intent
    if movement.payment or not intent:
        return not movement.payment
    marked = BalanceTransaction.objects.filter(payment_intent=intent).exclude(payment="")
    return not (Payment.objects.filter(payment_intent=intent).exists() or marked.exists())


def _see_that_it_was_posted(movement: BalanceTransaction) -> None:
    """Money of a payment of ours has moved: were we never told, this tells us. The difference shows what is left."""
    try:
        if movement.kind == "charge" and not _is_posted(f"stripe:pi:{movement.payment_intent}"):
            fulfilment.fulfil(movement.payment_intent)
        elif movement.kind == "refund":
            end = ":failed" if movement.amount_cents > 0 else ""
            if not _is_posted(f"stripe:re:{movement.source}{end}"):
                refunds.apply(movement.source)
        elif movement.kind == "dispute" and not _is_posted(f"stripe:dp:{movement.source}:{movement.pk}"):
            disputes.apply(movement.source)
    except inbox.FINAL as final:
        logger.error("balance transaction %s: %s: %s", movement.pk, type(final).__name__, final)


def _is_posted(cause: str) -> bool:
    """Where all that went back was tax, that is the only transfer."""
    return Transfer.objects.filter(cause__in=(cause, f"{cause}:tax")).exists()


def _write(movement: BalanceTransaction) -> None:
    """Nothing outside is asked in here. Two who post the same wait for each other, and the ledger posts it once."""
    with transaction.atomic():
        if movement.currency == stripe_api.CURRENCY and not movement.foreign:
            _post_itself(movement)
        movement.posted_at, movement.error = clock.now(), ""
        movement.save(update_fields=["foreign", "transfer", "fee_transfer", "posted_at", "error"])


def _post_itself(movement: BalanceTransaction) -> None:
    fee = movement.fee_cents
    if movement.type in FEES:
        fee -= movement.amount_cents
    elif movement.type in TO_BANK:
        is_out = movement.type in ("payout", "topup")
        cause = f"stripe:po:{movement.subject}" if is_out else f"stripe:po:{movement.subject}:returned"
        movement.transfer = _move(movement, -movement.amount_cents, TransferKind.PAYOUT, LedgerAccount.BANK, cause)
    elif movement.type == "adjustment" and movement.kind not in OF_PAYMENTS:
        cause = f"stripe:adjustment:{movement.pk}"
        against = LedgerAccount.ADJUSTMENTS
        movement.transfer = _move(movement, -movement.amount_cents, TransferKind.ADJUSTMENT, against, cause)
    cause = f"stripe:fee:{movement.pk}"
    movement.fee_transfer = _move(movement, fee, TransferKind.FEE, LedgerAccount.STRIPE_FEES, cause)


def _move(
    movement: BalanceTransaction, cents: int, kind: TransferKind, against: LedgerAccount, cause: str
) -> Transfer | None:
    """Out of what Stripe holds for us, to this account; back from there where the cents are negative."""
    if not cents:
        return None
    clearing = LedgerAccount.clearing(livemode=movement.livemode)
    debit, credit = (against, clearing) if cents > 0 else (clearing, against)
    amount = money.from_cents(abs(cents))
    return ledger.post(amount=amount, kind=kind, debit=debit, credit=credit, cause=cause, now=movement.created)
