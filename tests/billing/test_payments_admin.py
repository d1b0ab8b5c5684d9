"""Staff's view of payments and of Stripe's messages: found by any id, never edited, worked on again."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from accounts.models import User
from billing import clock
from billing.models import AccountClosing, BalanceTransaction, Payment, StripeEvent
from billing.payments import inbox
from tests import factories, people
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_fulfilment import USD, begun, posted, session_of

pytestmark = pytest.mark.django_db
PAYMENTS = "/admin/billing/payment/"
EVENTS = "/admin/billing/stripeevent/"
CLOSINGS = "/admin/billing/accountclosing/"


@pytest.fixture
def staff() -> Client:
    return people.superuser()


def stored(event_id: str, about: str, *, error: str = "") -> StripeEvent:
    payload = f'{{"id": "{event_id}", "object": "event", "type": "payment_intent.succeeded", "created": 1, '
    payload += f'"livemode": false, "data": {{"object": {{"id": "{about}"}}}}}}'
    return StripeEvent.objects.create(
        id=event_id, type="payment_intent.succeeded", created=clock.now(), livemode=False, payload=payload,
        source="webhook", error=error, next_attempt_at=None,
    )  # fmt: skip


def test_a_payment_is_found_by_every_id_it_has(staff: Client, stripe: FakeStripe) -> None:
    payment, other = begun(stripe), begun(stripe)
    intent = stripe.pay(session_of(payment))
    Payment.objects.filter(pk=payment.pk).update(payment_intent=intent, error="It does not fit.")
    email = payment.account.users.get().email
    for term in (intent, session_of(payment), str(payment.pk), email):
        page = staff.get(PAYMENTS, {"q": term}).content.decode()
        assert str(payment.pk) in page
        assert str(other.pk) not in page
    assert str(other.pk) not in staff.get(PAYMENTS, {"needs": "person"}).content.decode()
    assert "It does not fit." in staff.get(f"{PAYMENTS}{payment.pk}/change/").content.decode()
    assert "dashboard.stripe.com" not in staff.get(f"{PAYMENTS}{payment.pk}/change/").content.decode()


def test_nothing_of_a_payment_can_be_changed(staff: Client, stripe: FakeStripe) -> None:
    payment = begun(stripe)
    assert staff.post(f"{PAYMENTS}{payment.pk}/change/", {"state": "paid"}).status_code == 403
    assert staff.post(f"{PAYMENTS}{payment.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_live_payment_leads_to_its_page_at_stripe(staff: Client, stripe: FakeStripe) -> None:
    payment = begun(stripe)
    Payment.objects.filter(pk=payment.pk).update(payment_intent="pi_live", livemode=True)
    page = staff.get(f"{PAYMENTS}{payment.pk}/change/").content.decode()
    assert 'href="https://dashboard.stripe.com/payments/pi_live"' in page


@pytest.mark.usefixtures("at_rest")
def test_an_event_that_failed_is_found_and_worked_on_again(staff: Client, stripe: FakeStripe) -> None:
    payment = begun(stripe)
    event = stored("evt_failed", stripe.pay(session_of(payment)), error="UnknownPayment")
    done = stored("evt_done", "pi_none")
    StripeEvent.objects.filter(pk=done.pk).update(processed_at=clock.now())
    page = staff.get(EVENTS, {"state": "given_up"}).content.decode()
    assert "evt_failed" in page
    assert "evt_done" not in page

    staff.post(EVENTS, {"action": "work_again", "_selected_action": [event.pk]})
    inbox.sweep()

    event.refresh_from_db()
    assert event.processed_at
    assert posted(payment) == 25 * USD


def test_an_event_of_another_app_is_done_and_says_so(staff: Client) -> None:
    stored("evt_foreign", "pi_of_others")
    StripeEvent.objects.filter(pk="evt_foreign").update(processed_at=clock.now(), outcome="not_ours")
    stored("evt_ours", "pi_of_ours")

    page = staff.get(EVENTS, {"state": "not_ours"}).content.decode()

    assert "evt_foreign" in page
    assert ">not ours<" in page
    assert "evt_ours" not in page
    assert "evt_foreign" not in staff.get(EVENTS, {"needs": "person"}).content.decode()


def test_an_id_of_stripes_is_found_as_it_is_written(staff: Client) -> None:
    """`evt_a` and `evt_A` are two at Stripe; and only what is exact is found by an index."""
    for event_id in ("evt_a1", "evt_A1"):
        stored(event_id, "pi_1")
    page = staff.get(EVENTS, {"q": "evt_A1"}).content.decode()
    assert "/evt_5FA1/" in page
    assert "/evt_5Fa1/" not in page

    facts = {"type": "charge", "reporting_category": "charge", "currency": "usd", "subject": "pi_1", "livemode": False}
    cents = {"amount_cents": 1, "fee_cents": 0, "net_cents": 1, "created": clock.now(), "available_on": clock.now()}
    for movement_id, intent in (("txn_a1", "pi_a1"), ("txn_A1", "pi_A1")):
        BalanceTransaction.objects.create(id=movement_id, payment_intent=intent, **facts, **cents)
    for term in ("txn_A1", "pi_A1"):
        page = staff.get("/admin/billing/balancetransaction/", {"q": term}).content.decode()
        assert "/txn_5FA1/" in page
        assert "/txn_5Fa1/" not in page


@pytest.mark.parametrize("model", ["payment", "refund"])
def test_an_id_that_was_cut_short_finds_nothing(staff: Client, model: str) -> None:
    assert staff.get(f"/admin/billing/{model}/", {"q": "12345678-1234-1234-1234-12345678901-"}).status_code == 200


@pytest.mark.usefixtures("at_rest")
def test_the_first_page_says_what_of_the_money_waits_for_a_person_and_leads_there(
    staff: Client, stripe: FakeStripe
) -> None:
    before = staff.get("/admin/").content.decode()
    fits, misfit = begun(stripe), begun(stripe)
    Payment.objects.filter(pk=misfit.pk).update(error="It does not fit.")
    given_up = stored(factories.unique("evt"), "pi_1", error="no such payment")
    owner = misfit.account.users.get()
    closing = AccountClosing.objects.create(account=misfit.account, state="money_left", requested_by=owner)

    page = staff.get("/admin/").content.decode()

    for words, address, row, other in (
        ("Closed accounts with money to be refunded: 1", CLOSINGS, f"{closing.pk}/change", ""),
        ("Payments that are not credited, and need a look: 1", PAYMENTS, str(misfit.pk), str(fits.pk)),
        ("Messages of Stripe that were given up: 1", EVENTS, given_up.pk, ""),
    ):
        assert words not in before
        link = re.search(rf'<a href="({address}[^"]+)">{words}</a>', page)
        assert link is not None, words
        listed = staff.get(link[1]).content.decode()
        assert row in listed
        assert not other or other not in listed


@pytest.mark.parametrize(
    ("may", "told"),
    [
        ("view_payment", "Payments that are not credited"),
        ("view_stripeevent", "Messages of Stripe that were given up"),
        ("view_accountclosing", "Closed accounts with money"),
        ("view_account", ""),
    ],
)
def test_who_may_see_one_of_these_lists_is_told_of_that_one(stripe: FakeStripe, may: str, told: str) -> None:
    misfit = begun(stripe)
    Payment.objects.filter(pk=misfit.pk).update(error="It does not fit.")
    stored(factories.unique("evt"), "pi_1", error="no such payment")
    owner = misfit.account.users.get()
    AccountClosing.objects.create(account=misfit.account, state="money_left", requested_by=owner)
    user = User.objects.create_user("support@example.test", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename=may))

    page = people.signed_in(user).get("/admin/").content.decode()

    notes = re.findall(r'<p class="errornote"><a href="([^"]+)">([^:<]+)', page)
    assert [words for _, words in notes if words.startswith(told)] == [words for _, words in notes]
    assert len(notes) == bool(told)
    for address, _ in notes:
        assert people.signed_in(user).get(address).status_code == 200
