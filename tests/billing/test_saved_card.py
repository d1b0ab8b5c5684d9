"""The saved card: shown, removed, replaced, and forgotten at Stripe."""

from __future__ import annotations

import pytest
from django.db import transaction

from accounts.models import AuditEvent
from billing import clock
from billing.models import (
    AutoRecharge,
    ReplacedCard,
    StripeCustomer,
    StripeEvent,
)
from billing.payments import auto_recharge, customers, inbox, stripe_api
from tests import factories
from tests.billing import dying, processes
from tests.billing.recharging import (
    card_of,
    owner,
    recharging,
    row,
    told,
    top_up,
    with_card,
)
from tests.stripe_simulator.process import StripeSimulator

Stop = AutoRecharge.Stop
DETACH = "POST /v1/payment_methods"


@pytest.mark.django_db
class TestTheSavedCard:
    def test_removing_it_turns_it_off_here_and_at_stripe(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        method = card_of(account)

        for _ in range(2):
            auto_recharge.remove_card(account=account, by=owner(account).user)

        assert card_of(account) == ""
        assert row(account).enabled is False
        assert simulator.client().v1.payment_methods.retrieve(method).customer is None
        assert AuditEvent.objects.get(account=account, action="billing.card_removed").object == "visa 4242"

    @pytest.mark.parametrize("gone", [False, True])
    def test_one_that_was_replaced_is_forgotten_at_stripe_and_the_new_one_is_not(
        self, simulator: StripeSimulator, gone: bool
    ) -> None:
        account = with_card(simulator)
        before, stripe = card_of(account), simulator.client()
        top_up(simulator, account)
        assert stripe.v1.payment_methods.retrieve(before).customer, "No transaction waits for Stripe."
        if gone:
            stripe.v1.payment_methods.detach(before)

        for _ in range(2):
            customers.forget_replaced_cards()

        assert stripe.v1.payment_methods.retrieve(before).customer is None
        assert stripe.v1.payment_methods.retrieve(card_of(account)).customer
        assert not ReplacedCard.objects.filter(pk=before).exists()

    def test_one_that_is_saved_again_is_not_forgotten(self, simulator: StripeSimulator) -> None:
        account = with_card(simulator)
        customer = StripeCustomer.objects.get(account=account).stripe_id or ""
        first = stripe_api.saved_card(card_of(account), customer=customer)
        top_up(simulator, account)
        assert first is not None
        with transaction.atomic():
            customers.keep_card(account, first)

        customers.forget_replaced_cards()

        assert card_of(account) == first.payment_method
        assert simulator.client().v1.payment_methods.retrieve(first.payment_method).customer

    def test_one_that_is_saved_again_while_others_are_forgotten_is_not(
        self, simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accounts = [with_card(simulator), with_card(simulator)]
        replaced = [card_of(account) for account in accounts]
        for account in accounts:
            top_up(simulator, account)
        last = StripeCustomer.objects.get(account=accounts[1])
        again = stripe_api.saved_card(replaced[1], customer=last.stripe_id or "")
        assert again is not None
        forget = stripe_api.forget_card

        def slowly(payment_method: str) -> None:
            forget(payment_method)
            if payment_method == replaced[0]:
                with transaction.atomic():
                    customers.keep_card(accounts[1], again)

        monkeypatch.setattr(stripe_api, "forget_card", slowly)
        customers.forget_replaced_cards()

        client = simulator.client().v1.payment_methods
        assert [bool(client.retrieve(card).customer) for card in replaced] == [False, True]

    def test_an_outage_leaves_it_to_the_next_sweep(self, simulator: StripeSimulator) -> None:
        account = with_card(simulator)
        before = card_of(account)
        top_up(simulator, account)
        simulator.control("calls", kind="rate_limit", count="2", path=DETACH)
        customers.forget_replaced_cards()
        assert ReplacedCard.objects.filter(pk=before).exists()

        simulator.control("calls", kind="rate_limit", count="0", path=DETACH)
        customers.forget_replaced_cards()
        assert simulator.client().v1.payment_methods.retrieve(before).customer is None

    def test_one_that_stripe_did_not_remove_is_still_shown_and_not_charged(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path=DETACH)
        with pytest.raises(stripe_api.Unavailable):
            auto_recharge.remove_card(account=account, by=owner(account).user)

        assert (bool(card_of(account)), row(account).enabled) == (True, False)

    def test_one_that_was_removed_at_stripe_stops_it(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        method = card_of(account)
        simulator.client().v1.payment_methods.detach(method)

        for _ in range(2):
            auto_recharge.mirror(method)

        assert card_of(account) == ""
        assert row(account).stopped_reason == Stop.CARD_GONE
        assert told(account) == ["stopped"]

    @pytest.mark.parametrize(
        ("type_", "change"),
        [
            ("payment_method.detached", "detach"),
            ("payment_method.automatically_updated", "detach"),
            ("customer.updated", "detach"),
            ("customer.deleted", "delete"),
        ],
    )
    def test_a_message_about_it_asks_for_it(self, simulator: StripeSimulator, type_: str, change: str) -> None:
        account = recharging(simulator)
        known, client = StripeCustomer.objects.get(account=account), simulator.client()
        if change == "detach":
            client.v1.payment_methods.detach(known.payment_method)
        else:
            client.v1.customers.delete(known.stripe_id or "")
        about = known.stripe_id if type_.startswith("customer.") else known.payment_method
        event = StripeEvent.objects.create(
            id=factories.unique("evt"), type=type_, created=clock.now(), livemode=False, source="webhook",
            payload=f'{{"id": "evt", "object": "event", "type": "{type_}", "created": 1, "livemode": false, '
            f'"data": {{"object": {{"id": "{about}"}}}}}}',
        )  # fmt: skip

        inbox.work(event.pk)

        event.refresh_from_db()
        assert (bool(event.processed_at), row(account).stopped_reason) == (True, Stop.CARD_GONE)

    def test_one_that_is_there_stays(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        known = StripeCustomer.objects.get(account=account)
        StripeCustomer.objects.filter(account=account).update(card_exp_year=2020)

        assert known.stripe_id
        for about in (known.payment_method, known.stripe_id, "pm_of_somebody_else"):
            auto_recharge.mirror(about)

        assert StripeCustomer.objects.get(account=account).card_exp_year == known.card_exp_year
        assert row(account).enabled

    @pytest.mark.parametrize("is_known", [True, False])
    def test_a_customer_that_is_gone_takes_the_card_along(self, simulator: StripeSimulator, is_known: bool) -> None:
        account = recharging(simulator)
        gone = StripeCustomer.objects.get(account=account).stripe_id or ""
        if is_known:
            simulator.client().v1.customers.delete(gone)
        else:
            gone = "cus_gone"
            StripeCustomer.objects.filter(account=account).update(stripe_id=gone)

        auto_recharge.mirror(gone)

        assert not StripeCustomer.objects.filter(account=account).exists()
        assert row(account).stopped_reason == Stop.CARD_GONE


def test_killed_while_a_replaced_card_is_forgotten_the_next_sweep_ends_it(
    simulator: StripeSimulator, committed: None
) -> None:
    account = with_card(simulator)
    forget(simulator, None)  # What other tests left behind.
    for last in range(3):
        before = card_of(account)
        top_up(simulator, account)
        forget(simulator, last)
        client = simulator.client().v1.payment_methods
        assert (client.retrieve(before).customer is None) == (last > 0)
        assert ReplacedCard.objects.filter(pk=before).exists() == (last < 2)

        forget(simulator, None)
        assert client.retrieve(before).customer is None
        assert client.retrieve(card_of(account)).customer
        assert not ReplacedCard.objects.filter(pk=before).exists()


def forget(simulator: StripeSimulator, last: int | None) -> None:
    """To the end, or until it is killed before step `last`."""
    answers = processes.context().Queue()
    arguments = (processes.forget_cards, (simulator.key, simulator.url), last, answers)
    with processes.running(dying.walk, *arguments) as process:
        process.join(processes.SECONDS)
        assert process.exitcode == (0 if last is None else -9)
