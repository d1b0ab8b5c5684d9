"""Receipts and statements by mail: each once, whoever asks and however often, to whom the customer chose."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.core import mail as outbox

from accounts.models import Account, Membership
from billing import document_mails, money, receipts
from billing.models import BillingDetails, DocumentMail, Payment, StatementMonth
from billing.payments import fulfilment
from tests import factories, people
from tests.billing import papers, processes, stage
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_fulfilment import begun, session_of

ALERTS = "/billing/alerts/"
USD = money.PICO_PER_USD
_years = count(2100)  # What is written of a month is written for good, and other tests may have taken it.


@pytest.fixture(autouse=True)
def mails(settings: Any) -> list[Any]:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    outbox.outbox = []
    return outbox.outbox


def customer() -> Account:
    return people.customer("alice")[0]


def moved(account: Account) -> date:
    """A month in which something moved on the account."""
    month = date(next(_years), 3, 1)
    factories.credit(account, 12 * USD, now=datetime(month.year, 3, 7, tzinfo=UTC))
    return month


def after(month: date, hours: int = 24) -> datetime:
    return datetime(month.year, month.month + 1, 1, tzinfo=UTC) + timedelta(hours=hours)


def to(account: Account, mails: list[Any]) -> list[Any]:
    emails = set(account.users.values_list("email", flat=True))
    return [mail for mail in mails if emails & set(mail.to)]


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
class TestAReceipt:
    def test_it_is_mailed_once_with_its_paper(self, stripe: FakeStripe, mails: list[Any]) -> None:
        payment = begun(stripe)
        intent = stripe.pay(session_of(payment), tax=475)
        for _ in range(2):
            fulfilment.fulfil(intent)
            document_mails.send_due()

        [mail] = mails
        receipt = receipts.issue(payment, datetime.now(UTC))
        assert mail.to == [payment.account.users.get().email]
        assert mail.subject == f"Receipt {receipt.number}: $29.75 paid to Flint"
        assert "$25.00 was added to its balance. $4.75 of the payment is tax." in mail.body
        assert "It was SIMULATED: no real money moved." in mail.body
        assert f"/billing/receipts/{receipt.number}/" in mail.body
        [(name, document, kind)] = mail.attachments
        assert (name, kind) == (f"receipt-{receipt.number}.pdf", "application/pdf")
        assert receipt.number in papers.text_of(document)

    def test_it_goes_to_the_address_of_the_billing_details(self, mails: list[Any]) -> None:
        account = customer()
        BillingDetails.objects.create(
            account=account, name="A", address="1 Road", city="Town", country="US", email="books@example.test"
        )
        receipts.issue(papers.paid(account), datetime.now(UTC))
        document_mails.send_due()
        assert [mail.to for mail in mails] == [["books@example.test"]]

    def test_without_one_it_goes_to_who_may_add_funds(self, mails: list[Any]) -> None:
        account = customer()
        persons = {role: people.member_of(account, role) for role in Membership.Role.values}
        receipts.issue(papers.paid(account), datetime.now(UTC))
        document_mails.send_due()
        [mail] = mails
        asked = {
            account.users.order_by("pk")[0].email,
            *(persons[role].email for role in ("owner", "admin", "billing")),
        }
        assert set(mail.to) == asked

    def test_nobody_is_left_to_mail_it_to(self, mails: list[Any]) -> None:
        account = customer()
        receipts.issue(papers.paid(account), datetime.now(UTC))
        account.users.update(is_active=False)
        assert document_mails.send_due() == 0
        assert (mails, DocumentMail.objects.get(account=account).state) == ([], "dropped")

    def test_an_automatic_payment_says_so(self, mails: list[Any]) -> None:
        receipts.issue(papers.paid(customer(), kind=Payment.Kind.RECHARGE), datetime.now(UTC))
        document_mails.send_due()
        assert "the automatic payment of $10.00" in mails[0].body

    def test_a_paper_too_large_for_a_mail_is_linked_only(
        self, mails: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(document_mails, "LARGEST_ATTACHMENT", 100)
        receipts.issue(papers.paid(customer()), datetime.now(UTC))
        document_mails.send_due()
        assert (mails[0].attachments, "attached" in mails[0].body) == ([], False)


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
class TestAStatement:
    def test_it_says_what_moved_and_comes_once(self, mails: list[Any]) -> None:
        account = customer()
        month = moved(account)
        for _ in range(2):
            document_mails.write_statements(now=after(month))
            document_mails.send_due()

        [mail] = to(account, mails)
        assert mail.subject == f"Statement of March {month.year} for alice on Flint"
        assert "Added:                $12.00" in mail.body
        assert f"/statement/?month={month:%Y-%m}" in mail.body
        assert "Credit from us" in papers.text_of(mail.attachments[0][1])

    def test_it_waits_until_every_call_of_the_month_is_charged(self) -> None:
        account = customer()
        month = moved(account)
        document_mails.write_statements(now=after(month, hours=5))
        assert not DocumentMail.objects.filter(account=account).exists()
        document_mails.write_statements(now=after(month, hours=7))
        assert DocumentMail.objects.get(account=account).month == month

    def test_there_is_none_where_nothing_moved(self) -> None:
        account = customer()
        month = moved(account)
        document_mails.write_statements(now=after(date(month.year, month.month + 2, 1)))
        assert not DocumentMail.objects.filter(account=account).exists()

    def test_there_is_none_for_who_wants_none_even_if_it_was_written(self, mails: list[Any]) -> None:
        early, late = customer(), customer()
        month = moved(early)
        factories.credit(late, USD, now=datetime(month.year, 3, 7, tzinfo=UTC))
        document_mails.mail_statements(account=early, wanted=False, by=early.users.get())
        document_mails.write_statements(now=after(month))
        document_mails.mail_statements(account=late, wanted=False, by=late.users.get())
        document_mails.send_due()
        assert not DocumentMail.objects.filter(account=early).exists()
        assert (to(late, mails), DocumentMail.objects.get(account=late).state) == ([], "dropped")

    def test_what_was_over_before_there_were_mails_is_told_by_none(self) -> None:
        last = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).date().replace(day=1)
        assert StatementMonth.objects.filter(month=last).exists()


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_many_writers_and_many_senders_mail_a_statement_once(self, mails: list[Any]) -> None:
        account = customer()
        month = moved(account)
        stage.at_the_same_time(*[lambda: document_mails.write_statements(now=after(month))] * 4)
        stage.at_the_same_time(*[document_mails.send_due] * 4)
        assert len(to(account, mails)) == 1

    def test_a_writer_killed_in_the_middle_is_made_up_for_by_the_next(self) -> None:
        account = customer()
        month = moved(account)
        with stage.another_connection() as other:
            other.execute("LOCK TABLE billing_documentmail IN EXCLUSIVE MODE")
            with processes.running(_write, after(month)):
                stage.wait_until_blocked_by(other)  # The month is begun, and nothing written.
        document_mails.write_statements(now=after(month))
        assert DocumentMail.objects.get(account=account).month == month


def _write(now: datetime) -> None:
    document_mails.write_statements(now=now)


@pytest.mark.django_db
class TestThePage:
    def test_statements_are_chosen_and_the_activity_says_so(self) -> None:
        account = customer()
        client = people.owner_of(account)
        page = client.get(ALERTS).content.decode()
        assert f"Receipts and statements go to {account.users.get().email}." in page
        assert document_mails.statements_are_mailed(account)

        client.post(ALERTS, {"amounts": "5"})
        assert not document_mails.statements_are_mailed(account)
        client.post(ALERTS, {"amounts": "5", "statements": "on"})
        assert document_mails.statements_are_mailed(account)
        activity = client.get("/activity/").content.decode()
        assert activity.count("set whether a monthly statement is mailed") == 2
