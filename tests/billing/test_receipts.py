"""A numbered receipt for each payment: once, without a gap, for ever as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import override_settings
from django.urls import reverse

from accounts.models import Account
from billing import receipts
from billing.models import BillingDetails, Payment, Receipt, ReceiptNumbers
from tests import factories, people
from tests.billing import papers, stage

NOW = datetime(2031, 3, 1, 12, tzinfo=UTC)
OF_RACES = NOW.replace(year=2042)  # What is committed stays, so the other tests count in another year.
COMPANY = {
    "COMPANY_NAME": "Flint GmbH",
    "COMPANY_ADDRESS": ["Hauptstraße 1", "12345 Berlin"],
    "COMPANY_TAX_ID": "DE1",
    "COMPANY_EMAIL": "money@example.test",
}


def issued(
    account: Account, cents: int = 1000, *, now: datetime = NOW, tax: int = 0, livemode: bool = False
) -> Receipt:
    return receipts.issue(papers.paid(account, cents, tax=tax, livemode=livemode), now)


def with_details(account: Account, **fields: str) -> None:
    defaults = {"company": "Müller & Söhne GmbH", "address": "Königstraße 1", "city": "Ulm", "country": "DE"}
    BillingDetails.objects.create(account=account, **{**defaults, **fields})


@pytest.mark.django_db
class TestIssue:
    def test_the_amounts_are_those_of_the_payment_to_the_cent(self) -> None:
        receipt = issued(factories.account(), 1001, tax=190)

        assert (receipt.net_cents, receipt.tax_cents, receipt.total_cents) == (1001, 190, 1191)

    def test_numbers_count_up_from_one_in_each_year(self) -> None:
        account = factories.account()
        last_second = datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)

        numbers = [
            issued(account, now=now, livemode=True).number
            for now in (NOW, last_second, datetime(2032, 1, 1, tzinfo=UTC))
        ]

        assert numbers == ["F-2031-000001", "F-2031-000002", "F-2032-000001"]

    def test_simulated_money_takes_no_number_of_real_money(self) -> None:
        account = factories.account()

        numbers = [issued(account, livemode=livemode).number for livemode in (True, False, True)]

        assert numbers == ["F-2031-000001", "SIMULATED-2031-000001", "F-2031-000002"]

    def test_again_it_is_the_same_receipt_and_no_number_is_lost(self) -> None:
        account = factories.account()
        payment = papers.paid(account)

        first = receipts.issue(payment, NOW)

        assert receipts.issue(payment, NOW) == first
        assert issued(account).number == "SIMULATED-2031-000002"

    def test_a_credit_that_fails_afterwards_leaves_no_gap(self) -> None:
        account = factories.account()

        with transaction.atomic():
            issued(account)
            transaction.set_rollback(True)

        assert issued(account).number == "SIMULATED-2031-000001"

    @pytest.mark.parametrize("state", ["open", "processing", "requires_action", "failed", "canceled"])
    def test_what_is_not_paid_has_none(self, state: str) -> None:
        payment = papers.payment(factories.account(), state=state)

        with pytest.raises(receipts.NotPaid):
            receipts.issue(payment, NOW)

        assert _last(NOW) == 0

    def test_a_credit_of_another_amount_is_never_papered_over(self) -> None:
        payment = papers.paid(factories.account())
        Payment.objects.filter(pk=payment.pk).update(amount_cents=999, total_cents=999)

        with pytest.raises(receipts.NotInCents):
            receipts.issue(payment, NOW)

    @override_settings(**COMPANY)
    def test_it_keeps_who_sold_and_who_bought_as_they_were(self) -> None:
        account, _ = people.customer("alice")
        with_details(account, tax_id="DE 2")
        receipt = issued(account)

        BillingDetails.objects.filter(account=account).update(company="Renamed")
        with override_settings(COMPANY_NAME="Renamed"):
            paper = receipts.paper(Receipt.objects.get(pk=receipt.pk))

        assert paper.buyer == ["Müller & Söhne GmbH", "Königstraße 1", "Ulm", "Germany", "Tax id DE 2"]
        assert paper.seller == ["Flint GmbH", "Hauptstraße 1", "12345 Berlin", "Tax id DE1", "money@example.test"]

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE billing_receipt SET total_cents = total_cents",
            "DELETE FROM billing_receipt",
            "TRUNCATE billing_receipt CASCADE",  # Without it the mails that name one refuse it already.
        ],
    )
    def test_the_database_changes_none(self, statement: str) -> None:
        issued(factories.account())
        connection.check_constraints()

        with pytest.raises(IntegrityError, match="refused"), connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_eight_deliveries_of_one_payment_issue_one(self) -> None:
        payment = papers.paid(factories.account())
        before = _last(OF_RACES)

        made = stage.at_the_same_time(*[partial(receipts.issue, payment, OF_RACES)] * 8)

        assert len({receipt.number for receipt in made}) == 1
        assert _last(OF_RACES) == before + 1

    def test_eight_payments_get_eight_numbers_in_a_row(self) -> None:
        payments = [papers.paid(factories.account()) for _ in range(8)]
        before = _last(OF_RACES)

        made = stage.at_the_same_time(*[partial(receipts.issue, payment, OF_RACES) for payment in payments])

        assert sorted(int(receipt.number[-6:]) for receipt in made) == list(range(before + 1, before + 9))


def _last(now: datetime) -> int:
    found = ReceiptNumbers.objects.filter(series=f"SIMULATED-{now.year}").first()
    return found.last if found else 0


@pytest.mark.django_db
class TestPages:
    def test_page_and_pdf_say_the_same(self) -> None:
        account, _ = people.customer("alice")
        with_details(account)
        receipt = issued(account, 123_456_78, tax=1)
        alice = people.owner_of(account)

        page = alice.get(reverse("billing:receipt", args=[receipt.number])).content.decode()
        pdf = alice.get(reverse("billing:receipt_pdf", args=[receipt.number]))

        assert pdf["Content-Type"] == "application/pdf"
        assert f'filename="receipt-{receipt.number}.pdf"' in pdf["Content-Disposition"]
        text = papers.text_of(pdf.content)
        for words in (receipt.number, "Königstraße 1", "$123,456.78", "$0.01", "$123,456.79", "2031-03-01"):
            assert words in page
            assert words in text
        assert "Müller & Söhne GmbH" in text
        assert papers.pages_of(pdf.content) == 1

    @pytest.mark.parametrize(("livemode", "times"), [(False, True), (True, False)])
    def test_money_that_is_not_real_is_marked_on_both(self, livemode: bool, times: bool) -> None:
        account, _ = people.customer("alice")
        receipt = issued(account, livemode=livemode)
        alice = people.owner_of(account)

        page = alice.get(reverse("billing:receipt", args=[receipt.number])).content.decode()
        pdf = alice.get(reverse("billing:receipt_pdf", args=[receipt.number])).content

        assert ("Simulated, no real money" in page) is times
        # Its letters stand on a slope, one below the other.
        assert ("real money" in " ".join(papers.text_of(pdf).split())) is times

    @pytest.mark.parametrize("name", ["北京有限公司", "株式会社フリント", "주식회사 한국", "Łódź Škoda Ελλάδα Київ"])
    def test_names_of_the_world_are_printed_and_can_be_copied(self, name: str) -> None:
        account, _ = people.customer("alice")
        with_details(account, company=name)

        assert name in papers.text_of(_pdf(account, issued(account)))

    @pytest.mark.parametrize("name", ["😀 Ltd", "שלום", "<b>&amp;</b>", "x" * 200, "a\u202eb", "\ud7ff\uffff"])
    def test_what_no_font_has_breaks_nothing(self, name: str) -> None:
        account, _ = people.customer("alice")
        with_details(account, company=name)

        assert "Total paid" in papers.text_of(_pdf(account, issued(account)))

    def test_stripes_own_receipt_is_a_click_away(self) -> None:
        account, _ = people.customer("alice")
        receipt = receipts.issue(papers.paid(account, receipt_url="https://pay.stripe.com/receipts/1"), NOW)

        page = people.owner_of(account).get(reverse("billing:receipt", args=[receipt.number])).content.decode()

        assert 'href="https://pay.stripe.com/receipts/1"' in page

    @pytest.mark.parametrize("view", ["receipt", "receipt_pdf"])
    def test_another_accounts_is_not_found_and_a_member_may_not_look(self, view: str) -> None:
        account, _ = people.customer("alice")
        address = reverse(f"billing:{view}", args=[issued(account).number])
        charlie = people.owner_of(people.customer("charlie")[0])
        member = people.signed_in(people.member_of(account, "member"))

        assert charlie.get(address).status_code == 404
        assert member.get(address).status_code == 403

    @pytest.mark.parametrize("address", ["/billing/receipts/%00/", "/billing/receipts/%00/receipt.pdf"])
    def test_a_number_that_cannot_be_is_not_found(self, address: str) -> None:
        assert people.owner_of(people.customer("alice")[0]).get(address).status_code == 404


def _pdf(account: Account, receipt: Receipt) -> bytes:
    return people.owner_of(account).get(reverse("billing:receipt_pdf", args=[receipt.number])).content
