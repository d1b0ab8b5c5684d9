"""Charging the saved card while the customer is away: one attempt of an account at a time.

An attempt is a Payment, committed before Stripe is asked; its id is the idempotency key. `work` may be called at any
time, any number of times and by several at once: it opens an attempt where one is due, or goes on with the one that is
open, or counts the outcome of one that has ended. Nothing here believes that a message of Stripe's will come.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from billing import clock, money
from billing.models import AutoRecharge, Payment, PaymentFlag, RechargeMail
from billing.payments import auto_recharge, flags, fulfilment, stripe_api, stripe_objects
from billing.payments.auto_recharge import Stop

State = Payment.State
LEASE = timedelta(seconds=120)  # Longer than a task may run, and than any request of it.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
# Stripe may forget a key after 24 hours, and the same request would then charge again.
KEY_LIVES = timedelta(hours=20)
CLOCKS_DIFFER = timedelta(minutes=10)
# Confirming is part of the request that makes it; what waits for longer is waiting for nobody.
LEFT_UNCONFIRMED = timedelta(hours=1)
# The bank will say so for ever, or wants that nobody asks again: only another card helps.
HARD_DECLINES = frozenset({
    "card_not_supported", "currency_not_supported", "do_not_try_again", "expired_card", "fraudulent",
    "incorrect_address", "incorrect_cvc", "incorrect_number", "incorrect_zip", "invalid_account", "invalid_cvc",
    "invalid_expiry_month", "invalid_expiry_year", "invalid_number", "lost_card", "merchant_blacklist",
    "new_account_information_available", "not_permitted", "pickup_card", "restricted_card",
    "revocation_of_all_authorizations", "revocation_of_authorization", "security_violation", "stolen_card",
    "stop_payment_order", "testmode_decline", "transaction_not_allowed",
})  # fmt: skip
NOT_STARTED = "not_started"

logger = logging.getLogger(__name__)


def due(account_ids: Collection[int] | None = None) -> list[int]:
    """The accounts, of these or of all, that have something to do: one look into the rows of auto-recharge."""
    if not stripe_api.is_on():
        return []
    ended = ~Q(attempt__state__in=[State.OPEN, State.PROCESSING])
    pursued = Q(attempt__isnull=False) & (Q(attempt_due_at__lte=Now()) | ended)
    found = _with_spendable().filter(_LOW | pursued)
    if account_ids is not None:
        found = found.filter(account__in=account_ids)
    return list(found.order_by("account").values_list("account", flat=True))


def _with_spendable() -> QuerySet[AutoRecharge]:
    return AutoRecharge.objects.alias(spendable=F("account__wallet__posted") - F("account__wallet__held"))


# On, not paused, and below the threshold.
_LOW = Q(
    ~Exists(Payment.objects.filter(account=OuterRef("account"), kind=Payment.Kind.RECHARGE, state__in=Payment.PENDING)),
    ~Exists(PaymentFlag.objects.filter(account=OuterRef("account"), cleared_at=None)),
    enabled=True,
    attempt=None,
    not_before__lte=Now(),
    account__disabled_at=None,
    spendable__lt=F("threshold_cents") * money.PICO_PER_CENT,
)


def tidy() -> None:
    """End what needs nobody any more: confirmations that a payment of the customer's overtook, and closed accounts."""
    auto_recharge.unconfirmed(overtaken=True).update(state=State.CANCELED, updated_at=clock.now())
    closing = AutoRecharge.objects.filter(
        enabled=True, account__disabled_at__isnull=False, account__closing__isnull=False
    )
    for account_id in closing.values_list("account", flat=True):
        with transaction.atomic():
            auto_recharge.stop(_locked(account_id), Stop.CLOSING)


def work(account_id: int) -> None:
    """Do what is due for this account. Safe to repeat, to race and to be killed."""
    now = clock.now()
    again = _claim(account_id, now)
    payment = again or _open(account_id, now)
    if payment is None:
        return
    why = ""
    try:
        _pursue(payment, now, again=again is not None)
    except (stripe_api.Unavailable, stripe_api.NotConfigured) as passing:
        why = f"{type(passing).__name__}: {passing}"
    except (stripe_api.Refused, fulfilment.UnknownPayment) as refusal:
        why = f"Stripe did not tell: {refusal}"
        Payment.objects.filter(pk=payment.pk).update(error=why[:500])
    if not _count(payment):
        _postpone(payment, why)


