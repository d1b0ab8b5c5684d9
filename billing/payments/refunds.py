"""Giving money of a payment back to its card.

A refund of ours begins with a hold on the balance, in one transaction with its row. Then Stripe is asked, with the id
of the row as the key. Once there is a refund at Stripe the money has left us, whatever its state is called there
(pending, requires_action or succeeded), so it is posted, once; only failed and canceled bring it back. A refusal gives
the hold back. Whoever dies on the way leaves a row with a hold, with which `sweep` goes on.

What is refunded on Stripe's dashboard is written down by `apply`. It is never refused: what was spent becomes debt.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.audit import Action
from accounts.models import Account, User
from billing import clock, ledger, money, refund_mails
from billing.models import Payment, Refund, RefundMail, TransferKind
from billing.payments import fulfilment, refund_room, returns, stripe_api, stripe_objects
from billing.payments.stripe_objects import SentRefund

State = Refund.State
KEY_LIFETIME = timedelta(hours=20)  # Stripe forgets a key after 24.
LEFT_BEHIND = timedelta(minutes=1)  # Longer than somebody waits for Stripe's answer.
SWEPT = 100
CAME_BACK = ("failed", "canceled")

logger = logging.getLogger(__name__)


class CannotRefund(Exception):
    """The sentence says to staff why not."""


class NotCredited(Exception):
    """Stripe refunded what we never credited, so there is nothing to take back."""


def start(*, form: UUID, payment: Payment, cents: int, reason: str, by: User) -> Refund:
    """Give so much of the payment back, tax included; the same form again is the same refund.

    Where Stripe does not answer the refund stays held, and goes on by itself. Raises CannotRefund.
    """
    if not stripe_api.is_on() or payment.livemode != settings.STRIPE_LIVEMODE:
        raise CannotRefund("The key of Stripe that is configured here is not the one with which this was paid.")
    return go_on(_hold(form, payment, cents, reason.strip(), by))


def go_on(refund: Refund) -> Refund:
    """Ask Stripe for a refund that is held, and write down what it says. Doing it again does nothing."""
    if refund.state != State.HELD:
        return refund
    try:
        sent = _ask(refund)
    except stripe_api.Refused as refused:
        return _give_up(refund, refused.code)
    except (stripe_api.Unavailable, stripe_api.NotConfigured) as silent:
        refund.error = f"{type(silent).__name__}: {silent}"
        refund.save(update_fields=["error", "updated_at"])
        return refund
    return _write(refund.payment_id, sent)


def apply(stripe_id: str) -> Refund | None:
    """Write down what Stripe says of this refund; None for one of a payment that is not ours.

    Raises NotCredited, fulfilment.UnknownPayment, stripe_api.Refused or Unavailable.
    """
    return _apply(stripe_api.refund(stripe_id))


def apply_all(*, charge: str) -> list[Refund]:
    """The same for all refunds of a charge; none where it is not of a payment of ours."""
    applied = [_apply(sent) for sent in stripe_api.refunds({"charge": charge})]
    return [refund for refund in applied if refund is not None]


def refresh(refund: Refund) -> Refund:
    """Ask Stripe what became of a refund, or for it. Raises what `apply` raises."""
    return (apply(refund.stripe_id) or refund) if refund.stripe_id else go_on(refund)


def sweep(*, now: datetime) -> None:
    """Go on with what was left behind: by a process that died, or because Stripe did not answer."""
    if not stripe_api.is_on():
        return
    left = Refund.objects.filter(
        state=State.HELD, payment__livemode=settings.STRIPE_LIVEMODE, updated_at__lt=now - LEFT_BEHIND
    )
    for refund in left.select_related("payment").order_by("updated_at")[:SWEPT]:
        if go_on(refund).state == State.HELD:
            return  # The next sweep asks again, and for the others first.


def start_all(*, form: UUID, account: Account, reason: str, by: User) -> tuple[list[Refund], list[str]]:
    """Give everything back that can be; the same form again adds nothing. Also returns what could not be, in words."""
    begun, obstacles = [], []
    for part in refund_room.parts_of(account, now=clock.now()):
        try:
            begun.append(
                start(form=uuid5(form, str(part.payment.pk)), payment=part.payment, cents=part.cents,
                      reason=reason, by=by)
            )  # fmt: skip
        except CannotRefund as obstacle:
            obstacles.append(str(obstacle))
    return begun, obstacles


def _hold(form: UUID, payment: Payment, cents: int, reason: str, by: User) -> Refund:
    now = clock.now()
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)
        before = Refund.objects.filter(pk=form).first()
        if before is not None:
            if (before.payment_id, before.amount_cents) != (payment.pk, cents):
                raise CannotRefund("This form was used for another refund. Open it again.")
            return before
        _insist(payment, cents, reason, now)
        try:
            ledger.hold_refund(id=form, account=payment.account, amount=refund_room.credit_of(payment, cents), now=now)
        except ledger.InsufficientBalance:
            raise CannotRefund("The money was spent meanwhile. Open the form again.") from None
        refund = Refund.objects.create(
            id=form, payment=payment, amount_cents=cents, state=State.HELD, hold_id=form,
            source=Refund.Source.ADMIN, requested_by=by, reason=reason,
        )  # fmt: skip
        amount = money.display_cents(cents)
        audit.record(Action.REFUND_STARTED, account=payment.account, by=by, object=amount)
    return refund


def _insist(payment: Payment, cents: int, reason: str, now: datetime) -> None:
    if payment.state != Payment.State.PAID:
        raise CannotRefund("Only a payment that was paid can be refunded.")
    if not reason:
        raise CannotRefund("A refund needs a reason.")
    found = refund_room.room(payment, now=now)
    if found.under_way:
        raise CannotRefund("Another refund of this payment is under way. Wait until Stripe has answered.")
    if not 0 < cents <= found.most:
        raise CannotRefund(f"Between $0.01 and {money.display_cents(found.most)} can be refunded now.")
    if refund_room.credit_of(payment, cents) == 0:
        raise CannotRefund("So little of this payment is tax alone. Choose another amount.")


def _ask(refund: Refund) -> SentRefund:
    intent = refund.payment.payment_intent or ""
    if refund.created_at < clock.now() - KEY_LIFETIME:
        # Stripe may have forgotten the key, and would refund again.
        for sent in stripe_api.refunds({"payment_intent": intent}):
            if sent.refund == str(refund.pk):
                return sent
    return stripe_api.create_refund(
        {
            "payment_intent": intent,
            "amount": refund.amount_cents,
            "reason": "requested_by_customer",
            "metadata": {stripe_objects.REFUND: str(refund.pk)},
        },
        key=str(refund.pk),
    )


def _give_up(refund: Refund, code: str) -> Refund:
    with transaction.atomic():
        Payment.objects.select_for_update(no_key=True).get(pk=refund.payment_id)
        refund.refresh_from_db()
        if refund.state == State.HELD:
            ledger.release_refund(id=refund.pk)
            refund.state, refund.hold, refund.failure_reason, refund.error = State.REFUSED, None, code[:100], ""
            refund.save()
            logger.warning("refund %s was refused by Stripe: %s", refund.pk, code)
    return refund


def _apply(sent: SentRefund) -> Refund | None:
    if sent.payment_intent is None:
        return None
    payment = Payment.objects.filter(payment_intent=sent.payment_intent).first()
    if payment is None or payment.state != Payment.State.PAID:
        payment = fulfilment.fulfil(sent.payment_intent)
    if payment is None:
        return None
    if payment.state != Payment.State.PAID or payment.payment_intent != sent.payment_intent:
        raise NotCredited(f"{sent.id} is of {sent.payment_intent}, which was not credited to payment {payment.pk}.")
    return _write(payment.pk, sent)


def _write(payment_id: UUID, sent: SentRefund) -> Refund:
    """Nothing outside is asked in here, so the payment is locked for a moment only."""
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
        refund = _row(payment, sent)
        is_new, failed_before = refund.posted_at is None, refund.state == State.FAILED
        if is_new:
            _post(payment, refund, sent)
        if sent.status in CAME_BACK:
            _take_back(payment, refund, sent)
        elif refund.state not in (State.SUCCEEDED, State.FAILED):  # Else what we were told is older.
            refund.state = State.SUCCEEDED if sent.status == "succeeded" else State.SENT
        refund.error = ""
        refund.save()
        if refund.state == State.FAILED and not failed_before:
            refund_mails.queue(refund, RefundMail.About.FAILED)
        elif is_new:
            refund_mails.queue(refund, RefundMail.About.SENT)
    return refund


def _row(payment: Payment, sent: SentRefund) -> Refund:
    known = Refund.objects.filter(stripe_id=sent.id).first()
    if known is not None:
        return known
    begun = payment.refunds.filter(stripe_id=None, amount_cents=sent.amount)
    ours = next((refund for refund in begun if str(refund.pk) == sent.refund), None)
    return ours or Refund(payment=payment, amount_cents=sent.amount, source=Refund.Source.STRIPE)


def _post(payment: Payment, refund: Refund, sent: SentRefund) -> None:
    now = clock.now()
    refund.tax_cents = sent.amount - returns.net_of(payment, sent.amount)
    refund.transfer = returns.move(
        payment, sent.amount, kind=TransferKind.REFUND, cause=f"stripe:re:{sent.id}", now=now,
        hold=refund.hold_id, reason=_words(payment, refund), by=refund.requested_by,
    )  # fmt: skip
    refund.stripe_id, refund.hold, refund.posted_at, refund.failure_reason = sent.id, None, now, ""


def _take_back(payment: Payment, refund: Refund, sent: SentRefund) -> None:
    """It did not arrive: what was taken is paid money of the account again."""
    if refund.state == State.FAILED:
        return
    returns.move(
        payment, -sent.amount, kind=TransferKind.REFUND, cause=f"stripe:re:{sent.id}:failed", now=clock.now(),
        reason=f"Did not reach the card: {_words(payment, refund)}",
    )  # fmt: skip
    refund.state, refund.failure_reason = State.FAILED, (sent.failure_reason or sent.status)[:100]
    logger.error("refund %s (%s) failed: %s", refund.pk, sent.id, refund.failure_reason)


def _words(payment: Payment, refund: Refund) -> str:
    """For the customer's statement."""
    whole = money.display_cents(refund.amount_cents)
    tax = f", of which {money.display_cents(refund.tax_cents)} is tax" if refund.tax_cents else ""
    return f"{whole} to the card{tax}, of the payment of {payment.paid_at:%Y-%m-%d}"
