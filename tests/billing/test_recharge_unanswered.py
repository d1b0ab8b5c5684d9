"""Whatever becomes of an attempt whose answer is lost, which nobody confirms or which is killed, money moves once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from accounts.models import Account
from billing import clock, funds, payment_log, tasks
from billing.models import (
    AutoRecharge,
    Payment,
    StripeCustomer,
    UsageRecord,
    Wallet,
)
from billing.payments import auto_recharge, fulfilment, recharge, stripe_api
from tests import factories
from tests.billing import processes, stage
from tests.billing.recharging import (
    SEND,
    TERMS,
    attempts,
    behaves,
    charges,
    credited,
    delete_customer,
    is_due,
    owner,
    paid_at_stripe,
    recharging,
    row,
    states,
    time_passes,
    told,
    top_up,
)
from tests.stack import until
from tests.stripe_simulator.process import StripeSimulator

Stop = AutoRecharge.Stop
HOUR = timedelta(hours=1)


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
