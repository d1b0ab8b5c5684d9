"""Auto-recharge charges the saved card once where it was agreed to, and whatever else happens is shown and counted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import Account, AuditEvent, Membership
from billing import clock, closing
from billing.models import (
    AutoRecharge,
    Payment,
    Receipt,
    StripeCustomer,
)
from billing.payments import auto_recharge, flags, fulfilment, recharge
from billing.payments.auto_recharge import CannotTurnOn, Terms
from tests import factories, people
from tests.billing.recharging import (
    TERMS,
    attempts,
    behaves,
    card_of,
    charges,
    credited,
    is_due,
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
from tests.stripe_simulator.process import StripeSimulator

Stop = AutoRecharge.Stop
HOUR = timedelta(hours=1)


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
