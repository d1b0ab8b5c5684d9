"""Paying on the simulated Checkout page, as the product and the customer do it: over a socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import stripe

from tests.stack import until
from tests.stripe_simulator import shapes
from tests.stripe_simulator.conftest import Receiver
from tests.stripe_simulator.process import SECRET, StripeSimulator

SUCCESS = "http://127.0.0.1:8000/billing/return/?session={CHECKOUT_SESSION_ID}"


def open_session(client: stripe.StripeClient, *, cents: int = 2500, **more: Any) -> stripe.checkout.Session:
    customer = client.v1.customers.create({"email": "alice@example.test", "metadata": {"account": "7"}})
    fields: Any = {
        "mode": "payment",
        "customer": customer.id,
        "client_reference_id": "a-payment",
        "success_url": SUCCESS,
        "cancel_url": "http://127.0.0.1:8000/billing/",
        "line_items": [
            {
                "quantity": 1,
                "price_data": {"currency": "usd", "unit_amount": cents, "product_data": {"name": "Credit"}},
            }
        ],
        "payment_intent_data": {"metadata": {"payment": "a-payment"}},
        "adaptive_pricing": {"enabled": False},
    }
    return client.v1.checkout.sessions.create(fields | more)


def intent_of(client: stripe.StripeClient, session_id: str) -> stripe.PaymentIntent:
    session = client.v1.checkout.sessions.retrieve(session_id, {"expand": ["payment_intent.latest_charge"]})
    intent = session.payment_intent
    assert isinstance(intent, stripe.PaymentIntent)
    return intent


def raw(simulator: StripeSimulator, path: str) -> Any:
    """An object as the wire has it."""
    status, body, _ = simulator.ask("GET", path, Authorization=f"Bearer {simulator.key}")
    assert status == 200, body
    return json.loads(body)


def test_a_paid_session_has_an_intent_a_charge_and_a_fee(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver
) -> None:
    session = open_session(client)
    assert session.url is not None
    assert (session.payment_status, session.payment_intent, session.livemode) == ("unpaid", None, False)

    assert simulator.pays(session.id) == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session.id)

    intent = intent_of(client, session.id)
    assert (intent.status, intent.amount_received, intent.metadata["payment"]) == ("succeeded", 2500, "a-payment")
    charge = intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert isinstance(charge.balance_transaction, str)
    movement = client.v1.balance_transactions.retrieve(charge.balance_transaction)
    assert (movement.amount, movement.fee, movement.net) == (2500, 103, 2397)
    told = until(lambda: (types := receiver.types(session.id))[-1:] == ["checkout.session.completed"] and types)
    assert told == ["checkout.session.completed"]
    assert receiver.types(intent.id) == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]


def test_a_decline_can_be_followed_by_a_payment(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver
) -> None:
    session = open_session(client)
    assert simulator.pays(session.id, "decline", code="insufficient_funds") == ""
    intent = intent_of(client, session.id)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.decline_code == "insufficient_funds"

    simulator.pays(session.id)

    assert intent_of(client, session.id).id == intent.id
    assert intent_of(client, session.id).status == "succeeded"
    until(lambda: receiver.types(session.id))
    assert "payment_intent.payment_failed" in receiver.types(intent.id)


@pytest.mark.parametrize(("passed", "status"), [("yes", "succeeded"), ("no", "requires_payment_method")])
def test_three_d_secure_ends_as_the_customer_chose(
    simulator: StripeSimulator, client: stripe.StripeClient, passed: str, status: str
) -> None:
    session = open_session(client)
    address = simulator.pays(session.id, "authenticate")
    assert intent_of(client, session.id).status == "requires_action"

    simulator.ask("POST", address, {"passed": passed})

    assert intent_of(client, session.id).status == status


@pytest.mark.parametrize(
    ("outcome", "status", "payment_status", "told"),
    [
        ("succeed", "succeeded", "paid", "checkout.session.async_payment_succeeded"),
        ("fail", "requires_payment_method", "unpaid", "checkout.session.async_payment_failed"),
    ],
)
def test_a_delayed_payment_is_known_later(
    simulator: StripeSimulator,
    client: stripe.StripeClient,
    receiver: Receiver,
    outcome: str,
    status: str,
    payment_status: str,
    told: str,
) -> None:
    session = open_session(client)
    simulator.pays(session.id, "later", outcome="control")
    session = client.v1.checkout.sessions.retrieve(session.id)
    assert (session.status, session.payment_status) == ("complete", "unpaid")
    assert intent_of(client, session.id).status == "processing"

    simulator.control("settle", payment_intent=str(session.payment_intent), outcome=outcome)

    assert intent_of(client, session.id).status == status
    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == payment_status
    until(lambda: told in receiver.types(session.id))


def test_a_delayed_payment_decides_itself_after_the_seconds(
    simulator: StripeSimulator, client: stripe.StripeClient
) -> None:
    session = open_session(client)
    simulator.pays(session.id, "later", outcome="succeed", seconds="0")
    until(lambda: intent_of(client, session.id).status == "succeeded")


def test_who_abandons_is_sent_back_and_may_still_pay(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    session = open_session(client)
    assert simulator.pays(session.id, "abandon") == "http://127.0.0.1:8000/billing/"
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"
    simulator.pays(session.id)
    assert client.v1.checkout.sessions.retrieve(session.id).status == "complete"


@pytest.mark.parametrize("end", ["expire", "pay"])
def test_an_ended_session_cannot_be_paid(simulator: StripeSimulator, client: stripe.StripeClient, end: str) -> None:
    session = open_session(client)
    if end == "expire":
        assert client.v1.checkout.sessions.expire(session.id).status == "expired"
    else:
        simulator.pays(session.id)
    assert simulator.ask("POST", f"/c/pay/{session.id}/pay", {})[0] == 410
    assert simulator.ask("GET", f"/c/pay/{session.id}")[0] == 410
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(session.id)


@pytest.mark.parametrize("asked", [True, False])
def test_a_card_is_saved_only_when_that_was_asked_for(
    simulator: StripeSimulator, client: stripe.StripeClient, asked: bool
) -> None:
    session = open_session(client, payment_intent_data={"setup_future_usage": "off_session"} if asked else {})
    simulator.pays(session.id)
    saved = client.v1.payment_methods.list({"customer": str(session.customer)}).data
    assert [method.card.last4 for method in saved if method.card] == (["4242"] if asked else [])


def test_the_page_shows_the_amount_and_the_customer(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    session = open_session(client, cents=123456)
    status, page, _ = simulator.ask("GET", f"/c/pay/{session.id}")
    assert status == 200
    assert "$1,234.56" in page
    assert "alice@example.test" in page
    assert "Simulated: no real money moves" in page


def test_every_object_has_the_shape_of_the_stripe_package(
    simulator: StripeSimulator, client: stripe.StripeClient
) -> None:
    for action in ("pay", "later", "decline"):
        session = open_session(client, payment_intent_data={"setup_future_usage": "off_session"})
        simulator.pays(session.id, action)
    authenticated = open_session(client)
    simulator.pays(authenticated.id, "authenticate")
    lists = ["customers", "checkout/sessions", "payment_intents", "charges", "balance_transactions", "events"]
    for name in lists:
        found = raw(simulator, f"/v1/{name}?limit=100")
        assert found["object"] == "list"
        assert found["data"]
        assert [shapes.of(each) for each in found["data"] if shapes.of(each)] == []
    for method in raw(simulator, f"/v1/payment_methods?customer={session.customer}")["data"]:
        assert shapes.of(method) == []
    lines = raw(simulator, f"/v1/checkout/sessions/{session.id}?expand[]=line_items")["line_items"]
    assert [shapes.of(line) for line in lines["data"]] == [[]]


def test_events_are_signed_and_a_changed_one_is_not_believed(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver
) -> None:
    customer = client.v1.customers.create({"email": "signed@example.test"})
    until(lambda: receiver.types(customer.id))
    body, header = next(each for each in receiver.raw if customer.id.encode() in each[0])
    assert stripe.Webhook.construct_event(body, header, SECRET).type == "customer.created"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body.replace(b"signed", b"forged"), header, SECRET)


def test_a_failing_receiver_is_asked_again(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver
) -> None:
    until(lambda: not [each for each in deliveries(simulator) if each["state"] == "pending"])
    receiver.statuses[:] = [500]
    customer = client.v1.customers.create({})
    until(lambda: receiver.types(customer.id) == ["customer.created"])


def deliveries(simulator: StripeSimulator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(simulator.ask("GET", "/control/state")[1])["deliveries"]
    return found


def test_a_killed_simulator_forgets_nothing(start: Callable[..., StripeSimulator], receiver: Receiver) -> None:
    simulator = start(webhook_url="http://127.0.0.1:9/nobody")
    session = open_session(simulator.client())
    simulator.pays(session.id, "later", outcome="succeed", seconds="1")
    simulator.kill()
    simulator.webhook_url = receiver.url
    time.sleep(1)

    simulator.start()

    client = simulator.client()
    assert client.v1.checkout.sessions.retrieve(session.id).status == "complete"
    until(lambda: intent_of(client, session.id).status == "succeeded")
    until(lambda: "checkout.session.async_payment_succeeded" in receiver.types(session.id), 10)
    assert "checkout.session.completed" in receiver.types(session.id)
