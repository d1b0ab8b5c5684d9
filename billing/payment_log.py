"""The payments of an account as its people read them: newest first, each with what became of it and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import prefetch_related_objects

from accounts.models import Account
from billing import money
from billing.models import Dispute, Payment, Receipt, Refund

PAGE_SIZE = 25
State = Payment.State
# Where a payment stands, for a person, and the tone of it.
WORDS = {
    State.OPEN: ("Not finished", "none"),
    State.PROCESSING: ("Processing", "none"),
    State.REQUIRES_ACTION: ("Needs you", "warn"),
    State.PAID: ("Paid", ""),
    State.FAILED: ("Failed", "bad"),
    State.CANCELED: ("Canceled", "none"),
}
NOTES = {
    State.OPEN: "Nothing was paid yet. Unfinished payments end by themselves.",
    State.PROCESSING: "The bank takes its time. It is credited as soon as the money has come.",
    State.REQUIRES_ACTION: "Your bank wants you to confirm it: add the same amount yourself.",
    State.CANCELED: "Nothing was paid.",
}
# Stripe's codes of declines that a person can do something about.
WHY = {
    "authentication_required": "The bank wanted a confirmation, and none came.",
    "card_declined": "The bank declined the card. Ask it, or take another card.",
    "expired_card": "The card has expired. Take another one.",
    "incorrect_cvc": "The security code of the card was wrong.",
    "insufficient_funds": "The card has not enough money.",
    "not_confirmed": "The payment service did not get it done, so it was called off.",
    "processing_error": "The bank could not process it. Try again in a moment.",
}
OTHERWISE = "The bank refused it. Take another card, or write to us."
UNCLEAR = "Something does not fit, and we are looking at it. Nothing is lost: write to us if it takes long."


@dataclass(frozen=True, slots=True)
class Line:
    payment: Payment
    receipt: Receipt | None
    word: str
    tone: str
    why: str
    since: list[str]

    @property
    def paid_cents(self) -> int | None:
        """With the tax; None as long as nothing is paid."""
        return self.payment.total_cents if self.payment.state == State.PAID else None


@dataclass(frozen=True, slots=True)
class Page:
    """`older` is the id after which the next page begins."""

    lines: list[Line]
    older: UUID | None


def page(account: Account, *, before: UUID | None = None) -> Page:
    found = Payment.objects.filter(account=account).select_related("receipt").order_by("-id")
    if before is not None:
        found = found.filter(pk__lt=before)
    payments = list(found[: PAGE_SIZE + 1])
    shown = payments[:PAGE_SIZE]
    return Page(lines(shown), shown[-1].pk if len(payments) > PAGE_SIZE else None)


def lines(payments: Sequence[Payment]) -> list[Line]:
    """Read together with what followed them."""
    prefetch_related_objects(payments, "refunds", "disputes__movements")
    return [line_of(payment) for payment in payments]


def since_paid(payment: Payment) -> list[str]:
    """What was given back of it or disputed, and what became of that: a sentence each, the oldest first of its kind."""
    refunds = [refund for refund in payment.refunds.all() if refund.state != Refund.State.REFUSED]
    told = [_told(refund) for refund in sorted(refunds, key=lambda refund: refund.created_at)]
    disputes = [dispute for dispute in payment.disputes.all() if dispute.status != Dispute.Status.WARNING_CLOSED]
    return told + [_dispute_told(dispute) for dispute in sorted(disputes, key=lambda dispute: dispute.opened_at)]


def _told(refund: Refund) -> str:
    amount = money.display_cents(refund.amount_cents)
    match refund.state:
        case Refund.State.HELD:
            return f"{amount} is being refunded."
        case Refund.State.SENT:
            return f"{amount} is on its way back to the card since {refund.posted_at:%Y-%m-%d}."
        case Refund.State.FAILED:
            return (
                f"A refund of {amount} on {refund.posted_at:%Y-%m-%d} did not reach the card: "
                "the money is in the balance again."
            )
    return f"{amount} was refunded on {refund.posted_at:%Y-%m-%d}."


def _dispute_told(dispute: Dispute) -> str:
    when = f"{dispute.opened_at:%Y-%m-%d}"
    if dispute.is_inquiry:
        return f"The bank asks us about it since {when}. Nothing was taken back."
    taken = _taken_cents(dispute)
    amount = money.display_cents(taken) if taken else "nothing"
    if dispute.closed_at is None:
        return f"Disputed at the bank on {when}: {amount} is taken back until it is decided."
    return f"Disputed at the bank on {when}: {amount} was taken back in the end."


def _taken_cents(dispute: Dispute) -> int:
    return -sum(movement.cents for movement in dispute.movements.all())


def _is_disputed(dispute: Dispute) -> bool:
    return not dispute.is_inquiry and (dispute.closed_at is None or _taken_cents(dispute) > 0)


def line_of(payment: Payment) -> Line:
    state = State(payment.state)
    word, tone = WORDS[state]
    why = NOTES.get(state, "")
    if state == State.OPEN and payment.kind == Payment.Kind.RECHARGE:
        word, why = "Under way", "The saved card is being charged. We are waiting for what the payment service says."
    if state == State.FAILED:
        why = WHY.get(payment.failure_code, OTHERWISE)
    gone = sum(refund.amount_cents for refund in payment.refunds.all() if refund.state in Refund.GONE)
    if gone:
        word, tone = ("Refunded" if gone >= (payment.total_cents or 0) else "Partly refunded"), "none"
    if any(_is_disputed(dispute) for dispute in payment.disputes.all()):
        word, tone = "Disputed", "bad"
    if payment.error and state != State.PAID:
        why = UNCLEAR
    return Line(payment, getattr(payment, "receipt", None), word, tone, why, since_paid(payment))
