"""What goes back to a card goes once, and never more than is left: twice, at once, killed, and from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from pytest_django import Settings

from accounts.models import AuditEvent, User
from apikeys import keys
from billing import clock, ledger, money
from billing.models import Payment, Refund, RefundHold, StripeEvent, Transfer, TransferKind, Wallet
from billing.payments import fulfilment, inbox, refund_room, refunds, returns
from tests import factories
from tests.billing import processes, stage
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_fulfilment import begun, session_of
from tests.billing.test_inbox import deliver, event, stored

CENT = money.PICO_PER_CENT


def paid(stripe: FakeStripe, cents: int = 2500, *, tax: int = 0) -> Payment:
    payment = begun(stripe, cents)
    fulfilment.fulfil(stripe.pay(session_of(payment), tax=tax))
    payment.refresh_from_db()
    keys.create(account=payment.account, name="laptop", now=clock.now())
    return payment


def intent_of(payment: Payment) -> str:
    assert payment.payment_intent
    return payment.payment_intent


def staff() -> User:
    return User.objects.create_superuser(f"{factories.unique('staff')}@example.test")


def start(payment: Payment, cents: int, *, form: UUID | None = None, by: User | None = None) -> Refund:
    return refunds.start(form=form or uuid4(), payment=payment, cents=cents, reason="They asked", by=by or staff())


def most(payment: Payment) -> int:
    payment.refresh_from_db()
    return refund_room.room(payment, now=clock.now()).most


def spend(payment: Payment, cents: int) -> None:
    factories.debit(payment.account, cents * CENT)


def paid_left(payment: Payment) -> int:
    """In cents, of what was paid; negative where more went than there was."""
    wallet = Wallet.objects.get(pk=payment.account_id)
    lots = sum(wallet.lots.filter(kind="paid").values_list("remaining", flat=True))
    return (lots - wallet.debt) // CENT


def held(payment: Payment) -> int:
    return Wallet.objects.get(pk=payment.account_id).held // CENT


def asked(stripe: FakeStripe) -> list[dict[str, Any]]:
    """What Stripe was asked to refund."""
    return [params for method, path, params in stripe.asked if (method, path) == ("POST", "/v1/refunds")]


@pytest.mark.django_db
class TestOurs:
    def test_it_is_held_asked_for_and_posted(self, stripe: FakeStripe) -> None:
        payment, by = paid(stripe), staff()

        refund = start(payment, 1000, by=by)

        assert (refund.state, refund.hold, refund.tax_cents, refund.source) == ("succeeded", None, 0, "admin")
        assert (paid_left(payment), held(payment)) == (1500, 0)
        assert refund.transfer is not None
        assert (refund.transfer.cause, refund.transfer.credit) == (
            f"stripe:re:{refund.stripe_id}",
            "simulated_clearing",
        )
        assert refund.transfer.reason.startswith("$10.00 to the card, of the payment of 20")
        [params] = asked(stripe)
        assert (params["amount"], params["metadata[refund]"]) == ("1000", str(refund.pk))
        assert "They asked" not in str(params)
        assert AuditEvent.objects.get(account=payment.account, actor=by).object == "$10.00"
        stage.assert_books_hold()

    def test_the_same_form_again_refunds_nothing_more(self, stripe: FakeStripe) -> None:
        payment, form, by = paid(stripe), uuid4(), staff()
        first = start(payment, 1000, form=form, by=by)
        assert start(payment, 1000, form=form, by=by) == first
        with pytest.raises(refunds.CannotRefund, match="another refund"):
            start(payment, 900, form=form, by=by)
        assert (len(asked(stripe)), paid_left(payment)) == (1, 1500)

    def test_a_second_part_of_the_same_amount_is_no_repeat(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        for _ in range(2):
            start(payment, 1000)
        assert (paid_left(payment), most(payment)) == (500, 500)
        assert Refund.objects.filter(payment=payment).count() == 2
        stage.assert_books_hold()

    @pytest.mark.parametrize("parts", [*permutations([333, 700, 1942]), tuple([119] * 25), (2973, 2)])
    def test_parts_with_their_tax_add_up_to_the_cent(self, stripe: FakeStripe, parts: tuple[int, ...]) -> None:
        payment = paid(stripe, 2500, tax=475)
        for part in parts:
            start(payment, part)

        assert (paid_left(payment), most(payment)) == (0, 0)
        done = Refund.objects.filter(payment=payment)
        assert sum(refund.tax_cents or 0 for refund in done) == 475
        assert sum(Transfer.objects.filter(refund__in=done).values_list("amount", flat=True)) == 2500 * CENT
        stage.assert_books_hold()

    def test_more_than_unspent_is_refused_and_why_is_said(self, stripe: FakeStripe) -> None:
        payment = paid(stripe, 2500, tax=475)
        start(payment, 1190)
        spend(payment, 400)
        factories.held(factories.ask(payment.account, Wallet.objects.get(pk=payment.account_id).available - 300 * CENT))

        found = refund_room.room(Payment.objects.get(pk=payment.pk), now=clock.now())

        assert (found.paid, found.refunded, found.under_way, found.disputed) == (2975, 1190, 0, 0)
        assert (found.spent, found.held, found.most) == (476, 952, 357)
        for cents in (358, 0, -1):
            with pytest.raises(refunds.CannotRefund, match="can be refunded now"):
                start(payment, cents)
        assert start(payment, 357).state == "succeeded"
        stage.assert_books_hold()

    def test_what_a_dispute_took_is_not_refunded_and_is_said(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        again(stripe, payment, 5000)
        start(payment, 500)
        returns.move(payment, 2500, kind=TransferKind.DISPUTE, cause=factories.unique("dispute"), now=clock.now())

        payment.refresh_from_db()
        found = refund_room.room(payment, now=clock.now())
        assert (found.refunded, found.disputed, found.spent, found.held, found.most) == (500, 2500, 0, 0, 0)
        assert [part.cents for part in refund_room.parts_of(payment.account, now=clock.now())] == [4500]

    def test_promotional_credit_is_never_refunded(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        factories.promotion(payment.account, 5000 * CENT, expires_at=None)
        assert most(payment) == 2500
        with pytest.raises(refunds.CannotRefund):
            start(payment, 2501)

    def test_what_was_not_paid_or_has_no_reason_is_not_refunded(self, stripe: FakeStripe, settings: Settings) -> None:
        payment, unpaid = paid(stripe), begun(stripe)
        with pytest.raises(refunds.CannotRefund, match="reason"):
            refunds.start(form=uuid4(), payment=payment, cents=1, reason="  ", by=staff())
        with pytest.raises(refunds.CannotRefund, match="was paid"):
            start(unpaid, 100)
        settings.STRIPE_LIVEMODE = True
        with pytest.raises(refunds.CannotRefund, match="key"):
            start(payment, 100)
        assert not Refund.objects.filter(payment__in=[payment, unpaid]).exists()

    def test_so_little_that_it_is_tax_alone_is_not_refunded(self, stripe: FakeStripe) -> None:
        payment = paid(stripe, 500, tax=500)
        start(payment, 1)
        with pytest.raises(refunds.CannotRefund, match="tax alone"):
            start(payment, 1)
        assert start(payment, 2).tax_cents == 1

    def test_what_stripe_refuses_is_given_back_and_says_why(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        stripe.objects[intent_of(payment)]["amount_received"] = 0

        refund = start(payment, 1000)

        assert (refund.state, refund.failure_reason) == ("refused", "charge_already_refunded")
        assert (paid_left(payment), held(payment), most(payment)) == (2500, 0, 2500)
        assert not RefundHold.objects.filter(wallet=payment.account_id).exists()
        stage.assert_books_hold()

    @pytest.mark.usefixtures("at_rest")
    def test_without_an_answer_it_stays_held_until_the_sweep_hears_what_was_done(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        stripe.failing_with = 500
        refund = start(payment, 1000)
        assert (refund.state, refund.error) == ("held", "Unavailable: APIError")
        assert (paid_left(payment), held(payment), most(payment)) == (2500, 1000, 0)
        with pytest.raises(refunds.CannotRefund, match="under way"):
            start(payment, 100)

        stripe.failing_with = None
        refunds.sweep(now=clock.now())
        assert held(payment) == 1000, "It is not due yet."
        for _ in range(2):
            refunds.sweep(now=clock.now() + timedelta(minutes=2))

        refund.refresh_from_db()
        assert (refund.state, refund.error, refund.stripe_id) == ("succeeded", "", stripe.made("refund")[0]["id"])
        assert (len(stripe.made("refund")), paid_left(payment), held(payment)) == (1, 1500, 0)
        stage.assert_books_hold()

    @pytest.mark.parametrize("was_done", [True, False])
    @pytest.mark.usefixtures("at_rest")
    def test_after_the_life_of_the_key_it_is_looked_for_before_it_is_sent_again(
        self, stripe: FakeStripe, was_done: bool
    ) -> None:
        payment = paid(stripe)
        stripe.failing_with = 500
        refund = start(payment, 1000)
        stripe.failing_with = None
        stripe.forget_keys()
        if not was_done:
            del stripe.objects[stripe.made("refund")[0]["id"]]
        Refund.objects.filter(pk=refund.pk).update(created_at=clock.now() - timedelta(hours=21))

        refunds.sweep(now=clock.now() + timedelta(minutes=2))

        assert (len(stripe.made("refund")), paid_left(payment), held(payment)) == (1, 1500, 0)
        stage.assert_books_hold()


@pytest.mark.django_db
class TestFromStripe:
    @pytest.mark.parametrize(
        ("status", "state"), [("pending", "sent"), ("requires_action", "sent"), ("succeeded", "succeeded")]
    )
    def test_a_refund_of_the_dashboard_is_posted_once_whatever_its_state(
        self, stripe: FakeStripe, status: str, state: str
    ) -> None:
        payment = paid(stripe)
        found = stripe.refunds_on_the_dashboard(intent_of(payment), 700, status=status)

        for _ in range(3):
            refunds.apply(found)

        refund = Refund.objects.get(payment=payment)
        assert (refund.state, refund.source, refund.requested_by) == (state, "stripe", None)
        assert (paid_left(payment), most(payment)) == (1800, 1800)
        stage.assert_books_hold()

    def test_one_that_overdraws_becomes_debt(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        spend(payment, 2000)
        refunds.apply(stripe.refunds_on_the_dashboard(intent_of(payment), 2500))
        assert paid_left(payment) == -2000
        stage.assert_books_hold()

    def test_the_payment_is_credited_first_where_nobody_has_told_of_it(self, stripe: FakeStripe) -> None:
        payment = begun(stripe)
        intent = stripe.pay(session_of(payment))
        refunds.apply(stripe.refunds_on_the_dashboard(intent, 1000))
        payment.refresh_from_db()
        assert (payment.state, paid_left(payment)) == ("paid", 1500)

    def test_what_was_not_credited_is_not_taken_back_and_stays_to_be_seen(self, stripe: FakeStripe) -> None:
        payment = begun(stripe)
        intent = stripe.pay(session_of(payment))
        stripe.objects[intent]["currency"] = "eur"
        refund = stripe.refunds_on_the_dashboard(intent, 1000)
        body = event("refund.created", {"id": refund})
        deliver(body)
        inbox.work(stored(body).pk)

        assert "which was not credited" in stored(body).error
        assert (stored(body).processed_at, Refund.objects.filter(payment=payment).exists()) == (None, False)

    def test_what_is_not_ours_is_left_alone(self, stripe: FakeStripe) -> None:
        payment = begun(stripe)
        intent = stripe.pay(session_of(payment))
        stripe.objects[intent]["metadata"] = {}
        assert refunds.apply(stripe.refunds_on_the_dashboard(intent, 1000)) is None
        [refund] = stripe.made("refund")
        refund["payment_intent"] = None
        assert refunds.apply(refund["id"]) is None
        assert not Refund.objects.filter(payment=payment).exists()

    @pytest.mark.parametrize("status", ["failed", "canceled"])
    @pytest.mark.parametrize("seen_before", [True, False])
    def test_one_that_did_not_arrive_comes_back_once(self, stripe: FakeStripe, status: str, seen_before: bool) -> None:
        payment = paid(stripe, 2500, tax=475)
        spend(payment, 2000)
        found = stripe.refunds_on_the_dashboard(intent_of(payment), 1190, status="pending")
        if seen_before:
            refunds.apply(found)
            assert paid_left(payment) == -500
        stripe.objects[found] |= {"status": status, "failure_reason": "lost_or_stolen_card"}
        for _ in range(3):
            refunds.apply(found)

        refund = Refund.objects.get(payment=payment)
        assert (refund.state, refund.failure_reason) == ("failed", "lost_or_stolen_card")
        payment.refresh_from_db()
        assert (payment.returned_cents, payment.returned_tax_cents) == (0, 0)
        assert (paid_left(payment), most(payment)) == (500, 595)
        back = Transfer.objects.get(cause=f"stripe:re:{found}:failed")
        assert (back.credit, back.amount) == ("wallet", 1000 * CENT)
        assert back.reason.startswith("Did not reach the card: $11.90")
        stage.assert_books_hold()

    def test_what_was_read_before_it_failed_changes_nothing_after(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        found = stripe.refunds_on_the_dashboard(intent_of(payment), 1000, status="failed")
        refunds.apply(found)
        for older in ("pending", "succeeded"):
            stripe.objects[found]["status"] = older
            refunds.apply(found)
        assert (Refund.objects.get(payment=payment).state, paid_left(payment)) == ("failed", 2500)

    def test_a_refund_that_only_says_it_is_ours_is_posted_as_what_it_is(self, stripe: FakeStripe) -> None:
        payment, other = paid(stripe), paid(stripe)
        stripe.failing_with = 500
        held_one = start(payment, 1000)
        stripe.failing_with = None
        del stripe.objects[stripe.made("refund")[0]["id"]]
        mark = {"refund": str(held_one.pk)}
        for intent, cents in ((intent_of(payment), 999), (intent_of(other), 1000)):
            found = refunds.apply(stripe.refunds_on_the_dashboard(intent, cents, metadata=mark))
            assert found is not None
            assert found.source == "stripe"
        held_one.refresh_from_db()
        assert (held_one.state, held(payment)) == ("held", 1000)
        assert (paid_left(payment), paid_left(other)) == (1501, 1500)

    @pytest.mark.parametrize(
        "kinds",
        [
            ["refund.created", "refund.updated", "charge.refunded"],
            ["charge.refunded", "refund.created"],
            ["charge.refund.updated", "charge.refunded", "refund.created"],
        ],
    )
    def test_messages_in_any_order_post_each_refund_once(self, stripe: FakeStripe, kinds: list[str]) -> None:
        payment = paid(stripe)
        stripe.refunds_on_the_dashboard(intent_of(payment), 300)
        last = stripe.refunds_on_the_dashboard(intent_of(payment), 300)
        for kind in kinds:
            about = last if "refund." in kind else f"ch_{intent_of(payment)}"
            body = event(kind, {"id": about})
            deliver(body)
            inbox.work(stored(body).pk)
            assert StripeEvent.objects.get(pk=stored(body).pk).processed_at
        assert (paid_left(payment), Refund.objects.filter(payment=payment).count()) == (1900, 2)
        stage.assert_books_hold()


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_eight_clicks_on_one_form_refund_once(self, stripe: FakeStripe) -> None:
        payment, form, by = paid(stripe), uuid4(), staff()

        done = stage.at_the_same_time(*[partial(start, payment, 1000, form=form, by=by)] * 8)

        assert not [result for result in done if isinstance(result, Exception)]
        assert (len(stripe.made("refund")), paid_left(payment), held(payment)) == (1, 1500, 0)
        stage.assert_books_hold()

    def test_eight_forms_never_refund_more_than_there_is(self, stripe: FakeStripe) -> None:
        payment, by = paid(stripe), staff()

        done = stage.at_the_same_time(*[partial(start, payment, 1000, by=by)] * 8)

        unexpected = [
            each for each in done if isinstance(each, Exception) and not isinstance(each, refunds.CannotRefund)
        ]
        assert not unexpected
        gone = sum(refund["amount"] for refund in stripe.made("refund"))
        assert gone in (1000, 2000)
        assert (paid_left(payment), held(payment)) == (2500 - gone, 0)
        stage.assert_books_hold()

    def test_a_refund_and_calls_never_take_the_same_money(self, stripe: FakeStripe) -> None:
        payment, by = paid(stripe), staff()
        available = Wallet.objects.get(pk=payment.account_id).available
        calls = [partial(stage.reserve, factories.ask(payment.account, available - 1000 * CENT)) for _ in range(4)]

        done = stage.at_the_same_time(*calls, *[partial(start, payment, 1001, by=by)] * 2)

        admitted = [result[0].admitted for result in done[:4]]
        refunded = [refund for refund in done[4:] if isinstance(refund, Refund)]
        assert sum(admitted) + len(refunded) == 1
        assert Wallet.objects.get(pk=payment.account_id).available >= 0
        stage.assert_books_hold()

    def test_messages_and_staff_and_sweeps_post_once(self, stripe: FakeStripe) -> None:
        payment, by = paid(stripe), staff()
        stripe.failing_with = 500
        refund = start(payment, 1000, by=by)
        stripe.failing_with = None
        found = stripe.made("refund")[0]["id"]
        sweep = partial(refunds.sweep, now=clock.now() + timedelta(minutes=2))
        every = partial(refunds.apply_all, charge=str(payment.charge))

        works: list[Callable[[], object]] = [partial(refunds.apply, found), sweep, every]
        works.append(partial(refunds.go_on, refund))
        done = stage.at_the_same_time(*works * 3)

        assert not [result for result in done if isinstance(result, Exception)]
        assert (paid_left(payment), held(payment)) == (1500, 0)
        refund.refresh_from_db()
        assert refund.state == "succeeded"
        stage.assert_books_hold()

    def test_whoever_closes_an_account_twice_at_once_refunds_it_once(self, stripe: FakeStripe) -> None:
        payment, by, form = paid(stripe), staff(), uuid4()
        work = partial(refunds.start_all, form=form, account=payment.account, reason="Closed", by=by)

        done = stage.at_the_same_time(*[work] * 4)

        assert not [result for result in done if isinstance(result, Exception)]
        assert (len(stripe.made("refund")), paid_left(payment), held(payment)) == (1, 0, 0)
        stage.assert_books_hold()

    @pytest.mark.parametrize("before_it_is_done", [True, False])
    def test_a_process_killed_while_stripe_is_asked_leaves_a_refund_that_goes_on(
        self, stripe: FakeStripe, before_it_is_done: bool
    ) -> None:
        payment, by = paid(stripe), staff()
        one_who_refunds = processes.running(processes.refund_once, stripe.url, payment.pk, 1000, by.pk)
        with stripe.stalling(before_it_is_done=before_it_is_done) as reached, one_who_refunds:
            assert reached.wait(processes.SECONDS)
        refund = Refund.objects.get(payment=payment)
        assert (refund.state, held(payment), paid_left(payment)) == ("held", 1000, 2500)
        assert len(stripe.made("refund")) == (0 if before_it_is_done else 1)

        for _ in range(2):
            refunds.sweep(now=clock.now() + timedelta(minutes=2))

        refund.refresh_from_db()
        assert (refund.state, held(payment), paid_left(payment)) == ("succeeded", 0, 1500)
        assert len(stripe.made("refund")) == 1
        stage.assert_books_hold()

    def test_a_process_killed_while_it_posts_leaves_a_refund_that_goes_on(self, stripe: FakeStripe) -> None:
        payment, by = paid(stripe), staff()
        one_who_refunds = processes.running(processes.refund_once, stripe.url, payment.pk, 1000, by.pk)
        with stripe.stalling(before_it_is_done=False) as reached, one_who_refunds:
            assert reached.wait(processes.SECONDS)
        refund = Refund.objects.get(payment=payment)
        with stage.another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [payment.account_id])
            with processes.running(processes.sweep_refunds_later, stripe.url):
                stage.wait_until_blocked_by(other)
        refund.refresh_from_db()
        assert (refund.state, refund.hold_id, held(payment)) == ("held", refund.pk, 1000)

        refunds.sweep(now=clock.now() + timedelta(minutes=2))

        refund.refresh_from_db()
        assert (refund.state, held(payment), paid_left(payment)) == ("succeeded", 0, 1500)
        stage.assert_books_hold()


@pytest.mark.django_db
class TestAllOfAnAccount:
    def test_it_goes_back_to_the_newest_payments_first(self, stripe: FakeStripe) -> None:
        first = paid(stripe, 2500)
        account, by = first.account, staff()
        second = again(stripe, first, 1000, tax=190)
        third = again(stripe, first, 500)
        start(third, 200)
        factories.promotion(account, 900 * CENT, expires_at=None)
        ledger.end_promotions(account_id=account.pk, now=clock.now())
        spend(first, 2000)  # Of the oldest first.

        parts = refund_room.parts_of(account, now=clock.now())
        assert [(part.payment.pk, part.cents) for part in parts] == [
            (third.pk, 300),
            (second.pk, 1190),
            (first.pk, 500),
        ]
        form = uuid4()
        for _ in range(2):
            begun_now, obstacles = refunds.start_all(form=form, account=account, reason="Closed", by=by)
            assert obstacles == []
        assert begun_now == []
        assert stage.wallet_of(account).posted == 0
        assert refund_room.parts_of(account, now=clock.now()) == []
        stage.assert_books_hold()


def again(stripe: FakeStripe, before: Payment, cents: int, *, tax: int = 0) -> Payment:
    """Another payment of the same account."""
    payment = begun(stripe, cents, account=before.account)
    fulfilment.fulfil(stripe.pay(session_of(payment), tax=tax))
    payment.refresh_from_db()
    return payment
