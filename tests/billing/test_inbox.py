"""Messages of Stripe's: only those it signed, each stored once, worked on until they are done, in any order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import stripe as stripe_package
from django.db import connection
from django.http import HttpResponseBase
from django.test import Client
from pytest_django import Settings

from billing import clock
from billing.models import Payment, StripeEvent
from billing.payments import fulfilment, inbox
from tests import factories
from tests.billing.conftest import WEBHOOK_SECRET
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_fulfilment import USD, begun, posted, session_of


def event(kind: str, about: dict[str, Any], **fields: Any) -> str:
    whole = {
        "id": factories.unique("evt"), "object": "event", "type": kind, "created": 1_790_000_000, "livemode": False,
        "api_version": "2026-10-28.endive", "data": {"object": about}, **fields,
    }  # fmt: skip
    return json.dumps(whole)


def signature(body: str, *, secret: str = WEBHOOK_SECRET, at: int | None = None) -> str:
    return str(stripe_package.WebhookSignature.generate_signature_header(body, secret, at))


def deliver(body: str, header: str | None = None) -> HttpResponseBase:
    client = Client(enforce_csrf_checks=True, headers={"Stripe-Signature": header or signature(body)})
    return client.post("/webhooks/stripe/", data=body, content_type="application/json")


def stored(body: str) -> StripeEvent:
    return StripeEvent.objects.get(pk=json.loads(body)["id"])


@pytest.mark.django_db
def test_a_signed_message_is_stored_as_it_came_and_answered_in_plain_text(stripe: FakeStripe) -> None:
    body = event("customer.updated", {"id": "cus_1"})
    answer = deliver(body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain")
    row = stored(body)
    assert (row.payload, row.type, row.source, row.processed_at) == (body, "customer.updated", "webhook", None)


@pytest.mark.django_db
def test_a_repeat_is_stored_once(stripe: FakeStripe) -> None:
    body = event("customer.updated", {"id": "cus_1"})
    assert [deliver(body).status_code for _ in range(3)] == [200, 200, 200]
    assert StripeEvent.objects.filter(pk=json.loads(body)["id"]).count() == 1


@pytest.mark.django_db
def test_the_secret_before_the_last_is_taken_while_it_is_configured(stripe: FakeStripe, settings: Settings) -> None:
    body = event("customer.updated", {"id": "cus_1"})
    header = signature(body, secret="whsec_an_older_one_0123456789")
    assert deliver(body, header).status_code == 200
    settings.STRIPE_WEBHOOK_SECRETS = [WEBHOOK_SECRET]
    assert deliver(body, header).status_code == 400


BODY = event("payment_intent.succeeded", {"id": "pi_1"})


def signed(body: str) -> tuple[str, str]:
    return body, signature(body)


# Made of a message that would credit the payment if it were believed.
BAD: dict[str, Callable[[str], tuple[str, str]]] = {
    "forged": lambda body: (body, signature(body, secret="whsec_of_a_stranger_0123456789")),
    "signed with nothing": lambda body: (body, signature(body, secret="")),
    "tampered": lambda body: (body, signature(BODY)),
    "tampered by a blank": lambda body: (f"{body} ", signature(body)),
    "stale": lambda body: (body, signature(body, at=int(time.time()) - 301)),
    "of the future": lambda body: (body, signature(body, at=int(time.time()) + 330)),
    "without a time": lambda body: (body, "v1=00"),
    "nonsense": lambda body: (body, "nonsense"),
    "with two times": lambda body: (body, f"t=9,{signature(body)}"),
    "of an older scheme": lambda body: (body, signature(body).replace("v1=", "v0=")),
    "of the other mode": lambda body: signed(body.replace('"livemode": false', '"livemode": true')),
    "of no mode": lambda body: signed(body.replace('"livemode": false, ', "")),
    "no JSON": lambda body: signed("{"),
    "no event": lambda body: signed('{"id": "evt_1"}'),
    "a list": lambda body: signed(f"[{body}]"),
    "of no time": lambda body: signed(body.replace("1790000000", str(10**18))),
}


@pytest.mark.django_db
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.usefixtures("at_rest")
def test_what_stripe_did_not_send_changes_nothing(stripe: FakeStripe, bad: Callable[[str], tuple[str, str]]) -> None:
    payment = begun(stripe)
    good = event("payment_intent.succeeded", {"id": stripe.pay(session_of(payment))})
    before = StripeEvent.objects.count()
    body, header = bad(good)
    answer = deliver(body, header)
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "text/plain")
    assert StripeEvent.objects.count() == before
    inbox.sweep()
    assert posted(payment) == 0

    deliver(good)
    inbox.sweep()
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
def test_a_message_that_was_worked_on_does_nothing_when_it_is_replayed(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    body = event("payment_intent.succeeded", {"id": stripe.pay(session_of(payment))})
    old = signature(body, at=int(time.time()) - 301)
    deliver(body)
    inbox.work(stored(body).pk)
    asked, done = len(stripe.asked), stored(body).processed_at

    assert [deliver(body).status_code, deliver(body, old).status_code] == [200, 400]
    inbox.work(stored(body).pk)
    inbox.sweep()
    assert (len(stripe.asked), stored(body).processed_at, stored(body).attempts) == (asked, done, 1)
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_the_signature_decides_and_not_what_the_body_is_called(stripe: FakeStripe, kind: str) -> None:
    body = event("customer.updated", {"id": "cus_1"})
    for header, status in (("t=1,v1=00", 400), (signature(body), 200)):
        client = Client(enforce_csrf_checks=True, headers={"Stripe-Signature": header})
        assert client.post("/webhooks/stripe/", data=body, content_type=kind).status_code == status
    assert stored(body).payload == body


@pytest.mark.django_db
def test_a_message_without_a_signature_is_refused(stripe: FakeStripe) -> None:
    assert Client().post("/webhooks/stripe/", data=BODY, content_type="application/json").status_code == 400


@pytest.mark.django_db
def test_without_secrets_nothing_is_taken(stripe: FakeStripe, settings: Settings) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = []
    assert deliver(BODY, signature(BODY, secret="")).status_code == 400


@pytest.mark.django_db
def test_a_huge_body_is_refused_unread(stripe: FakeStripe) -> None:
    assert deliver("x" * (1024 * 1024 + 1), "t=1,v1=0").status_code == 413


@pytest.mark.django_db
def test_only_a_post_is_taken(stripe: FakeStripe) -> None:
    assert Client().get("/webhooks/stripe/").status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize(
    "order",
    [
        ["payment_intent.succeeded", "checkout.session.completed"],
        ["checkout.session.completed", "payment_intent.succeeded", "payment_intent.processing"],
        ["checkout.session.expired", "payment_intent.payment_failed", "payment_intent.succeeded"],
    ],
)
def test_the_state_of_the_object_decides_and_not_the_order_of_messages(stripe: FakeStripe, order: list[str]) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    for kind in order:
        body = event(kind, {"id": intent if kind.startswith("payment_intent") else session_of(payment)})
        deliver(body)
        inbox.work(stored(body).pk)
        assert stored(body).processed_at
    payment.refresh_from_db()
    assert (payment.state, posted(payment)) == (Payment.State.PAID, 25 * USD)


@pytest.mark.django_db
def test_what_we_do_not_know_is_done_at_once(stripe: FakeStripe) -> None:
    body = event("invoice.paid", {"id": "in_1"})
    deliver(body)
    inbox.work(stored(body).pk)
    assert (bool(stored(body).processed_at), stored(body).outcome) == (True, "")
    assert stripe.asked == []


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
def test_an_outage_is_tried_again_later_and_then_done(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    body = event("payment_intent.succeeded", {"id": stripe.pay(session_of(payment))})
    deliver(body)
    stripe.failing_with = 500
    inbox.work(stored(body).pk)
    row = stored(body)
    assert row.error == "Unavailable: APIError"
    assert row.processed_at is None
    assert row.next_attempt_at is not None
    assert row.next_attempt_at > clock.now()

    stripe.failing_with = None
    inbox.sweep()
    assert posted(payment) == 0, "It is not due yet."
    StripeEvent.objects.filter(pk=row.pk).update(next_attempt_at=clock.now())
    inbox.sweep()
    assert posted(payment) == 25 * USD
    assert (stored(body).attempts, stored(body).error) == (2, "")


def of_another_app(stripe: FakeStripe, metadata: dict[str, str], reference: str | None) -> dict[str, str]:
    """What another app in the same Stripe account has sold, disputed and refunded: the object of each kind of event."""
    payment = begun(stripe)
    session = stripe.objects[session_of(payment)]
    intent = stripe.pay(session["id"])
    stripe.objects[intent]["metadata"] = session["metadata"] = metadata
    session["client_reference_id"] = reference
    return {
        "payment_intent.succeeded": intent,
        "checkout.session.completed": session["id"],
        "refund.created": stripe.refunds_on_the_dashboard(intent, 100),
        "charge.refunded": stripe.objects[intent]["latest_charge"]["id"],
        "charge.dispute.created": stripe.dispute(intent),
        "radar.early_fraud_warning.created": stripe.warn(intent),
    }


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("metadata", "reference"),
    [
        ({}, None),
        ({}, "00000000-0000-4000-8000-000000000000"),
        ({"payment": "17"}, "cart 17"),
        ({"order": "1"}, "cart 17"),
    ],
)
def test_what_belongs_to_another_app_is_done_and_not_ours(
    stripe: FakeStripe, metadata: dict[str, str], reference: str | None
) -> None:
    for kind, about in of_another_app(stripe, metadata, reference).items():
        body = event(kind, {"id": about})
        deliver(body)
        inbox.work(stored(body).pk)
        row = stored(body)
        assert (row.type, row.outcome, row.error, bool(row.processed_at)) == (kind, "not_ours", "", True)
        assert row.next_attempt_at is None


@pytest.mark.django_db
def test_what_is_ours_by_its_mark_and_fits_nothing_is_still_an_error(stripe: FakeStripe) -> None:
    mark = str(uuid4())
    found = of_another_app(stripe, {"payment": mark}, mark)
    for kind, about in found.items():
        body = event(kind, {"id": about})
        deliver(body)
        inbox.work(stored(body).pk)
        row = stored(body)
        assert (row.type, row.outcome, row.processed_at) == (kind, "", None)
        assert mark in row.error


@pytest.mark.django_db
def test_what_can_never_work_stays_with_its_reason_until_somebody_asks_again(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    nobody = str(uuid4())
    stripe.objects[intent]["metadata"] = {"payment": nobody}
    body = event("payment_intent.succeeded", {"id": intent})
    deliver(body)
    inbox.work(stored(body).pk)
    row = stored(body)
    assert f"'{nobody}', which does not exist" in row.error
    assert (row.processed_at, row.next_attempt_at, row.outcome) == (None, None, "")

    stripe.objects[intent]["metadata"] = {"payment": str(payment.pk)}
    inbox.work_again(row.pk)
    inbox.work(row.pk)
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
def test_a_worker_that_died_leaves_the_message_to_the_next_attempt(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    body = event("payment_intent.succeeded", {"id": stripe.pay(session_of(payment))})
    deliver(body)
    assert inbox._claim(stored(body).pk)
    inbox.work(stored(body).pk)
    assert posted(payment) == 0, "Another has it."
    StripeEvent.objects.filter(next_attempt_at__gt=clock.now()).update(
        next_attempt_at=clock.now() - timedelta(seconds=1)
    )
    inbox.work(stored(body).pk)
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
def test_a_lost_message_is_made_up_for_by_the_sweep(stripe: FakeStripe) -> None:
    payment, never_asked = begun(stripe), begun(stripe)
    stripe.pay(session_of(payment))
    Payment.objects.filter(pk=never_asked.pk).update(checkout_session=None)
    fulfilment.sweep(now=clock.now())
    assert posted(payment) == 0, "It is not due yet."

    fulfilment.sweep(now=clock.now() + timedelta(minutes=6))
    assert posted(payment) == 25 * USD
    never_asked.refresh_from_db()
    assert never_asked.state == Payment.State.OPEN
    fulfilment.sweep(now=clock.now() + timedelta(hours=3))
    never_asked.refresh_from_db()
    assert never_asked.state == Payment.State.CANCELED


def test_webhooks_return_page_and_sweep_at_once_credit_once(stripe: FakeStripe, committed: None) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    bodies = [event("payment_intent.succeeded", {"id": intent}) for _ in range(3)]
    bodies += [event("checkout.session.completed", {"id": session_of(payment)}) for _ in range(3)]

    def webhook(body: str) -> None:
        assert deliver(body).status_code == 200
        inbox.work(json.loads(body)["id"])

    def one(number: int) -> None:
        try:
            if number % 4 == 0:
                fulfilment.sweep(now=clock.now() + timedelta(minutes=6))
            elif number % 4 == 1:
                fulfilment.refresh(payment)
            else:
                webhook(bodies[number % 6])
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))

    assert posted(payment) == 25 * USD
    payment.refresh_from_db()
    assert payment.state == Payment.State.PAID


@pytest.mark.django_db
def test_a_signature_that_is_no_ascii_is_forged(stripe: FakeStripe) -> None:
    assert deliver(event("customer.updated", {"id": "cus_1"}), "t=1790000000,v1=\u00e9").status_code == 400
