"""Auto-recharge charges the saved card once where it was agreed to, and whatever else happens is shown and counted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import Account, AuditEvent, Membership
from billing import clock, closing, funds, payment_log, tasks
from billing.models import (
    AutoRecharge,
    Payment,
    Receipt,
    ReplacedCard,
    StripeCustomer,
    StripeEvent,
    UsageRecord,
    Wallet,
)
from billing.payments import auto_recharge, customers, flags, fulfilment, inbox, recharge, stripe_api
from billing.payments.auto_recharge import CannotTurnOn, Terms
from tests import factories, people
from tests.billing import dying, processes, stage
from tests.billing.recharging import (
    TERMS,
    attempts,
    card_of,
    charges,
    credited,
    owner,
    paid_at_stripe,
    recharging,
    row,
    spend,
    states,
    time_passes,
    told,
    top_up,
    turn_on,
    with_card,
)
from tests.stack import until
from tests.stripe_simulator.process import StripeSimulator

Stop = AutoRecharge.Stop
SEND = "POST /v1/payment_intents"
DETACH = "POST /v1/payment_methods"
HOUR = timedelta(hours=1)


def behaves(simulator: StripeSimulator, account: Account, behaviour: str) -> None:
    simulator.control("card", payment_method=card_of(account), behaviour=behaviour)


def delete_customer(simulator: StripeSimulator, account: Account) -> None:
    """At Stripe, which tells us so."""
    gone = StripeCustomer.objects.get(account=account).stripe_id or ""
    simulator.client().v1.customers.delete(gone)
    auto_recharge.mirror(gone)


def is_due(account: Account) -> bool:
    return account.pk in recharge.due([account.pk])


@pytest.mark.django_db
class TestTurningItOn:
    def test_nothing_is_charged_that_nobody_agreed_to(self, simulator: StripeSimulator) -> None:
        account = with_card(simulator)
        spend(account, 24)

        assert not is_due(account)
        recharge.work(account.pk)

        assert attempts(account) == []

    def test_a_low_balance_is_charged_once_and_credited_with_a_receipt(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        assert is_due(account)

        recharge.work(account.pk)

        [payment] = attempts(account)
        assert (payment.state, payment.amount_cents, payment.tax_cents) == ("paid", 2000, 0)
        assert (credited(account), paid_at_stripe(simulator, account)) == (20, 1)
        assert Receipt.objects.get(payment=payment).total_cents == 2000
        assert payment.requested_by == owner(account).user
        assert told(account) == []
        assert not is_due(account)

    def test_it_wants_no_page_to_which_the_customer_would_return(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        recharge.work(account.pk)
        paid = Payment.objects.get(account=account, state="paid", kind="recharge")
        found = simulator.client().v1.payment_intents.retrieve(paid.payment_intent or "")
        assert found.automatic_payment_methods is not None
        assert found.automatic_payment_methods.allow_redirects == "never"

    def test_a_balance_at_the_threshold_is_not_low_and_held_money_cannot_be_spent(
        self, simulator: StripeSimulator
    ) -> None:
        account = recharging(simulator, replace(TERMS, threshold_cents=2500))
        assert not is_due(account)

        factories.held(factories.ask(account, 1))

        assert is_due(account)

    def test_a_card_must_be_saved_first(self, simulator: StripeSimulator) -> None:
        account, _email = people.customer("cardless")
        with pytest.raises(CannotTurnOn, match="Save a card first"):
            turn_on(account)

    @pytest.mark.parametrize(
        "terms",
        [
            replace(TERMS, amount_cents=499),
            replace(TERMS, amount_cents=500_001, monthly_cap_cents=600_000),
            replace(TERMS, threshold_cents=0),
            replace(TERMS, monthly_cap_cents=1999),
            replace(TERMS, interval_minutes=1),
        ],
    )
    def test_terms_that_make_no_sense_are_refused(self, simulator: StripeSimulator, terms: Terms) -> None:
        account = with_card(simulator)
        with pytest.raises(CannotTurnOn):
            turn_on(account, terms)
        assert auto_recharge.of(account) is None

    def test_it_is_off_where_tax_is_on(self, simulator: StripeSimulator, settings: Settings) -> None:
        account = recharging(simulator)
        settings.STRIPE_TAX = True

        with pytest.raises(CannotTurnOn, match="tax"):
            turn_on(account)
        recharge.work(account.pk)

        assert attempts(account) == []

    def test_who_turned_it_on_changed_it_and_off_is_known(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        turn_on(account, replace(TERMS, amount_cents=3000))
        auto_recharge.turn_off(account=account, by=owner(account).user)
        auto_recharge.turn_off(account=account, by=owner(account).user)

        events = AuditEvent.objects.filter(account=account, action__startswith="billing.recharge").order_by("id")
        assert [event.action.partition(".")[2] for event in events] == [
            "recharge_on",
            "recharge_changed",
            "recharge_off",
        ]
        assert events[1].object == "$30.00 below $30.00, at most $100.00 a month, every 60 minutes at most"
        assert {event.actor for event in events} == {owner(account).user}

    def test_who_may_not_add_funds_may_not_turn_it_on(self, simulator: StripeSimulator) -> None:
        account = with_card(simulator)
        member = Membership.objects.get(user=people.member_of(account, "member"))
        with pytest.raises(PermissionDenied, match="may not add funds"):
            auto_recharge.turn_on(account=account, terms=TERMS, by=member, now=clock.now())


@pytest.mark.django_db
class TestWhenItMayCharge:
    def test_the_interval_must_be_over(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        recharge.work(account.pk)
        spend(account, 40)

        recharge.work(account.pk)
        assert states(account) == ["paid"]

        time_passes(account, HOUR)
        recharge.work(account.pk)
        assert states(account) == ["paid", "paid"]

    def test_changing_the_terms_does_not_shorten_the_interval(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        recharge.work(account.pk)
        spend(account, 40)
        turn_on(account)

        recharge.work(account.pk)

        assert states(account) == ["paid"]

    def test_the_cap_of_the_month_is_never_exceeded(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator, replace(TERMS, monthly_cap_cents=5000))
        for _ in range(2):
            recharge.work(account.pk)
            spend(account, 20)
            AutoRecharge.objects.filter(account=account).update(not_before=clock.now())
        assert is_due(account)

        recharge.work(account.pk)
        assert states(account) == ["paid", "paid"]
        assert not is_due(account)
        assert row(account).not_before == auto_recharge.month_after(clock.now())

        turn_on(account, replace(TERMS, monthly_cap_cents=6000, interval_minutes=10))
        AutoRecharge.objects.filter(account=account).update(not_before=clock.now())
        recharge.work(account.pk)
        assert states(account) == ["paid", "paid", "paid"]

    def test_what_was_charged_in_the_month_before_does_not_count(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator, replace(TERMS, monthly_cap_cents=2000))
        recharge.work(account.pk)
        spend(account, 40)
        time_passes(account, timedelta(days=31))

        recharge.work(account.pk)

        assert states(account) == ["paid", "paid"]

    def test_a_disabled_account_is_left_alone(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        Account.objects.filter(pk=account.pk).update(disabled_at=clock.now())

        assert not is_due(account)
        recharge.work(account.pk)

        assert attempts(account) == []

    def test_a_flagged_account_waits_until_staff_have_looked(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        flags.flag(account.payments.get(), cause=factories.unique("du"), reason="fraudulent")

        assert not is_due(account)
        recharge.work(account.pk)
        assert attempts(account) == []
        assert row(account).enabled

        flags.clear(account.payment_flags.all(), now=clock.now(), by=factories.user())
        recharge.work(account.pk)
        assert states(account) == ["paid"]

    def test_an_account_that_is_closed_ends_it(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        closing.ask(account=account, by=owner(account), now=clock.now())

        recharge.tidy()

        assert (row(account).enabled, row(account).stopped_reason) == (False, Stop.CLOSING)
        assert told(account) == []

    def test_a_card_of_the_other_mode_is_none(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        StripeCustomer.objects.filter(account=account).update(livemode=True)

        recharge.work(account.pk)

        assert attempts(account) == []
        assert row(account).stopped_reason == Stop.CARD_GONE

    def test_a_settlement_asks_once_and_only_rings(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        with CaptureQueriesContext(connection) as asked:
            assert recharge.due([account.pk]) == [account.pk]
        assert len(asked) == 1


@pytest.mark.django_db
class TestDeclines:
    @pytest.mark.parametrize("behaviour", ["expired_card", "lost_card", "stolen_card", "incorrect_cvc"])
    def test_a_card_that_is_of_no_use_stops_it_at_once(self, simulator: StripeSimulator, behaviour: str) -> None:
        account = recharging(simulator)
        behaves(simulator, account, behaviour)

        recharge.work(account.pk)

        [payment] = attempts(account)
        assert (payment.state, payment.failure_code) == ("failed", behaviour)
        assert (row(account).enabled, row(account).stopped_reason) == (False, Stop.DECLINED)
        assert told(account) == ["stopped"]
        assert credited(account) == 0

    @pytest.mark.parametrize("behaviour", ["generic_decline", "insufficient_funds", "do_not_honor", "processing_error"])
    def test_another_decline_is_tried_again_later_and_later_until_it_stops(
        self, simulator: StripeSimulator, behaviour: str
    ) -> None:
        account = recharging(simulator)
        behaves(simulator, account, behaviour)

        for pause in auto_recharge.BACK_OFF:
            recharge.work(account.pk)
            time_passes(account, pause - timedelta(minutes=1))
            assert not is_due(account)
            time_passes(account, timedelta(minutes=1))
            assert is_due(account)
        recharge.work(account.pk)

        assert states(account) == ["failed"] * 3
        assert (row(account).enabled, row(account).stopped_reason) == (False, Stop.FAILURES)
        assert told(account) == ["declined", "declined", "stopped"]
        assert len(charges(simulator, account)) == 3

    def test_a_payment_that_succeeds_ends_the_row_of_failures(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        for behaviour in ("generic_decline", "", "generic_decline"):
            behaves(simulator, account, behaviour)
            recharge.work(account.pk)
            time_passes(account)
            spend(account, 20 if behaviour == "" else 1)
        assert states(account) == ["failed", "paid", "failed"]
        assert (row(account).enabled, row(account).failures) == (True, 1)

    def test_it_is_counted_without_a_message_and_once_with_many(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "insufficient_funds")
        recharge.work(account.pk)
        [payment] = attempts(account)
        assert payment.payment_intent

        for _ in range(3):
            fulfilment.fulfil(payment.payment_intent)
            recharge.work(account.pk)

        assert (row(account).failures, told(account)) == (1, ["declined"])

    def test_a_card_that_was_removed_at_stripe_stops_it(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.client().v1.payment_methods.detach(card_of(account))

        recharge.work(account.pk)

        [payment] = attempts(account)
        assert (payment.state, payment.payment_intent) == ("failed", None)
        assert row(account).stopped_reason == Stop.REFUSED

    def test_what_has_stopped_does_not_come_back_by_itself(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "lost_card")
        recharge.work(account.pk)

        top_up(simulator, account, cents=500)  # Paid, and with another card.
        spend(account, 10)
        time_passes(account, timedelta(days=40))
        recharge.tidy()
        recharge.work(account.pk)
        assert not is_due(account)
        assert states(account) == ["failed"]

        turn_on(account)
        recharge.work(account.pk)
        assert states(account) == ["failed", "paid"]


@pytest.mark.django_db
class TestAConfirmationThatTheBankWants:
    def test_it_waits_for_the_customer_and_nothing_else_is_tried(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "authenticate")
        recharge.work(account.pk)
        time_passes(account)
        recharge.work(account.pk)
        [payment] = attempts(account)
        assert payment.payment_intent
        fulfilment.fulfil(payment.payment_intent)

        assert states(account) == ["requires_action"]
        assert (row(account).enabled, told(account)) == (True, ["confirm"])
        notice = auto_recharge.notice(account)
        assert notice
        assert (notice.waiting_cents, notice.waiting_since) == (2000, payment.created_at)

    def test_a_payment_of_the_customers_overtakes_it(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "authenticate")
        recharge.work(account.pk)

        top_up(simulator, account, cents=2000)
        assert auto_recharge.notice(account) is None
        recharge.tidy()
        assert states(account) == ["canceled"]
        [payment] = attempts(account)
        assert payment.payment_intent
        fulfilment.fulfil(payment.payment_intent)  # A late message.
        assert states(account) == ["canceled"]

        spend(account, 20)
        time_passes(account, HOUR)
        recharge.work(account.pk)
        assert states(account) == ["canceled", "paid"]  # With the card that was used, of which nothing is known yet.

    def test_so_does_one_that_was_begun_before_and_paid_after(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "authenticate")
        recharge.work(account.pk)
        payment = top_up(simulator, account, cents=2000)
        Payment.objects.filter(pk=payment.pk).update(created_at=payment.created_at - HOUR)

        assert auto_recharge.notice(account) is None
        recharge.tidy()
        assert states(account) == ["canceled"]

    @pytest.mark.parametrize("ends", ["off", "on again"])
    def test_who_turns_it_off_need_not_confirm(self, simulator: StripeSimulator, ends: str) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "authenticate")
        recharge.work(account.pk)

        auto_recharge.turn_off(account=account, by=owner(account).user)
        assert states(account) == ["canceled"]
        if ends == "on again":
            turn_on(account)
            assert is_due(account) is False  # The interval.

    def test_a_bank_that_always_wants_one_stops_it(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        for _ in range(3):
            behaves(simulator, account, "authenticate")
            recharge.work(account.pk)
            if row(account).enabled:
                top_up(simulator, account, cents=500)
                recharge.tidy()
                spend(account, 5)
                time_passes(account, HOUR)
        assert row(account).stopped_reason == Stop.FAILURES
        assert told(account) == ["confirm", "confirm", "stopped"]
        assert states(account) == ["canceled"] * 3


@pytest.mark.django_db
class TestAnAnswerThatDoesNotCome:
    @pytest.mark.parametrize(
        ("kind", "count"), [("lose_answer", 2), ("error_after_commit", 1), ("error_after_commit", 2), ("rate_limit", 2)]
    )
    def test_it_stays_open_and_is_charged_once(self, simulator: StripeSimulator, kind: str, count: int) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind=kind, count=str(count), path=SEND)

        recharge.work(account.pk)
        simulator.control("calls", kind=kind, count="0", path=SEND)
        assert states(account) == ["open"]
        assert not is_due(account)

        time_passes(account, timedelta(minutes=5))
        assert is_due(account)
        recharge.work(account.pk)

        assert states(account) == ["paid"]
        assert (credited(account), paid_at_stripe(simulator, account), told(account)) == (20, 1, [])

    def test_a_decline_whose_answer_was_lost_is_counted_once(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "insufficient_funds")
        simulator.control("calls", kind="lose_answer", count="2", path=SEND)
        recharge.work(account.pk)

        time_passes(account, timedelta(minutes=5))
        recharge.work(account.pk)

        assert (states(account), row(account).failures) == (["failed"], 1)
        assert len(charges(simulator, account)) == 1

    def test_an_old_one_is_looked_up_and_not_sent_again(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path=SEND)
        recharge.work(account.pk)

        time_passes(account, timedelta(hours=21))
        recharge.work(account.pk)

        assert (states(account), row(account).failures) == (["canceled"], 0)
        assert charges(simulator, account) == []

    def test_an_old_one_that_was_charged_is_found(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="lose_answer", count="2", path=SEND)
        recharge.work(account.pk)

        time_passes(account, timedelta(hours=21))
        recharge.work(account.pk)

        assert (states(account), paid_at_stripe(simulator, account)) == (["paid"], 1)

    def test_it_is_not_sent_again_once_the_customer_has_turned_it_off(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path=SEND)
        recharge.work(account.pk)
        auto_recharge.turn_off(account=account, by=owner(account).user)

        time_passes(account, timedelta(minutes=5))
        recharge.work(account.pk)

        assert (states(account), charges(simulator, account)) == (["canceled"], [])

    def test_what_a_message_wrote_is_counted_by_the_sweep(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="lose_answer", count="2", path=SEND)
        recharge.work(account.pk)
        [intent] = [intent["id"] for intent in charges(simulator, account)]
        fulfilment.fulfil(intent)
        assert (states(account), told(account)) == (["paid"], [])

        assert is_due(account)
        for _ in range(2):
            recharge.work(account.pk)

        assert (row(account).attempt, told(account)) == (None, [])

    def test_one_whose_customer_was_deleted_and_replaced_meanwhile_is_credited(
        self, simulator: StripeSimulator
    ) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="lose_answer", count="2", path=SEND)
        recharge.work(account.pk)
        delete_customer(simulator, account)
        top_up(simulator, account, cents=500)

        time_passes(account, timedelta(minutes=5))
        recharge.work(account.pk)

        assert (states(account), credited(account), paid_at_stripe(simulator, account)) == (["paid"], 20, 1)
        assert (row(account).attempt, row(account).stopped_reason) == (None, Stop.CARD_GONE)

    @pytest.mark.parametrize("reached", [True, False])
    def test_a_customer_of_whom_stripe_knows_nothing_ends_it(self, simulator: StripeSimulator, reached: bool) -> None:
        account = recharging(simulator)
        kind = "lose_answer" if reached else "rate_limit"
        simulator.control("calls", kind=kind, count="2", path=SEND)
        recharge.work(account.pk)
        simulator.control("calls", kind=kind, count="0", path=SEND)
        StripeCustomer.objects.filter(account=account).update(stripe_id="cus_gone")
        Payment.objects.filter(account=account, kind="recharge").update(customer="cus_gone")

        time_passes(account, timedelta(minutes=5))
        recharge.work(account.pk)

        [payment] = attempts(account)
        if reached:  # Of another customer than it says: nothing is credited, and a person is told.
            assert (payment.state, payment.error[:3], row(account).attempt) == ("open", "pi_", payment)
        else:
            assert (payment.state, payment.failure_code) == ("failed", "resource_missing")
            assert (row(account).attempt, row(account).stopped_reason, told(account)) == (
                None,
                Stop.REFUSED,
                ["stopped"],
            )

    @pytest.mark.parametrize(("kind", "ends", "paid"), [("lose_answer", "paid", 1), ("rate_limit", "canceled", 0)])
    def test_one_of_the_version_before_that_names_no_customer_is_looked_up_and_not_sent_again(
        self, simulator: StripeSimulator, kind: str, ends: str, paid: int
    ) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind=kind, count="2", path=SEND)
        recharge.work(account.pk)
        simulator.control("calls", kind=kind, count="0", path=SEND)
        Payment.objects.filter(account=account, kind="recharge").update(customer="")

        time_passes(account, timedelta(minutes=5))
        recharge.work(account.pk)

        assert (states(account), paid_at_stripe(simulator, account)) == ([ends], paid)
        assert (row(account).enabled, row(account).failures, told(account)) == (True, 0, [])

    @pytest.mark.usefixtures("at_rest")
    def test_a_sweep_of_top_ups_leaves_it_alone(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path=SEND)
        recharge.work(account.pk)
        fulfilment.sweep(now=clock.now() + timedelta(hours=3))
        assert states(account) == ["open"]


@pytest.mark.django_db
class TestAPaymentThatNobodyConfirms:
    """Stripe made it, and did not go on with it."""

    def left_behind(self, simulator: StripeSimulator) -> tuple[Account, str]:
        """An attempt of which Stripe answered nothing, and what it has made of it."""
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path=SEND)
        recharge.work(account.pk)
        simulator.control("calls", kind="rate_limit", count="0", path=SEND)
        [payment] = attempts(account)
        made = simulator.client().v1.payment_intents.create(
            {
                "amount": 2000, "currency": "usd", "customer": payment.customer,
                "payment_method": payment.payment_method, "metadata": {"payment": str(payment.pk)},
            }
        )  # fmt: skip
        assert made.status == "requires_confirmation"
        return account, made.id

    def status(self, simulator: StripeSimulator, intent: str) -> str:
        return simulator.client().v1.payment_intents.retrieve(intent).status

    def test_it_is_called_off_at_stripe_once_it_is_old_and_the_customer_is_told(
        self, simulator: StripeSimulator
    ) -> None:
        account, intent = self.left_behind(simulator)
        time_passes(account, timedelta(minutes=30))
        recharge.work(account.pk)
        assert (states(account), self.status(simulator, intent)) == (["open"], "requires_confirmation")

        time_passes(account, HOUR)
        for _ in range(2):
            recharge.work(account.pk)

        [payment] = attempts(account)
        assert (payment.state, payment.failure_code, payment.payment_intent) == ("failed", "not_confirmed", intent)
        assert self.status(simulator, intent) == "canceled"
        assert (row(account).attempt, row(account).failures, told(account)) == (None, 1, ["declined"])
        assert "did not get it done" in payment_log.line_of(payment).why
        time_passes(account)
        recharge.work(account.pk)
        assert (states(account), paid_at_stripe(simulator, account)) == (["failed", "paid"], 1)

    def test_one_that_is_paid_at_the_last_moment_is_credited(self, simulator: StripeSimulator) -> None:
        account, intent = self.left_behind(simulator)
        time_passes(account, 2 * HOUR)
        real = stripe_api.cancel_intent

        def too_late(intent_id: str) -> None:
            simulator.client().v1.payment_intents.confirm(intent_id)
            real(intent_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stripe_api, "cancel_intent", too_late)
            recharge.work(account.pk)

        assert (states(account), credited(account), self.status(simulator, intent)) == (["paid"], 20, "succeeded")

    def test_whoever_calls_it_off_and_dies_leaves_the_rest_to_the_next(self, simulator: StripeSimulator) -> None:
        account, intent = self.left_behind(simulator)
        stripe_api.cancel_intent(intent)
        time_passes(account, timedelta(minutes=5))

        for _ in range(2):
            recharge.work(account.pk)

        assert (states(account), told(account)) == (["failed"], ["declined"])

    def test_what_fits_nothing_and_cannot_be_paid_any_more_is_not_waited_for(self, simulator: StripeSimulator) -> None:
        account, intent = self.left_behind(simulator)
        Payment.objects.filter(account=account, kind="recharge").update(customer="cus_other")
        time_passes(account, 2 * HOUR)

        recharge.work(account.pk)

        [payment] = attempts(account)
        assert (payment.state, payment.failure_code, bool(payment.error)) == ("failed", "not_confirmed", True)
        assert (self.status(simulator, intent), row(account).attempt) == ("canceled", None)


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


def test_many_settlements_at_the_same_time_charge_once(simulator: StripeSimulator, committed: None) -> None:
    account = recharging(simulator, replace(TERMS, threshold_cents=2000))
    for _ in range(12):
        factories.recorded(account, 10**12)

    def settle() -> None:
        tasks.settle_usage(account_ids=[account.pk])
        for account_id in recharge.due([account.pk]):
            recharge.work(account_id)

    assert stage.at_the_same_time(*[settle] * 12) == [None] * 12

    assert not UsageRecord.objects.filter(account=account, settled_at=None).exists()
    assert (states(account), told(account)) == (["paid"], [])
    assert (credited(account), paid_at_stripe(simulator, account)) == (20, 1)
    assert Wallet.objects.get(pk=account.pk).posted == funds.wallet_of(Account.objects.get(pk=account.pk)).posted


def test_an_attempt_is_pursued_by_one_at_a_time(simulator: StripeSimulator, committed: None) -> None:
    account = recharging(simulator)
    simulator.control("calls", kind="lose_answer", count="2", path=SEND)
    recharge.work(account.pk)
    time_passes(account, timedelta(minutes=5))

    stage.at_the_same_time(*[lambda: recharge.work(account.pk)] * 8)

    assert (states(account), told(account), paid_at_stripe(simulator, account)) == (["paid"], [], 1)


@contextmanager
def deaf() -> Iterator[tuple[str, Callable[[], None]]]:
    """Something at Stripe's address that never answers, and how to wait until it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(processes.SECONDS)
        asked: list[socket.socket] = []
        yield f"http://127.0.0.1:{server.getsockname()[1]}", lambda: asked.append(server.accept()[0])
        for one in asked:
            one.close()


