"""Staff's view of disputes and flags: what must be answered until when, and who clears."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from accounts.models import AuditEvent, User
from billing import money
from billing.models import Dispute, DisputeMovement, Payment, PaymentFlag
from billing.payments import flags
from tests import factories, people
from tests.billing import papers

pytestmark = pytest.mark.django_db
DISPUTES = "/admin/billing/dispute/"
FLAGS = "/admin/billing/paymentflag/"
WALLETS = "/admin/billing/wallet/"


@pytest.fixture
def staff() -> Client:
    return people.superuser()


def paid(name: str = "payer") -> Payment:
    account, _ = people.customer(name)
    return papers.paid(account, 2500)


def flagged() -> PaymentFlag:
    payment = paid()
    flags.flag(payment, cause=factories.unique("du"), reason="Dispute of $25.00: fraudulent")
    return PaymentFlag.objects.get(payment=payment)


def test_the_list_says_until_when_an_answer_is_awaited_and_how_long_that_is(staff: Client) -> None:
    due = datetime.now(UTC) + timedelta(days=3, hours=1)
    papers.dispute(paid(), due_by=due)
    closed = papers.dispute(paid(), status="lost", closed_at=due, due_by=due)

    page = staff.get(DISPUTES).content.decode()
    assert page.count(f"{due:%Y-%m-%d %H:%M} UTC, 3 days left") == 1

    for stage in ("unanswered", "open"):
        assert closed.stripe_id not in staff.get(DISPUTES, {"stage": stage}).content.decode()
    assert closed.stripe_id in staff.get(DISPUTES, {"stage": "closed"}).content.decode()


def test_a_dispute_is_found_by_its_ids_and_by_the_customer(staff: Client) -> None:
    payment = paid()
    Payment.objects.filter(pk=payment.pk).update(charge="ch_1", payment_intent="pi_1")
    dispute, other = papers.dispute(payment, stripe_id="du_1"), papers.dispute(paid())
    for term in ("du_1", "pi_1", "ch_1", payment.account.users.get().email):
        page = staff.get(DISPUTES, {"q": term}).content.decode()
        assert dispute.stripe_id in page
        assert other.stripe_id not in page


def test_its_page_leads_to_the_payment_and_to_each_transfer(staff: Client) -> None:
    payment = paid()
    dispute = papers.dispute(payment)
    transfer = factories.pay_back(payment.account, money.from_cents(2500))
    facts = {"dispute": dispute, "moved_at": dispute.opened_at}
    DisputeMovement.objects.create(stripe_id="txn_1", cents=-2500, transfer=transfer, **facts)
    DisputeMovement.objects.create(stripe_id="txn_2", cents=1, **facts)

    page = staff.get(f"{DISPUTES}{dispute.pk}/change/").content.decode()

    assert reverse("admin:billing_payment_change", args=[payment.pk]) in page
    assert page.count(reverse("admin:billing_transfer_change", args=[transfer.pk])) == 1
    assert "-$25.00" in page
    assert "txn_2" in page


@pytest.mark.parametrize(
    ("livemode", "base", "address"),
    [
        (True, "", "https://dashboard.stripe.com/payments/"),
        (False, "", "https://dashboard.stripe.com/test/payments/"),
        (False, "http://127.0.0.1:1", None),
    ],
)
def test_it_is_answered_at_stripe(
    staff: Client, settings: Settings, livemode: bool, base: str, address: str | None
) -> None:
    settings.STRIPE_API_BASE = base
    dispute = papers.dispute(papers.paid(people.customer("payer")[0], livemode=livemode))

    page = staff.get(f"{DISPUTES}{dispute.pk}/change/").content.decode()

    expected = f'href="{address}{dispute.payment.payment_intent}"' if address else "dashboard.stripe.com"
    assert (expected in page) is (address is not None)


def test_a_flag_is_cleared_by_staff_and_that_is_written_down(staff: Client) -> None:
    flag, other = flagged(), flagged()
    assert "Dispute of $25.00" in staff.get(FLAGS, {"standing": "yes"}).content.decode()

    staff.post(FLAGS, {"action": "clear", "_selected_action": [flag.pk]})

    assert (flags.is_flagged(flag.account_id), flags.is_flagged(other.account_id)) == (False, True)
    assert AuditEvent.objects.filter(account=flag.account, action="billing.flag_cleared").count() == 1
    assert flag.cause in staff.get(FLAGS, {"standing": "no"}).content.decode()
    assert flag.cause not in staff.get(FLAGS, {"standing": "yes"}).content.decode()


def test_the_page_of_a_dispute_leads_to_its_flag(staff: Client) -> None:
    payment = paid()
    dispute, inquiry = papers.dispute(payment, stripe_id="du_1"), papers.dispute(payment, stripe_id="du_2")
    flags.flag(payment, cause="du_1", reason="Dispute of $25.00: fraudulent")
    assert "Stands: clear it there" in staff.get(f"{DISPUTES}{dispute.pk}/change/").content.decode()
    assert "Stands" not in staff.get(f"{DISPUTES}{inquiry.pk}/change/").content.decode()
    assert "Dispute of $25.00" in staff.get(FLAGS, {"q": "du_1"}).content.decode()

    flags.clear(payment.flags.all(), now=datetime.now(UTC), by=factories.user())
    assert "Stands" not in staff.get(f"{DISPUTES}{dispute.pk}/change/").content.decode()


@pytest.mark.usefixtures("at_rest")
def test_the_first_page_says_how_many_wait_and_until_when(staff: Client) -> None:
    first = staff.get("/admin/").content.decode()
    assert "need an answer" not in first
    assert "flagged" not in first
    now, payment = datetime.now(UTC), paid()
    soon, later = papers.dispute(payment, due_by=now + timedelta(days=2)), papers.dispute(payment)
    papers.dispute(payment, status="won", closed_at=now, due_by=now)
    for dispute in (soon, later):
        flags.flag(payment, cause=dispute.stripe_id, reason="Dispute")

    page = staff.get("/admin/").content.decode()

    assert "Disputes that need an answer: 2" in page
    assert f"the first by {soon.due_by:%Y-%m-%d %H:%M} UTC" in page
    assert "not charged by themselves: 1" in page


def test_staff_who_may_only_look_clear_nothing() -> None:
    flag = flagged()
    user = User.objects.create_user(f"{factories.unique('auditor')}@example.test", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_paymentflag"))

    people.signed_in(user).post(FLAGS, {"action": "clear", "_selected_action": [flag.pk]})

    assert flags.is_flagged(flag.account_id)


def test_the_wallets_of_flagged_customers_stand_out_and_lead_to_their_flags(staff: Client) -> None:
    flag, other = flagged(), paid("somebody")
    leads = f"{FLAGS}?standing=yes&account__id__exact={flag.account_id}"

    page = staff.get(WALLETS, {"flagged": "yes"}).content.decode()
    assert leads.replace("&", "&amp;") in page or leads in page
    assert f"{WALLETS}{other.account_id}/change/" not in page
    assert f"{WALLETS}{other.account_id}/change/" in staff.get(WALLETS).content.decode()
    assert flag.cause in staff.get(leads).content.decode()

    flags.clear([flag], now=datetime.now(UTC), by=factories.user())
    assert leads not in staff.get(WALLETS).content.decode()


def test_no_answer_is_awaited_of_what_is_decided() -> None:
    now = datetime.now(UTC)
    due = now + timedelta(hours=5)
    left = {status: Dispute(status=status, due_by=due).days_left(now) for status in Dispute.Status}
    assert {status for status, days in left.items() if days == 0} == {"needs_response", "warning_needs_response"}
    assert Dispute(status="needs_response", due_by=now - timedelta(days=2)).days_left(now) == 0
    assert Dispute(status="needs_response", due_by=None).days_left(now) is None
