"""What became of a payment: asked of Stripe, and written down once.

`fulfil` may be called at any time, any number of times and by several at once: by the worker of events, by the page to
which a customer returns, by a sweep. A payment is credited when Stripe says that it succeeded and when all of it is
what we asked for. What does not fit credits nothing and stays as the payment's `error`, for a person.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts import audit
from accounts.audit import Action
from billing import clock, ledger, money, receipts
from billing.models import CreditLot, LedgerAccount, Payment, StripeCustomer, TransferKind
from billing.payments import customers, stripe_api
from billing.payments.stripe_objects import Checkout, Intent

State = Payment.State
ERROR_LENGTH = 500
LOOK_PAUSE = timedelta(seconds=10)  # A page asks every three seconds, and may be open several times.
UNDECIDED = timedelta(minutes=5)
CONFIRMATION_WANTED = "authentication_required"  # The bank would pay if the customer were there.
NOT_CONFIRMED = "not_confirmed"  # Nobody went on with it at Stripe, and it was canceled there.
NEVER_STARTED = timedelta(hours=2)  # Longer than a form can be sent again.
SWEPT = 100

logger = logging.getLogger(__name__)


class UnknownPayment(Exception):
    """An object of Stripe's names a payment of ours that does not exist."""


def fulfil(payment_intent: str) -> Payment | None:
    """Write down what Stripe says of this PaymentIntent, and credit it if it is paid; None for one that is not ours.

    Raises UnknownPayment, and stripe_api.Refused or Unavailable.
    """
    intent = stripe_api.intent(payment_intent)
    if not intent.payment:
        return None
    payment = _payment(intent)
    session = None
    if payment.kind == Payment.Kind.TOPUP:
        known = payment.checkout_session
        session = stripe_api.checkout(known) if known else stripe_api.checkout_of(intent.id)
    if session and session.status == "complete" and intent.status != "succeeded":
        # Paid between the two questions, perhaps: an older intent would look as if the bank had said no.
        intent = stripe_api.intent(payment_intent)
    return _write(payment.pk, intent, session)


def fulfil_session(session_id: str) -> Payment | None:
    """The same for a Checkout session, whose PaymentIntent may not be there yet."""
    session = stripe_api.checkout(session_id)
    if not session.payment:
        return None
    intent = stripe_api.intent(session.payment_intent) if session.payment_intent else None
    return _write(_payment(session).pk, intent, session)


def refresh(payment: Payment) -> Payment:
    """The same for a payment of ours, which Stripe may know nothing of yet."""
    found = None
    if payment.checkout_session:
        found = fulfil_session(payment.checkout_session)
    elif payment.payment_intent:
        found = fulfil(payment.payment_intent)
    return found or payment


def look(payment: Payment, *, now: datetime) -> Payment:
    """The same for whoever waits at a page: Stripe is asked once in LOOK_PAUSE, however many look."""
    if payment.state not in Payment.PENDING or not (payment.checkout_session or payment.payment_intent):
        return payment
    due = Payment.objects.filter(Q(asked_at=None) | Q(asked_at__lte=now - LOOK_PAUSE), pk=payment.pk)
    return refresh(payment) if due.update(asked_at=now) else payment


def sweep(*, now: datetime) -> None:
    """Ask about top-ups that have been undecided for a while: a message of Stripe's may have been lost.

    Recharges have a sweep of their own.
    """
    mode = Payment.objects.filter(livemode=settings.STRIPE_LIVEMODE, state__in=Payment.PENDING, kind=Payment.Kind.TOPUP)
    if not stripe_api.is_on():
        return
    # What Stripe was never asked for, nobody can pay: we died in between, and the customer did not come back.
    mode.filter(checkout_session=None, created_at__lt=now - NEVER_STARTED).update(state=State.CANCELED)
    at_stripe = mode.exclude(checkout_session=None, payment_intent=None)
    for payment in at_stripe.filter(updated_at__lt=now - UNDECIDED).order_by("updated_at")[:SWEPT]:
        try:
            refresh(payment)
        except stripe_api.Refused as refused:
            _mark(payment, f"Stripe refused to tell: {refused.code}.")
        except UnknownPayment as unknown:
            _mark(payment, str(unknown))
        except stripe_api.Unavailable:
            return  # The next sweep asks again.
        except SoftTimeLimitExceeded:
            raise
        except Exception as fault:
            # One payment that cannot be written down must not keep the others from being asked about.
            logger.exception("payment %s was not written down", payment.pk)
            _mark(payment, f"It could not be written down: {type(fault).__name__}.")


def _mark(payment: Payment, error: str) -> None:
    payment.error = error[:ERROR_LENGTH]
    payment.save(update_fields=["error", "updated_at"])


def _payment(found: Intent | Checkout) -> Payment:
    try:
        return Payment.objects.get(pk=UUID(found.payment))
    except (ValueError, Payment.DoesNotExist):
        raise UnknownPayment(f"{found.id} is for payment {found.payment[:40]!r}, which does not exist.") from None


