"""A month on paper equals the ledger to the last pico-dollar."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from billing import ledger, money, periods, receipts, statement_papers, statements
from billing.models import LedgerAccount, TransferKind
from tests import factories, people
from tests.billing import papers

pytestmark = pytest.mark.django_db

OCTOBER = datetime(2026, 10, 15, 12, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 2, tzinfo=UTC)


def test_lines_and_sums_equal_the_ledger() -> None:
    account = factories.account()
    factories.credit(
        account, 10 * money.PICO_PER_USD, kind=TransferKind.TOPUP, source=LedgerAccount.STRIPE_CLEARING, now=OCTOBER
    )
    factories.promotion(account, 123, expires_at=None, now=OCTOBER)
    factories.debit(
        account, 2 * money.PICO_PER_USD, kind=TransferKind.REFUND, target=LedgerAccount.STRIPE_CLEARING, now=OCTOBER
    )
    factories.recorded(account, 38_400_001, admitted_at=OCTOBER)
    ledger.settle(account_id=account.pk)

    paper = statement_papers.paper(account, date(2026, 10, 1), now=NOVEMBER)

    assert [(row[1], *row[3:]) for row in paper.table.rows] == [
        ("Top-up", "$10.00", "$10.00"),
        ("Promotional credit", "$0.000000000123", "$10.000000000123"),
        ("Refund", "-$2.00", "$8.000000000123"),
        ("Usage", "-$0.000038400001", "$7.999961600122"),
    ]
    assert dict(paper.totals) == {
        "Opening balance": "$0.00",
        "Top-up": "$10.00",
        "Promotional credit": "$0.000000000123",
        "Refund": "-$2.00",
        "Usage": "-$0.000038400001",
        "Closing balance": "$7.999961600122",
    }
    assert statements.of_month(account, date(2026, 10, 1)).posted == 7_999_961_600_122


def test_the_next_month_opens_with_what_the_last_one_closed_with() -> None:
    account = factories.account()
    factories.credit(account, 7, now=OCTOBER)

    paper = statement_papers.paper(account, date(2026, 11, 1), now=NOVEMBER)

    assert paper.totals == [("Opening balance", "$0.000000000007"), ("Balance so far", "$0.000000000007")]
    assert "not final" in paper.notes[-1]


def test_tax_is_told_beside_the_wallet_in_which_it_never_was() -> None:
    account = factories.account()
    papers.paid(account, 1000, tax=190, livemode=True)
    today = datetime.now(UTC)

    notes = statement_papers.paper(account, periods.month_of(today.date()).since.date(), now=today).notes

    assert notes[0] == "$11.90 was paid for the top-ups of this month, $1.90 of it tax."


def test_a_long_month_prints_on_as_many_pages_as_it_needs() -> None:
    account, _ = people.customer("alice")
    for number in range(80):
        factories.credit(account, 1, reason=f"reason {number} " * 10)
    alice = people.owner_of(account)

    page = alice.get(reverse("billing:statement_paper")).content.decode()
    pdf = alice.get(reverse("billing:statement_pdf"))

    text = papers.text_of(pdf.content)
    assert f'href="{reverse("billing:statement_pdf")}?month=' in page
    assert papers.pages_of(pdf.content) > 2
    assert text.count("Amount in USD") == papers.pages_of(pdf.content)
    assert "$0.00000000008" in text
    assert "$0.00000000008" in page


def test_a_month_without_lines_is_a_page_too() -> None:
    account, _ = people.customer("alice")

    pdf = people.owner_of(account).get(reverse("billing:statement_pdf"), {"month": "2026-01"})

    assert "Opening balance" in papers.text_of(pdf.content)


def test_who_takes_a_pdf_away_is_written_down_and_who_reads_the_page_is_not() -> None:
    account, _ = people.customer("alice")
    receipt = receipts.issue(papers.paid(account), NOVEMBER)
    alice = people.owner_of(account)

    alice.get(reverse("billing:statement_paper"), {"month": "2026-10"})
    alice.get(reverse("billing:receipt", args=[receipt.number]))
    alice.get(reverse("billing:statement_pdf"), {"month": "2026-10"})
    alice.get(reverse("billing:receipt_pdf", args=[receipt.number]))

    exported = AuditEvent.objects.filter(account=account, action="data.exported", actor=account.users.get())
    assert list(exported.order_by("id").values_list("object", flat=True)) == [
        "statement-2026-10.pdf",
        f"receipt-{receipt.number}.pdf",
    ]
    assert "exported statement-2026-10.pdf" in alice.get("/activity/").content.decode()


@pytest.mark.parametrize("view", ["statement_paper", "statement_pdf"])
@pytest.mark.parametrize("month", ["2099-01", "nonsense", "2026-13"])
def test_a_month_that_is_none_is_refused(view: str, month: str) -> None:
    account, _ = people.customer("alice")

    assert people.owner_of(account).get(reverse(f"billing:{view}"), {"month": month}).status_code == 400