def _locked(account_id: int) -> AutoRecharge:
    rows = AutoRecharge.objects.select_for_update(no_key=True, of=("self",))
    return rows.select_related("account", "consented_by").get(pk=account_id)


def _claim(account_id: int, now: datetime) -> Payment | None:
    """The attempt that nobody has in hand; another who comes now finds it claimed."""
    with transaction.atomic():
        mine = AutoRecharge.objects.select_for_update(no_key=True, of=("self",)).select_related("attempt")
        found = mine.filter(pk=account_id, attempt__isnull=False).first()
        if found is None or found.attempt is None:
            return None
        ended = found.attempt.state not in (State.OPEN, State.PROCESSING)
        if not ended and found.attempt_due_at and found.attempt_due_at > now:
            return None
        found.attempt_due_at = now + LEASE
        found.save(update_fields=["attempt_due_at"])
        return found.attempt


def _open(account_id: int, now: datetime) -> Payment | None:
    """A new attempt, if one is due. Whoever comes at the same time waits for the row, and finds the attempt."""
    with transaction.atomic():
        found = AutoRecharge.objects.select_for_update(no_key=True).filter(pk=account_id, enabled=True).first()
        # Asked behind the lock, so that a credit which came while we waited is seen.
        if found is None or settings.STRIPE_TAX or not _with_spendable().filter(_LOW, pk=account_id).exists():
            return None
        saved = auto_recharge.card_of(account_id)
        if saved is None:
            auto_recharge.stop(found, Stop.CARD_GONE)
            return None
        charged = auto_recharge.charged_this_month(account_id, now=now)
        if charged + found.amount_cents > found.monthly_cap_cents:
            found.not_before = auto_recharge.month_after(now)
            found.save(update_fields=["not_before"])
            return None
        found.attempt = Payment.objects.create(
            account_id=account_id, kind=Payment.Kind.RECHARGE, livemode=settings.STRIPE_LIVEMODE, created_at=now,
            amount_cents=found.amount_cents, customer=saved.stripe_id or "", payment_method=saved.payment_method,
            requested_by=found.consented_by,
        )  # fmt: skip
        found.attempt_due_at, found.last_attempt_at = now + LEASE, now
        found.not_before = now + timedelta(minutes=found.interval_minutes)
        found.save(update_fields=["attempt", "attempt_due_at", "last_attempt_at", "not_before"])
        return found.attempt


def _pursue(payment: Payment, now: datetime, *, again: bool) -> None:
    """Ask Stripe for the payment, or what became of it. No transaction is open. Raises what asking Stripe raises."""
    if payment.state not in (State.OPEN, State.PROCESSING):
        return
    intent = payment.payment_intent or (_made_before(payment) if again else None)
    if intent is None and (not again or _may_be_sent_again(payment, now)):
        intent = _send(payment)
    elif intent is None and payment.created_at < now - LEASE:
        # Stripe knows nothing of it, and nobody is asking: it was never charged.
        Payment.objects.filter(pk=payment.pk, state=State.OPEN).update(
            state=State.CANCELED, failure_code=NOT_STARTED, updated_at=now
        )
    if intent is not None:
        fulfilment.fulfil(intent)
        if payment.created_at < now - LEFT_UNCONFIRMED:
            _give_up(payment, intent)


def _give_up(payment: Payment, intent: str) -> None:
    """End an attempt that nobody at Stripe goes on with, first there, so that it cannot be paid afterwards."""
    undecided = Payment.objects.filter(pk=payment.pk, state=State.OPEN)
    if not undecided.exists():
        return
    with suppress(stripe_api.Refused):  # It was canceled before, or has been paid meanwhile: Stripe is asked again.
        stripe_api.cancel_intent(intent)
    fulfilment.fulfil(intent)
    # One that fits nothing keeps its error for a person; it need not be waited for either, unless it may be paid.
    if undecided.exists() and stripe_api.intent(intent).status == "canceled":
        undecided.update(state=State.FAILED, failure_code=fulfilment.NOT_CONFIRMED, updated_at=clock.now())


def _made_before(payment: Payment) -> str | None:
    """The answer may have been lost: Stripe would repeat an error of its own for this key, whatever it did."""
    mark = str(payment.pk)
    since = int((payment.created_at - CLOCKS_DIFFER).timestamp())
    try:
        return stripe_api.intent_of_payment(mark, customer=payment.customer, since=since)
    except stripe_api.Refused as refused:
        if (refused.code, refused.param) != ("resource_missing", "customer"):
            raise
    # The customer is gone at Stripe; what was charged is not.
    return stripe_api.intent_of_payment(mark, customer="", since=since)


