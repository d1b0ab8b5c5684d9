"""The customer sees what was refunded: in the list of payments, on the receipt, in the statement, and by one mail."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from django.core import mail as outbox
from django.urls import reverse

from billing import clock, refund_mails, statement_papers
from billing.models import Payment, Receipt, Refund, RefundMail
from billing.payments import refunds
from tests import people
from tests.billing import stage
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_refunds import intent_of, paid, start


def seen(payment: Payment, address: str) -> str:
    page = people.owner_of(payment.account).get(address)
    return " ".join(re.sub(r"<[^>]+>", " ", page.content.decode()).split())


def failed(stripe: FakeStripe, refund: Refund) -> None:
    assert refund.stripe_id
    stripe.objects[refund.stripe_id] |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
    refunds.apply(refund.stripe_id)


@pytest.mark.django_db
class TestPages:
    def test_the_list_of_payments_and_its_page_say_what_was_refunded(self, stripe: FakeStripe) -> None:
        payment = paid(stripe, 2500, tax=475)
        pages = ["/billing/", reverse("billing:payment", args=[payment.pk])]
        assert all("refunded" not in seen(payment, page).lower() for page in pages)

        start(payment, 1000)
        assert "Partly refunded" in seen(payment, "/billing/")
        last = start(payment, 1975)

        assert "Partly refunded" not in seen(payment, "/billing/")
        for page in pages:
            assert "$10.00 was refunded on 20" in seen(payment, page)
            assert f"$19.75 was refunded on {last.posted_at:%Y-%m-%d}." in seen(payment, page)

    def test_what_is_not_there_yet_or_never_came_is_said_as_it_is(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        found = stripe.refunds_on_the_dashboard(intent_of(payment), 500, status="pending")
        refunds.apply(found)
        assert "$5.00 is on its way back to the card since 20" in seen(payment, "/billing/")
        failed(stripe, Refund.objects.get(stripe_id=found))
        stripe.failing_with = 500
        start(payment, 300)

        page = seen(payment, "/billing/")
        assert "did not reach the card: the money is in the balance again" in page
        assert "$3.00 is being refunded." in page
        assert "Refunded" not in page

    def test_what_stripe_refused_is_not_the_customers_business(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        stripe.objects[intent_of(payment)]["amount_received"] = 0
        assert start(payment, 300).state == "refused"
        assert "$3.00" not in seen(payment, "/billing/")

    def test_the_receipt_stays_as_it_was_and_its_page_says_what_came_after(self, stripe: FakeStripe) -> None:
        payment = paid(stripe)
        receipt = Receipt.objects.get(payment=payment)
        address = reverse("billing:receipt", args=[receipt.number])
        assert "Since this receipt" not in seen(payment, address)

        start(payment, 1000)

        page = seen(payment, address)
        assert "Since this receipt was issued: $10.00 was refunded on" in page
        assert "Total paid $25.00" in page

    def test_the_statement_has_a_line_with_words_and_the_paper_the_tax(self, stripe: FakeStripe) -> None:
        payment = paid(stripe, 2500, tax=475)
        failed(stripe, start(payment, 1190))
        start(payment, 595)

        page = seen(payment, "/statement/")
        day = f"{payment.paid_at:%Y-%m-%d}"
        assert f"Refund $11.90 to the card, of which $1.90 is tax, of the payment of {day}" in page
        assert "Refund that came back Did not reach the card: $11.90 to the card, of which $1.90 is tax" in page
        paper = statement_papers.paper(payment.account, clock.now().date().replace(day=1), now=clock.now())
        told = "Simulated, no real money: $17.85 was refunded in this month, $2.85 of it tax."
        assert f"{told} $11.90 of it did not reach the card and came back." in paper.notes


@pytest.fixture
def mails(settings: Any) -> list[Any]:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    outbox.outbox = []
    return outbox.outbox


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
class TestMails:
    def test_those_who_may_add_funds_are_told_once(self, stripe: FakeStripe, mails: list[Any]) -> None:
        payment = paid(stripe, 2500, tax=475)
        bookkeeper, _member = (people.member_of(payment.account, role) for role in ("billing", "member"))
        refund = start(payment, 1190)
        for _ in range(2):
            refunds.refresh(refund)
            refund_mails.send_due()

        assert payment.requested_by is not None
        assert [set(mail.to) for mail in mails] == [{payment.requested_by.email, bookkeeper.email}]
        assert mails[0].subject == f"{payment.account}: $11.90 is on its way back to the card"
        for words in ("$11.90, of which $1.90 is tax,", "$10.00 was taken from the balance", f"/{payment.pk}/",
                      "the payment of $29.75 on 20", "no real money"):  # fmt: skip
            assert words in mails[0].body
        assert "They asked" not in mails[0].body

    def test_one_that_did_not_arrive_is_told_too(self, stripe: FakeStripe, mails: list[Any]) -> None:
        refund = start(paid(stripe), 1000)
        refund_mails.send_due()
        failed(stripe, refund)
        failed(stripe, refund)
        refund_mails.send_due()
        assert [mail.subject.partition(": ")[2] for mail in mails] == [
            "$10.00 is on its way back to the card",
            "$10.00 did not reach the card",
        ]
        assert "It is in the balance of the account again" in mails[1].body

    def test_good_news_that_is_over_is_not_sent(self, stripe: FakeStripe, mails: list[Any]) -> None:
        refund = start(paid(stripe), 1000)
        failed(stripe, refund)
        refund_mails.send_due()
        assert [mail.subject.partition(": ")[2] for mail in mails] == ["$10.00 did not reach the card"]
        assert RefundMail.objects.get(refund=refund, about="sent").state == "dropped"

    def test_nothing_is_mailed_of_what_stripe_refused(self, stripe: FakeStripe, mails: list[Any]) -> None:
        payment = paid(stripe)
        stripe.objects[intent_of(payment)]["amount_received"] = 0
        start(payment, 1000)
        refund_mails.send_due()
        assert mails == []


def test_many_who_write_it_down_at_once_mail_once(stripe: FakeStripe, committed: None) -> None:
    payment = paid(stripe)
    found = stripe.refunds_on_the_dashboard(intent_of(payment), 1000)
    done = stage.at_the_same_time(*[partial(refunds.apply, found)] * 6)
    assert not [result for result in done if isinstance(result, Exception)]
    assert RefundMail.objects.filter(refund__payment=payment).count() == 1