def _write(payment_id: UUID, intent: Intent | None, session: Checkout | None) -> Payment:
    """Nothing outside is asked in here, so the payment is locked for a moment only."""
    with transaction.atomic():
        payment = Payment.objects.select_for_update(of=("self",)).select_related("account").get(pk=payment_id)
        misfit = _misfit(payment, intent, session)
        if misfit:
            payment.error = misfit[:ERROR_LENGTH]
            logger.error("payment %s is not credited: %s", payment.pk, misfit)
        elif payment.state != State.PAID:
            payment.error = ""
            payment.checkout_session = session.id if session else payment.checkout_session
            if intent is not None:
                payment.payment_intent = intent.id
                payment.failure_code = intent.failure_code
            if intent is not None and intent.status == "succeeded":
                _credit(payment, intent, tax=session.tax if session else 0)
            else:
                payment.state = _unpaid_state(payment, intent, session)
        payment.save()
        if payment.paid_at is not None:
            receipts.issue(payment, payment.paid_at)  # Last: it holds the numbers of all receipts.
    return payment


def _misfit(payment: Payment, intent: Intent | None, session: Checkout | None) -> str:
    """Why this is not the payment that we asked for; empty when it is."""
    known = StripeCustomer.objects.filter(account=payment.account_id).values_list("stripe_id", flat=True).first()
    customer = payment.customer or known
    # A customer that was deleted at Stripe is another one now; what was paid before is paid all the same.
    was_credited = payment.state == State.PAID
    for found in (intent, session):
        if found is None:
            continue
        if found.livemode != payment.livemode or found.livemode != settings.STRIPE_LIVEMODE:
            return f"{found.id} is of the other mode (live or test)."
        if found.payment != str(payment.pk):
            return f"{found.id} is for payment {found.payment[:40]!r}."
        if not was_credited and (customer is None or found.customer != customer):
            return f"{found.id} is of customer {found.customer}, the account's is {customer}."
        if found.currency != stripe_api.CURRENCY:
            return f"{found.id} is in {found.currency}."
    if session is not None:
        if payment.checkout_session not in (None, session.id):
            return f"{session.id} is not the session of this payment."
        if intent is not None and session.payment_intent != intent.id:
            return f"{intent.id} is not the PaymentIntent of {session.id}."
        if session.net != payment.amount_cents or session.total != session.net + session.tax or session.tax < 0:
            return f"{session.id} is about {session.net} + {session.tax} = {session.total} cents."
    if intent is None:
        return ""
    if payment.payment_intent not in (None, intent.id):
        return f"{intent.id} pays it as well as {payment.payment_intent}."
    if payment.kind == Payment.Kind.TOPUP and session is None:
        return f"{intent.id} was not made by a Checkout session."
    if intent.status == "succeeded":
        asked = session.total if session else payment.amount_cents
        if intent.amount_received != asked:
            return f"{intent.id} paid {intent.amount_received} cents instead of {asked}."
    return ""


def _credit(payment: Payment, intent: Intent, *, tax: int) -> None:
    now = clock.now()
    clearing = LedgerAccount.clearing(livemode=payment.livemode)
    payment.transfer = ledger.credit(
        account=payment.account,
        amount=money.from_cents(payment.amount_cents),
        kind=TransferKind.TOPUP,
        source=clearing,
        cause=f"stripe:pi:{intent.id}",
        now=now,
        lot=CreditLot.Kind.PAID,
        by=payment.requested_by,
    )
    if tax:
        ledger.post(
            amount=money.from_cents(tax),
            kind=TransferKind.TAX,
            debit=clearing,
            credit=LedgerAccount.TAX_PAYABLE,
            cause=f"stripe:tax:{intent.id}",
            now=now,
        )
    action = Action.FUNDS_ADDED if payment.kind == Payment.Kind.TOPUP else Action.FUNDS_ADDED_BY_ITSELF
    credited = money.display_cents(payment.amount_cents)
    audit.record(action, account=payment.account, by=payment.requested_by, object=credited)
    payment.state, payment.paid_at = State.PAID, now
    payment.tax_cents, payment.total_cents = tax, payment.amount_cents + tax
    payment.charge, payment.receipt_url, payment.failure_code = intent.charge, intent.receipt_url, ""
    if payment.save_card and intent.card:
        customers.keep_card(
            payment.account, intent.card, consented_at=payment.created_at, consented_by=payment.requested_by
        )
        card = f"{intent.card.brand} ending in {intent.card.last4}"
        audit.record(Action.CARD_SAVED, account=payment.account, by=payment.requested_by, object=card)


def _unpaid_state(payment: Payment, intent: Intent | None, session: Checkout | None) -> Payment.State:
    """A card that was declined in an open Checkout is not the end: the customer may take another one there."""
    status = intent.status if intent else ""
    if status == "processing":
        return State.PROCESSING
    if payment.kind == Payment.Kind.RECHARGE:
        return _unpaid_recharge(payment, status)
    if status == "canceled" or (session and session.status == "expired"):
        return State.CANCELED
    if session and session.status == "complete":
        # A bank transfer that has not come yet, or a bank account to be verified; else a bank that takes days said no.
        return State.PROCESSING if status == "requires_action" else State.FAILED
    return State.OPEN


def _unpaid_recharge(payment: Payment, status: str) -> Payment.State:
    """It has one attempt. Until the bank has said something Stripe is at it; and what is off stays off."""
    if payment.state == State.CANCELED or (status == "canceled" and payment.state == State.REQUIRES_ACTION):
        return State.CANCELED
    if status == "canceled":
        payment.failure_code = payment.failure_code or NOT_CONFIRMED
        return State.FAILED
    if status == "requires_action" or payment.failure_code == CONFIRMATION_WANTED:
        return State.REQUIRES_ACTION
    return State.FAILED if payment.failure_code else State.OPEN
