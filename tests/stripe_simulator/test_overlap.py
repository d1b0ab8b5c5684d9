"""The simulator and localstripe, a double of Stripe that nobody here wrote, answer our calls alike.

That is as far as localstripe goes with today's Stripe: customers, saved cards, payments off session, refunds, lists. It
has no Checkout page, disputes, payouts, or idempotency keys, and refunds more than was paid.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stripe
from pytest_django import Settings

from billing.payments import stripe_api, stripe_objects
from tests.stack import until
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_checkout import open_session


@dataclass
class Double:
    """One of the two, and how a customer of it gets a saved card that pays, or that declines."""

    client: stripe.StripeClient
    simulator: StripeSimulator | None = None

    def saved_card(self, customer: str, *, declines: bool = False) -> str:
        if self.simulator is None:
            number = "4000000000000341" if declines else "4242424242424242"
            made = self.client.v1.payment_methods.create(
                {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2031, "cvc": "123"}}
            )
            return self.client.v1.payment_methods.attach(made.id, {"customer": customer}).id
        keep: Any = {"setup_future_usage": "off_session"}
        self.simulator.pays(open_session(self.client, customer=customer, payment_intent_data=keep).id)
        (card_there,) = self.client.v1.payment_methods.list({"customer": customer, "type": "card"}).data
        if declines:
            self.simulator.control("card", payment_method=card_there.id, behaviour="generic_decline")
        return card_there.id


@pytest.fixture(scope="module")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("localstripe") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-W", "ignore", "-m", "localstripe", "--port", str(port), "--from-scratch"]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        until(lambda: process.poll() is not None or _listens(port), 30)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["simulator", "localstripe"])
def double(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Double:
    """The client is the product's own."""
    settings.STRIPE_SECRET_KEY = "sk_test_of_the_overlap"
    simulator: StripeSimulator | None = None
    if request.param == "simulator":
        simulator = request.getfixturevalue("simulator")
        settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = simulator.key, simulator.url
    else:
        settings.STRIPE_API_BASE = request.getfixturevalue("localstripe")
    return Double(stripe_api._client(settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE), simulator)


def customer(double: Double) -> str:
    return stripe_api.create_customer(
        {"metadata": {"account": "7"}, "description": "Account 7"}, key=f"key:{double.client}:{id(double)}"
    )


def recharge(double: Double, customer: str, card: str) -> stripe.PaymentIntent:
    return double.client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer,
            "payment_method": card,
            "off_session": True,
            "confirm": True,
            "metadata": {"payment": "a-payment"},
        }
    )


def test_a_customer_is_kept_as_it_was_made(double: Double) -> None:
    found = double.client.v1.customers.retrieve(customer(double))
    assert found.id.startswith("cus_")
    assert (found.object, found.livemode, found.description) == ("customer", False, "Account 7")
    assert found.metadata is not None
    assert found.metadata["account"] == "7"


def test_what_is_not_there_is_refused(double: Double) -> None:
    for ask in (
        double.client.v1.customers.retrieve,
        double.client.v1.payment_intents.retrieve,
        double.client.v1.refunds.retrieve,
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            ask("xx_nobody")
        assert caught.value.http_status == 404
    with pytest.raises(stripe_api.Refused):
        stripe_api.refund("re_nobody")


def test_a_saved_card_pays_without_the_customer(double: Double) -> None:
    who = customer(double)
    card = double.saved_card(who)
    made = recharge(double, who, card)
    found = double.client.v1.payment_intents.retrieve(made.id, {"expand": ["latest_charge"]})
    for intent in (made, found):
        assert (intent.status, intent.amount, intent.currency) == ("succeeded", 1000, "usd")
        assert (intent.customer, intent.payment_method, intent.livemode) == (who, card, False)
        assert intent.metadata["payment"] == "a-payment"
    charge = found.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.status, charge.paid, charge.amount, charge.payment_intent) == ("succeeded", True, 1000, made.id)


def test_a_saved_card_that_declines_is_a_card_error(double: Double) -> None:
    who = customer(double)
    with pytest.raises(stripe.CardError) as caught:
        recharge(double, who, double.saved_card(who, declines=True))
    assert (caught.value.http_status, caught.value.code) == (402, "card_declined")


def test_a_detached_card_is_no_longer_of_the_customer(double: Double) -> None:
    who = customer(double)
    card = double.saved_card(who)
    assert [each.id for each in double.client.v1.payment_methods.list({"customer": who, "type": "card"}).data] == [card]
    assert double.client.v1.payment_methods.detach(card).customer is None
    assert double.client.v1.payment_methods.list({"customer": who, "type": "card"}).data == []


def test_a_payment_that_was_not_made_can_be_canceled(double: Double) -> None:
    made = double.client.v1.payment_intents.create({"amount": 500, "currency": "usd"})
    assert made.status == "requires_payment_method"
    assert double.client.v1.payment_intents.cancel(made.id).status == "canceled"


def test_refunds_are_read_alike(double: Double) -> None:
    who = customer(double)
    paid = recharge(double, who, double.saved_card(who))
    wanted = {"payment_intent": paid.id, "amount": 400, "metadata": {stripe_objects.REFUND: "a-refund"}}
    part = stripe_api.create_refund(wanted, key=f"key:{paid.id}")  # type: ignore[arg-type]
    assert (part.status, part.currency, part.amount) == ("succeeded", "usd", 400)
    assert (part.payment_intent, part.refund, part.failure_reason) == (paid.id, "a-refund", "")
    assert stripe_api.refund(part.id) == part
    rest = stripe_api.create_refund({"payment_intent": paid.id, "amount": 600}, key=f"rest:{paid.id}")
    assert {found.id: found.amount for found in stripe_api.refunds({"payment_intent": paid.id})} == {
        part.id: 400,
        rest.id: 600,
    }
    charge = double.client.v1.payment_intents.retrieve(paid.id, {"expand": ["latest_charge"]}).latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.amount_refunded, charge.refunded) == (1000, True)
    (movement,) = [
        each for each in double.client.v1.balance_transactions.list({"limit": 100}).data if each.source == part.id
    ]
    assert (movement.type, movement.amount, movement.net) == ("refund", -400, -400)
