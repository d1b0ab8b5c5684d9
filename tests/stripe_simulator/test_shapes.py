"""Whatever the simulator holds, in every state that it can bring about, has the shape of the stripe package's types."""

from __future__ import annotations

import json
import re

import stripe
from stripe.params import WebhookEndpointCreateParams

from flint.sandbox.stripe_simulator import api
from tests.stripe_simulator import shapes
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_after_payment import charge_of, paid, recharge
from tests.stripe_simulator.test_checkout import open_session


def live_through_everything(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    saved = paid(simulator, client, payment_intent_data={"setup_future_usage": "off_session"})
    for behaviour in ("insufficient_funds", "authenticate", ""):
        simulator.control("card", payment_method=str(saved.payment_method), behaviour=behaviour)
        try:
            recharge(client, str(saved.customer), str(saved.payment_method))
        except stripe.CardError:
            continue
    client.v1.payment_methods.detach(str(saved.payment_method))
    for action, fields in {"decline": {"code": "expired_card"}, "later": {"outcome": "control"}}.items():
        simulator.pays(open_session(client).id, action, **fields)
    for outcome in ("succeed", "fail"):
        session = open_session(client)
        simulator.pays(session.id, "later", outcome="control")
        intent = str(client.v1.checkout.sessions.retrieve(session.id).payment_intent)
        simulator.control("settle", payment_intent=intent, outcome=outcome)
    for passed in ("yes", "no"):
        simulator.ask("POST", simulator.pays(open_session(client).id, "authenticate"), {"passed": passed})
    client.v1.checkout.sessions.expire(open_session(client).id)
    client.v1.payment_intents.cancel(client.v1.payment_intents.create({"amount": 500, "currency": "usd"}).id)
    refunded = paid(simulator, client)
    client.v1.refunds.create({"payment_intent": refunded.id, "amount": 1000})
    simulator.control("fail-refund", refund=client.v1.refunds.create({"payment_intent": refunded.id}).id)
    for end in ("win", "lose"):
        simulator.control(end, dispute=simulator.control("dispute", charge=charge_of(paid(simulator, client)))["id"])
    inquiry = simulator.control("dispute", charge=charge_of(paid(simulator, client)), inquiry="yes")
    simulator.control("lose", dispute=inquiry["id"])
    simulator.control("fraud-warning", charge=charge_of(paid(simulator, client)))
    payouts = [simulator.control("payout", amount="100") for _ in range(2)]
    simulator.control("return-payout", payout=payouts[0]["id"])
    for kind in ("fee", "adjustment"):
        simulator.control(kind, amount="100")


def test_every_object_in_every_state_has_its_shape(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    live_through_everything(simulator, client)
    held = json.loads(simulator.ask("GET", "/control/state")[1])
    del held["deliveries"]

    listed = {handler.kind for _, _, handler in api.ROUTES if isinstance(handler, api.Listing)}
    assert listed <= set(held), "Something is offered of which there was none."
    for kind, found in held.items():
        assert [(each["id"], shapes.of(each)) for each in found if shapes.of(each)] == [], kind
    for event in held["event"]:
        assert shapes.of(event["data"]["object"]) == [], event["type"]


def test_every_event_is_of_a_type_that_stripe_has(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    client.v1.customers.create({})
    known = set(
        re.findall(r"['\"]([a-z_.0-9]+)['\"]", str(WebhookEndpointCreateParams.__annotations__["enabled_events"]))
    )
    told = {event["type"] for event in json.loads(simulator.ask("GET", "/control/state")[1])["event"]}
    assert told
    assert told <= known


def test_an_object_of_another_shape_is_noticed(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    customer = json.loads(json.dumps(client.v1.customers.create({}).to_dict(), default=str))
    assert shapes.of(customer) == []
    assert shapes.of(customer | {"emial": "x"}) == ["customer.emial: unknown"]
    assert shapes.of(customer | {"created": "now"})
    assert shapes.of({name: value for name, value in customer.items() if name != "created"})
