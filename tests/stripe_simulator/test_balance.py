"""Our balance at Stripe: payouts and how they come back, fees and corrections of no payment, and time that passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import stripe

from tests.stripe_simulator import shapes
from tests.stripe_simulator.conftest import Receiver
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_after_payment import paid
from tests.stripe_simulator.test_checkout import raw


@pytest.mark.parametrize(("status", "type_"), [("failed", "payout_failure"), ("canceled", "payout_cancel")])
def test_a_payout_can_come_back(
    simulator: StripeSimulator, client: stripe.StripeClient, status: str, type_: str
) -> None:
    paid(simulator, client)
    payout = simulator.control("payout", amount="100")
    back = simulator.control("return-payout", payout=payout["id"], status=status)
    assert back["status"] == status
    moved = client.v1.balance_transactions.list({"source": payout["id"]}).data
    assert [(each.type, each.net) for each in moved] == [(type_, 100), ("payout", -100)]
    assert client.v1.events.list({"type": f"payout.{status}"}).data[0].data.object["id"] == payout["id"]
    assert simulator.ask("POST", "/control/return-payout", {"payout": payout["id"]})[0] == 400


def test_fees_and_corrections_of_no_payment_have_the_shape_of_the_stripe_package(simulator: StripeSimulator) -> None:
    simulator.control("fee", amount="250")
    simulator.control("adjustment", amount="70")
    payout = simulator.control("payout", amount="10")
    simulator.control("return-payout", payout=payout["id"])
    found = raw(simulator, "/v1/balance_transactions?limit=4")["data"]
    assert [(each["type"], each["net"]) for each in found[2:]] == [("adjustment", 70), ("stripe_fee", -250)]
    for each in (*found, raw(simulator, f"/v1/payouts/{payout['id']}")):
        assert shapes.of(each) == []


def test_a_movement_is_listed_with_what_caused_it(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    intent = paid(simulator, client)
    refund = client.v1.refunds.create({"payment_intent": intent.id, "amount": 5})
    simulator.control("fee", amount="1")
    found = client.v1.balance_transactions.list({"limit": 3, "expand": ["data.source"]}).data
    assert found[0].source is None
    assert isinstance(found[1].source, stripe.Refund)
    assert isinstance(found[2].source, stripe.Charge)
    assert (found[1].source.id, found[2].source.payment_intent) == (refund.id, intent.id)


def test_a_simulator_that_forgets_begins_again(start: Callable[..., StripeSimulator]) -> None:
    simulator = start()
    client = simulator.client()
    customer = client.v1.customers.create({}, {"idempotency_key": "once"})
    simulator.control("tax", milli_percent="19000")
    simulator.control("forget")
    assert [raw(simulator, f"/v1/{name}")["data"] for name in ("customers", "events")] == [[], []]
    assert client.v1.customers.create({}, {"idempotency_key": "once"}).id != customer.id


def test_events_are_kept_for_thirty_days_and_objects_for_ever(
    start: Callable[..., StripeSimulator], receiver: Receiver
) -> None:
    simulator = start()
    client = simulator.client()
    first = paid(simulator, client)
    simulator.control("days", days="31")
    last = paid(simulator, client)
    told = client.v1.events.list({"type": "payment_intent.succeeded"}).data
    assert [event.data.object["id"] for event in told] == [last.id]
    assert [intent.id for intent in client.v1.payment_intents.list().data] == [last.id, first.id]
    since = last.created - 3600
    for name in ("payment_intents", "charges", "balance_transactions"):
        assert len(raw(simulator, f"/v1/{name}?created[gte]={since}")["data"]) == 1
        assert len(raw(simulator, f"/v1/{name}?created[lt]={since}")["data"]) == 1
