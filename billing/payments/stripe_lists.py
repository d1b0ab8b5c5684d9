"""Stripe's lists, a page at a time, the newest first, and what is read of what they hold.

Whoever reads them wants to know whether Stripe may know more of an object than we. Then the object is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict, TypeVar

import stripe
from stripe.params import (
    BalanceTransactionListParams,
    DisputeListParams,
    EventListParams,
    PaymentIntentListParams,
    RefundListParams,
)

from billing.payments import stripe_api, stripe_objects
from billing.payments.stripe_api import Page

PAGE = 100  # The most that Stripe lists at once.


class _ListParams(TypedDict):
    """What the parameters of all lists have."""

    limit: NotRequired[int]
    starting_after: NotRequired[str]


_Params = TypeVar("_Params", bound=_ListParams)


@dataclass(frozen=True, slots=True)
class Span:
    """What of a list is asked for: what was made from `since` to `until`, behind the object `after` where given."""

    since: datetime
    until: datetime
    after: str

    @property
    def first(self) -> int:
        return int(self.since.timestamp())

    @property
    def last(self) -> int:
        return int(self.until.timestamp())


@dataclass(frozen=True, slots=True)
class ListedEvent:
    id: str
    type: str
    api_version: str
    created: datetime
    livemode: bool
    payload: str


@dataclass(frozen=True, slots=True)
class ListedIntent:
    id: str
    status: str
    payment: str  # Our Payment's id; empty for what is not ours.


@dataclass(frozen=True, slots=True)
class ListedRefund:
    id: str
    status: str
    payment_intent: str


@dataclass(frozen=True, slots=True)
class ListedDispute:
    id: str
    status: str
    payment_intent: str
    movements: int


@dataclass(frozen=True, slots=True)
class Movement:
    """A balance transaction, in cents. `kind` and `source` are of the object that caused it; a charge, a refund and a
    dispute have a PaymentIntent, too, and a charge names our Payment in `payment`."""

    id: str
    type: str
    reporting_category: str
    amount: int
    fee: int
    net: int
    currency: str
    created: datetime
    available_on: datetime
    kind: str
    source: str
    payment_intent: str
    payment: str


def events(span: Span) -> Page[ListedEvent]:
    """Stripe keeps them for 30 days. Raises Refused, Unavailable, NotConfigured, as all lists."""
    params: EventListParams = {"created": {"gte": span.first, "lte": span.last}}
    return stripe_api.page(lambda client: client.v1.events.list(_placed(params, span)), _event)


def intents(span: Span) -> Page[ListedIntent]:
    params: PaymentIntentListParams = {"created": {"gte": span.first, "lte": span.last}}
    return stripe_api.page(lambda client: client.v1.payment_intents.list(_placed(params, span)), _intent)


def refunds(span: Span) -> Page[ListedRefund]:
    params: RefundListParams = {"created": {"gte": span.first, "lte": span.last}}
    return stripe_api.page(lambda client: client.v1.refunds.list(_placed(params, span)), _refund)


def disputes(span: Span) -> Page[ListedDispute]:
    params: DisputeListParams = {"created": {"gte": span.first, "lte": span.last}}
    return stripe_api.page(lambda client: client.v1.disputes.list(_placed(params, span)), _dispute)


def movements(span: Span) -> Page[Movement]:
    params: BalanceTransactionListParams = {
        "created": {"gte": span.first, "lte": span.last}, "expand": ["data.source"],
    }  # fmt: skip
    return stripe_api.page(lambda client: client.v1.balance_transactions.list(_placed(params, span)), _movement)


def _placed(params: _Params, span: Span) -> _Params:
    params["limit"] = PAGE
    if span.after:
        params["starting_after"] = span.after
    return params


def _event(found: stripe.Event) -> ListedEvent:
    return ListedEvent(
        id=found.id,
        type=found.type,
        api_version=found.api_version or "",
        created=stripe_objects.moment_of(found.created),
        livemode=found.livemode,
        payload=str(found),  # As JSON.
    )


def _intent(found: stripe.PaymentIntent) -> ListedIntent:
    return ListedIntent(id=found.id, status=found.status, payment=stripe_objects.mark_of(found.metadata))


def _refund(found: stripe.Refund) -> ListedRefund:
    return ListedRefund(id=found.id, status=found.status or "", payment_intent=_id(found.payment_intent))


def _dispute(found: stripe.Dispute) -> ListedDispute:
    intent, moved = _id(found.payment_intent), len(found.balance_transactions)
    return ListedDispute(id=found.id, status=found.status, payment_intent=intent, movements=moved)


def _movement(found: stripe.BalanceTransaction) -> Movement:
    source = found.source
    intent = source.payment_intent if isinstance(source, (stripe.Charge, stripe.Refund, stripe.Dispute)) else None
    return Movement(
        id=found.id,
        type=found.type,
        reporting_category=found.reporting_category,
        amount=found.amount,
        fee=found.fee,
        net=found.net,
        currency=found.currency,
        created=stripe_objects.moment_of(found.created),
        available_on=stripe_objects.moment_of(found.available_on),
        kind=str(source["object"]) if isinstance(source, stripe.StripeObject) else "",
        source=_id(source),
        payment_intent=_id(intent),
        payment=stripe_objects.mark_of(source.metadata) if isinstance(source, stripe.Charge) else "",
    )


def _id(expandable: stripe.StripeObject | str | None) -> str:
    return stripe_objects.id_of(expandable) or ""
