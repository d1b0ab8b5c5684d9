"""What follows a payment: refunds, disputes, saved cards that fail, repeated calls, and events that go astray."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import pytest
import stripe

from tests.stack import until
from tests.stripe_simulator import shapes
from tests.stripe_simulator.conftest import Receiver
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_checkout import intent_of, open_session, raw

pytestmark = pytest.mark.usefixtures("simulator")


def paid(simulator: StripeSimulator, client: stripe.StripeClient, **more: Any) -> stripe.PaymentIntent:
    session = open_session(client, **more)
    simulator.pays(session.id)
    return intent_of(client, session.id)


def charge_of(intent: stripe.PaymentIntent) -> str:
    assert isinstance(intent.latest_charge, stripe.Charge)
    return intent.latest_charge.id


def recharge(client: stripe.StripeClient, customer: str, method: str, key: str | None = None) -> stripe.PaymentIntent:
    return client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer,
            "payment_method": method,
            "off_session": True,
            "confirm": True,
        },
        {"idempotency_key": key} if key else {},
    )


@pytest.fixture
def saved(simulator: StripeSimulator, client: stripe.StripeClient) -> tuple[str, str]:
    """A customer with a saved card: their ids."""
    intent = paid(simulator, client, payment_intent_data={"setup_future_usage": "off_session"})
    return str(intent.customer), str(intent.payment_method)


def test_refunds_take_from_the_balance_and_end_at_the_amount(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver
) -> None:
    intent = paid(simulator, client)
    part = client.v1.refunds.create({"payment_intent": intent.id, "amount": 1000})
    assert (part.status, part.amount) == ("succeeded", 1000)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded") as caught:
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 1501})
    assert caught.value.param == "amount"
    client.v1.refunds.create({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert caught.value.code == "charge_already_refunded"
    assert [each.amount for each in client.v1.refunds.list({"payment_intent": intent.id}).data] == [1500, 1000]
    until(lambda: receiver.types(part.id))
    movement = client.v1.balance_transactions.list({"source": part.id}).data[0]
    assert (movement.net, movement.type) == (-1000, "refund")


def test_a_refund_can_fail_later(simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver) -> None:
    intent = paid(simulator, client)
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    simulator.control("fail-refund", refund=refund.id)
    assert client.v1.refunds.retrieve(refund.id).status == "failed"
    assert client.v1.charges.retrieve(charge_of(intent)).amount_refunded == 0
    assert sum(each.net for each in client.v1.balance_transactions.list({"source": refund.id}).data) == 0
    until(lambda: "refund.failed" in receiver.types(refund.id))


@pytest.mark.parametrize(("end", "status", "left"), [("win", "won", -1500), ("lose", "lost", -4000)])
def test_a_dispute_withdraws_and_winning_brings_it_back(
    simulator: StripeSimulator, client: stripe.StripeClient, receiver: Receiver, end: str, status: str, left: int
) -> None:
    intent = paid(simulator, client)
    dispute = simulator.control("dispute", charge=charge_of(intent))
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": intent.id})
    simulator.control(end, dispute=dispute["id"])
    ended = client.v1.disputes.retrieve(dispute["id"])
    assert (ended.status, sum(each.net for each in ended.balance_transactions)) == (status, left)
    until(lambda: "charge.dispute.closed" in receiver.types(ended.id))
    middle = ["charge.dispute.funds_reinstated"] if end == "win" else []
    begin = ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    assert receiver.types(ended.id) == [*begin, *middle, "charge.dispute.closed"]


def test_an_inquiry_moves_nothing_until_it_becomes_a_dispute(
    simulator: StripeSimulator, client: stripe.StripeClient
) -> None:
    intent = paid(simulator, client)
    inquiry = simulator.control("dispute", charge=charge_of(intent), inquiry="yes")
    assert (inquiry["status"], inquiry["balance_transactions"]) == ("warning_needs_response", [])
    simulator.control("withdraw", dispute=inquiry["id"])
    assert client.v1.disputes.close(inquiry["id"]).status == "lost"


def test_what_follows_a_payment_has_the_shape_of_the_stripe_package(
    simulator: StripeSimulator, client: stripe.StripeClient
) -> None:
    intent = paid(simulator, client)
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 1})
    simulator.control("fraud-warning", charge=charge_of(intent))
    simulator.control("dispute", charge=charge_of(intent))
    simulator.control("payout", amount="100")
    for name in ("refunds", "disputes", "radar/early_fraud_warnings", "payouts", "balance_transactions", "charges"):
        found = raw(simulator, f"/v1/{name}")["data"]
        assert found
        assert [shapes.of(each) for each in found if shapes.of(each)] == []


def test_a_saved_card_pays_without_the_customer(client: stripe.StripeClient, saved: tuple[str, str]) -> None:
    assert recharge(client, *saved).status == "succeeded"


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("insufficient_funds", "card_declined"),
        ("expired_card", "expired_card"),
        ("authenticate", "authentication_required"),
    ],
)
def test_a_saved_card_fails_as_it_was_told_to(
    simulator: StripeSimulator, client: stripe.StripeClient, saved: tuple[str, str], behaviour: str, code: str
) -> None:
    simulator.control("card", payment_method=saved[1], behaviour=behaviour)
    with pytest.raises(stripe.CardError) as caught:
        recharge(client, *saved, key=f"key-{saved[1]}")
    assert caught.value.http_status == 402
    assert caught.value.code == code
    assert caught.value.error is not None
    intent: Any = caught.value.error.payment_intent
    assert client.v1.payment_intents.retrieve(intent.id).status == "requires_payment_method"
    with pytest.raises(stripe.CardError) as again:
        recharge(client, *saved, key=f"key-{saved[1]}")
    assert again.value.headers is not None
    assert again.value.headers["Idempotent-Replayed"] == "true"


def test_a_detached_card_pays_no_more(client: stripe.StripeClient, saved: tuple[str, str]) -> None:
    assert client.v1.payment_methods.detach(saved[1]).customer is None
    with pytest.raises(stripe.InvalidRequestError, match="detached"):
        recharge(client, *saved)


def test_a_repeat_gets_the_first_answer_and_other_parameters_are_refused(client: stripe.StripeClient) -> None:
    key: stripe.RequestOptions = {"idempotency_key": "the same customer"}
    first = client.v1.customers.create({"email": "a@example.test"}, key)
    again = client.v1.customers.create({"email": "a@example.test"}, key)
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"email": "b@example.test"}, key)


def test_refusals_are_worded_as_by_stripe(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.retrieve("cus_nobody")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.create({"emial": "x"})  # type: ignore[arg-type]
    assert (caught.value.http_status, caught.value.param) == (400, "emial")
    with pytest.raises(stripe.AuthenticationError):
        simulator.client(key="sk_sim_of_a_stranger").v1.customers.list()


def test_lists_come_in_pages(client: stripe.StripeClient) -> None:
    ids = [client.v1.customers.create({"email": "pages@example.test"}).id for _ in range(5)]
    page = client.v1.customers.list({"email": "pages@example.test", "limit": 2})
    assert page.has_more
    assert [customer.id for customer in page.auto_paging_iter()] == ids[::-1]
    moment = page.data[0].created + 1000
    assert client.v1.customers.list({"created": {"gt": moment}}).data == []


def test_an_error_after_the_commit_did_the_work(start: Callable[..., StripeSimulator]) -> None:
    simulator = start()
    client = simulator.client()
    simulator.control("calls", kind="error_after_commit", path="POST /v1/customers")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            client.v1.customers.create({}, {"idempotency_key": "once"})
    assert len(client.v1.customers.list().data) == 1


def test_a_lost_answer_is_had_by_a_repeat(start: Callable[..., StripeSimulator]) -> None:
    simulator = start()
    simulator.control("calls", kind="lose_answer", path="POST /v1/customers")
    with pytest.raises(stripe.APIConnectionError):
        simulator.client().v1.customers.create({}, {"idempotency_key": "once"})
    assert simulator.client().v1.customers.create({}, {"idempotency_key": "once"}).id
    assert len(simulator.client().v1.customers.list().data) == 1
    simulator.control("calls", kind="rate_limit")
    with pytest.raises(stripe.RateLimitError):
        simulator.client().v1.customers.list()


def test_a_repeat_of_a_hanging_call_is_told_to_wait(start: Callable[..., StripeSimulator]) -> None:
    simulator = start()
    simulator.control("calls", kind="hang", seconds="30", path="POST /v1/customers")
    hanging = http.client.HTTPConnection("127.0.0.1", simulator.port)
    headers = {"Authorization": f"Bearer {simulator.key}", "Idempotency-Key": "once"}
    hanging.request("POST", "/v1/customers", body="", headers=headers)
    until(lambda: raw(simulator, "/v1/customers")["data"])
    assert simulator.ask("POST", "/v1/customers", {}, **headers)[0] == 409
    hanging.close()


@pytest.mark.parametrize(("kind", "count"), [("duplicate", 2), ("drop", 0)])
def test_events_are_doubled_or_dropped(
    start: Callable[..., StripeSimulator], receiver: Receiver, kind: str, count: int
) -> None:
    simulator = start(webhook_url=receiver.url)
    client = simulator.client()
    simulator.control("events", kind=kind)
    first, last = client.v1.customers.create({}), client.v1.customers.create({})
    until(lambda: receiver.types(last.id))
    assert len(receiver.types(first.id)) == count
    missed = client.v1.events.list({"delivery_success": False, "type": "customer.created"}).data
    assert len(missed) == (1 if kind == "drop" else 0)
    for event in missed:
        simulator.control("replay", event=event.id)
        until(lambda: receiver.types(first.id))


def test_events_arrive_in_the_wrong_order(start: Callable[..., StripeSimulator], receiver: Receiver) -> None:
    simulator = start(webhook_url=receiver.url)
    simulator.control("events", kind="reorder", count="2")
    first, last = (simulator.client().v1.customers.create({}) for _ in range(2))
    until(lambda: receiver.types(first.id) and receiver.types(last.id), 10)
    told = [event.data.object["id"] for event in receiver.taken]
    assert told.index(last.id) < told.index(first.id)


def test_tax_comes_on_top(start: Callable[..., StripeSimulator]) -> None:
    simulator = start()
    simulator.control("tax", milli_percent="19000")
    session = open_session(simulator.client(), cents=1001, automatic_tax={"enabled": True})
    assert session.total_details is not None
    assert (session.amount_subtotal, session.total_details.amount_tax, session.amount_total) == (1001, 190, 1191)


def test_the_control_page_offers_what_can_happen(simulator: StripeSimulator, client: stripe.StripeClient) -> None:
    paid(simulator, client)
    simulator.control("payout", amount="100")
    status, page, _ = simulator.ask("GET", "/control/")
    assert status == 200
    for words in (
        "Refund",
        "Dispute",
        "Fraud warning",
        "Pay out",
        "Fail the payout",
        "Take a fee",
        "Let days pass",
        "Next events",
        "Replay",
    ):
        assert words in page


def test_pages_of_other_sites_press_no_button(simulator: StripeSimulator) -> None:
    assert simulator.ask("POST", "/control/payout", {}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert simulator.ask("GET", "/control/", Host="evil.example.test")[0] == 403
