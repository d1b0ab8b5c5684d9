"""What a bank takes back of a payment, and what it warns of.

`apply` may be called at any time, any number of times and by several at once. What moved is what Stripe's balance says:
each balance transaction of a dispute is posted once, taken from the balance below zero, given back above. An inquiry
has none, so it moves nothing. The amount that is disputed is only shown, since a bank may take another.

A dispute flags the account. An inquiry does not: nothing was taken, many end with an answer, and a flag would stop the
recharges of a customer who only asked their bank what a line on a bill is. Staff hear of both, because an inquiry that
nobody answers becomes a dispute.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Min

from billing import clock, money
from billing.models import Dispute, DisputeMail, DisputeMovement, Payment, PaymentFlag, TransferKind
from billing.payments import flags, fulfilment, returns, stripe_api
from billing.payments.stripe_objects import FoundDispute, FoundMovement

logger = logging.getLogger(__name__)


class ForeignMoney(Exception):
    """Stripe's balance moved in a currency in which we keep no books."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for staff."""

    unanswered: int  # Disputes and inquiries.
    first_due: datetime | None
    flagged_accounts: int


def waiting() -> Waiting:
    unanswered = Dispute.objects.filter(status__in=Dispute.UNANSWERED).aggregate(count=Count("pk"), due=Min("due_by"))
    flagged = PaymentFlag.objects.filter(cleared_at=None).aggregate(count=Count("account", distinct=True))
    return Waiting(unanswered["count"], unanswered["due"], flagged["count"])


def apply(dispute_id: str) -> Dispute | None:
    """Write down what Stripe says of this dispute and post what moved; None where the payment is not ours.

    Raises returns.NotPaid, ForeignMoney, fulfilment.UnknownPayment, stripe_api.Refused or Unavailable.
    """
    asked_at = clock.now()
    found = stripe_api.dispute(dispute_id)
    payment = _payment(found.payment_intent)
    if payment is None:
        return None
    # First and by itself: staff must hear of a dispute whose money cannot be posted, too.
    dispute = _write_down(payment, found, asked_at)
    if found.movements and payment.payment_intent != found.payment_intent:
        raise returns.NotPaid(f"{found.payment_intent} was not credited to payment {payment.pk}.")
    for movement in sorted(found.movements, key=lambda movement: (movement.created, movement.amount)):
        _post(dispute, movement)
    return dispute


def warn(warning_id: str) -> Payment | None:
    """Flag the account whose payment the bank takes for fraud; no money moves. None where it is not ours.

    Raises fulfilment.UnknownPayment, stripe_api.Refused or Unavailable.
    """
    found = stripe_api.fraud_warning(warning_id)
    payment = _payment(found.payment_intent)
    if payment is None:
        return None
    flags.flag(payment, cause=found.id, reason=f"Bank warns of fraud: {_words(found.fraud_type)}")
    return payment


def _payment(payment_intent: str | None) -> Payment | None:
    """The payment of ours that this paid, credited first if nobody has told us of it yet."""
    if payment_intent is None:
        return None
    known = Payment.objects.filter(payment_intent=payment_intent, state=Payment.State.PAID).first()
    return known or fulfilment.fulfil(payment_intent)


def _write_down(payment: Payment, found: FoundDispute, asked_at: datetime) -> Dispute:
    facts: dict[str, Any] = {
        "amount_cents": found.amount,
        "status": found.status,
        "reason": found.reason,
        "due_by": found.due_by,
        "opened_at": found.created,
        "closed_at": asked_at if found.status in Dispute.CLOSED else None,
        "asked_at": asked_at,
    }
    with transaction.atomic():
        made, is_new = Dispute.objects.get_or_create(stripe_id=found.id, defaults={"payment": payment, **facts})
        dispute = Dispute.objects.select_for_update(no_key=True).select_related("payment").get(pk=made.pk)
        # Whoever asked later knows as much or more. One who asked earlier and comes later is out of date.
        if not is_new and dispute.asked_at < asked_at:
            if dispute.closed_at and facts["closed_at"]:
                del facts["closed_at"]  # It is closed since then.
            for name, fact in facts.items():
                setattr(dispute, name, fact)
            dispute.save()
        _tell(dispute)
    return dispute


def _tell(dispute: Dispute) -> None:
    """The operator, once of an inquiry and once of a dispute, and whoever would charge the account."""
    about = DisputeMail.About.INQUIRY if dispute.is_inquiry else DisputeMail.About.DISPUTE
    DisputeMail.objects.bulk_create([DisputeMail(dispute=dispute, about=about)], ignore_conflicts=True)
    if not dispute.is_inquiry:
        reason = f"Dispute of {money.display_cents(dispute.amount_cents)}: {_words(dispute.reason)}"
        flags.flag(dispute.payment, cause=dispute.stripe_id, reason=reason)


def _post(dispute: Dispute, movement: FoundMovement) -> None:
    if movement.currency != stripe_api.CURRENCY:
        raise ForeignMoney(f"{movement.id} of {dispute.stripe_id} is in {movement.currency}.")
    if movement.amount == 0:
        return  # A fee alone.
    paid_at = dispute.payment.paid_at
    with transaction.atomic():
        transfer = returns.move(
            dispute.payment,
            -movement.amount,
            kind=TransferKind.DISPUTE,
            cause=f"stripe:dp:{dispute.stripe_id}:{movement.id}",
            now=clock.now(),
            reason=f"Payment of {paid_at:%Y-%m-%d}" if paid_at else "",
        )
        facts = {"dispute": dispute, "cents": movement.amount, "moved_at": movement.created, "transfer": transfer}
        DisputeMovement.objects.get_or_create(stripe_id=movement.id, defaults=facts)


def _words(code: str) -> str:
    return code.replace("_", " ")
