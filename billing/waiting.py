"""What of the money waits for a person: the first page of the admin says it. Reads what is open, by an index."""

from __future__ import annotations

from dataclasses import dataclass

from billing.models import AccountClosing, Payment, StripeEvent


@dataclass(frozen=True, slots=True)
class Waiting:
    closings: int  # Closed accounts with money left, which somebody has to refund.
    payments: int  # Undecided, because what Stripe says of them does not fit: nothing is credited.
    events: int  # Messages of Stripe's that were given up.


def measure() -> Waiting:
    return Waiting(
        closings=AccountClosing.objects.filter(state=AccountClosing.State.MONEY_LEFT).count(),
        payments=Payment.objects.filter(state__in=Payment.PENDING).exclude(error="").count(),
        events=StripeEvent.objects.filter(processed_at=None, next_attempt_at=None).count(),
    )