class TestKilled:
    """At each step between our row and the last thing that is written about it."""

    def test_before_stripe_has_heard_of_it(self, simulator: StripeSimulator, committed: None) -> None:
        account = recharging(simulator)
        with (
            deaf() as (address, wait_until_asked),
            processes.running(processes.recharge_once, account.pk, simulator.key, address),
        ):
            wait_until_asked()
        assert (states(account), charges(simulator, account)) == (["open"], [])

        self.end_well(simulator, account)

    @pytest.mark.parametrize("path", [SEND, "GET /v1/payment_intents"])
    def test_before_the_answer_is_written_down(self, simulator: StripeSimulator, committed: None, path: str) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="hang", count="1", seconds="8", path=path)
        with processes.running(processes.recharge_once, account.pk, simulator.key, simulator.url):
            until(lambda: hangs(simulator))
        assert states(account) == ["open"]
        assert paid_at_stripe(simulator, account) == 1

        self.end_well(simulator, account)

    def test_before_it_is_counted(self, simulator: StripeSimulator, committed: None) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="hang", count="1", seconds="1", path=SEND)
        with (
            processes.running(processes.recharge_once, account.pk, simulator.key, simulator.url),
            stage.another_connection() as other,
        ):
            until(lambda: hangs(simulator))
            other.execute("SELECT 1 FROM billing_autorecharge WHERE account_id = %s FOR UPDATE", [account.pk])
            stage.wait_until_blocked_by(other, seconds=processes.SECONDS)
            assert (states(account), told(account)) == (["paid"], [])

        self.end_well(simulator, account)

    def test_while_a_replaced_card_is_forgotten(self, simulator: StripeSimulator, committed: None) -> None:
        account = with_card(simulator)
        self.forget(simulator, None)  # What other tests left behind.
        for last in range(3):
            before = card_of(account)
            top_up(simulator, account)
            self.forget(simulator, last)
            client = simulator.client().v1.payment_methods
            assert (client.retrieve(before).customer is None) == (last > 0)
            assert ReplacedCard.objects.filter(pk=before).exists() == (last < 2)

            self.forget(simulator, None)
            assert client.retrieve(before).customer is None
            assert client.retrieve(card_of(account)).customer
            assert not ReplacedCard.objects.filter(pk=before).exists()

    def forget(self, simulator: StripeSimulator, last: int | None) -> None:
        """To the end, or until it is killed before step `last`."""
        answers = processes.context().Queue()
        arguments = (processes.forget_cards, (simulator.key, simulator.url), last, answers)
        with processes.running(dying.walk, *arguments) as process:
            process.join(processes.SECONDS)
            assert process.exitcode == (0 if last is None else -9)

    def end_well(self, simulator: StripeSimulator, account: Account) -> None:
        """Whatever was left behind is found, and money moves once."""
        time_passes(account, timedelta(minutes=5))
        assert is_due(account)
        for _ in range(2):
            recharge.work(account.pk)
        assert (states(account), told(account)) == (["paid"], [])
        assert (credited(account), paid_at_stripe(simulator, account)) == (20, 1)
        assert row(account).attempt is None


def hangs(simulator: StripeSimulator) -> bool:
    """Whether the call that was to hang has come."""
    _status, page, _ = simulator.ask("GET", "/control/")
    return page.count("0 left") > 1