def _may_be_sent_again(payment: Payment, now: datetime) -> bool:
    """The same request, as long as Stripe knows its key and the customer still wants it."""
    saved = auto_recharge.card_of(payment.account_id)
    same_card = saved is not None and saved.payment_method == payment.payment_method
    wanted = AutoRecharge.objects.filter(pk=payment.account_id, enabled=True, account__disabled_at=None)
    # One of the version before does not say whom it charges, and with another customer it is another request.
    known = payment.customer != "" and payment.created_at > now - KEY_LIVES
    paused = settings.STRIPE_TAX or flags.is_flagged(payment.account_id)
    return known and same_card and wanted.exists() and not paused


def _send(payment: Payment) -> str | None:
    """The id of what Stripe made of it; None where it was not paid, which is then written down."""
    try:
        return stripe_api.charge_saved_card(
            {
                "amount": payment.amount_cents,
                "currency": stripe_api.CURRENCY,
                "customer": payment.customer,
                "payment_method": payment.payment_method,
                # Else Stripe may want a page to which other ways of paying would return.
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                "off_session": True,
                "confirm": True,
                "description": "Prepaid API credit, auto-recharge",
                "metadata": {stripe_objects.PAYMENT: str(payment.pk)},
            },
            key=str(payment.pk),
        )
    except stripe_api.Declined as declined:
        # A decline in an answer need not come as a message, too.
        _note_unpaid(payment, declined.code, declined.intent)
    except stripe_api.Refused as refused:
        _note_unpaid(payment, refused.code, None)
    return None


def _note_unpaid(payment: Payment, code: str, intent: str | None) -> None:
    confirm = code == fulfilment.CONFIRMATION_WANTED
    Payment.objects.filter(pk=payment.pk, state=State.OPEN).update(
        state=State.REQUIRES_ACTION if confirm else State.FAILED,
        failure_code=code[:100],
        payment_intent=intent,
        updated_at=clock.now(),
    )


def _postpone(payment: Payment, why: str) -> None:
    """Nobody knows what became of it: ask again, later and later."""
    now = clock.now()
    pause = min(max(FIRST_PAUSE, (now - payment.created_at) // 2), LONGEST_PAUSE)
    AutoRecharge.objects.filter(attempt=payment).update(attempt_due_at=now + pause)
    logger.warning("recharge %s is undecided, asked again in %s: %s", payment.pk, pause, why)


def _count(payment: Payment) -> bool:
    """Count the outcome, once: whoever finds the attempt still named in the row does so, and takes its name out.

    False where there is no outcome yet.
    """
    with transaction.atomic():
        found = _locked(payment.account_id)
        ended = Payment.objects.get(pk=payment.pk)
        if ended.state in (State.OPEN, State.PROCESSING):
            return False
        if found.attempt_id != payment.pk:
            return True
        found.attempt = found.attempt_due_at = None
        match ended.state:
            case State.PAID:
                found.failures = 0
            case State.REQUIRES_ACTION | State.FAILED:
                _count_failure(found, ended)
        found.save()
    return True


def _count_failure(found: AutoRecharge, payment: Payment) -> None:
    found.failures += 1
    logger.warning("recharge %s failed, %d in a row: %s", payment.pk, found.failures, payment.failure_code)
    reason = _why_stop(found, payment)
    if not found.enabled:
        auto_recharge.end_waiting(found.account_id)
    elif reason is not None:
        auto_recharge.stop(found, reason, payment)
    elif payment.state == State.REQUIRES_ACTION:
        auto_recharge.tell(found.account_id, RechargeMail.About.CONFIRM, payment)
    else:
        auto_recharge.tell(found.account_id, RechargeMail.About.DECLINED, payment)
        found.not_before = max(found.not_before, clock.now() + auto_recharge.BACK_OFF[found.failures - 1])


def _why_stop(found: AutoRecharge, payment: Payment) -> Stop | None:
    if payment.state == State.FAILED and payment.payment_intent is None:
        return Stop.REFUSED
    if payment.failure_code in HARD_DECLINES:
        return Stop.DECLINED
    return Stop.FAILURES if found.failures >= auto_recharge.MOST_FAILURES else None
