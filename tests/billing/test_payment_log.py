"""The list of payments, as the people of an account read it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from billing import payment_log, receipts
from tests import people
from tests.billing import papers

pytestmark = pytest.mark.django_db
BILLING = "/billing/"


@pytest.mark.parametrize(
    ("fields", "word", "why"),
    [
        ({"state": "open"}, "Not finished", "Nothing was paid yet."),
        ({"state": "processing"}, "Processing", "credited as soon as the money has come"),
        ({"state": "requires_action", "kind": "recharge"}, "Needs you", "wants you to confirm it"),
        ({"state": "canceled"}, "Canceled", "Nothing was paid."),
        ({"state": "failed", "failure_code": "insufficient_funds"}, "Failed", "not enough money"),
        ({"state": "failed", "failure_code": "unheard_of"}, "Failed", "The bank refused it."),
        ({"state": "processing", "error": "pi_1 paid 3 cents"}, "Processing", "we are looking at it"),
    ],
)
def test_each_says_what_became_of_it_and_why(fields: dict[str, Any], word: str, why: str) -> None:
    account, _ = people.customer("alice")
    papers.payment(account, **fields)

    content = people.owner_of(account).get(BILLING).content.decode()

    assert re.search(rf'<span class="tag \w*">{word}</span>', content)
    assert why in content
    assert "pi_1 paid" not in content


def test_a_paid_one_has_its_receipt() -> None:
    account, _ = people.customer("alice")
    receipt = receipts.issue(papers.paid(account, 1000, tax=190), datetime.now(UTC))

    content = people.owner_of(account).get(BILLING).content.decode()

    assert f'href="{reverse("billing:receipt", args=[receipt.number])}"' in content
    assert "$10.00" in content
    assert "$11.90" in content


def test_the_page_of_a_payment_leads_to_its_receipt_once_there_is_one() -> None:
    account, _ = people.customer("alice")
    payment = papers.paid(account)
    alice, address = people.owner_of(account), reverse("billing:payment", args=[payment.pk])

    before = alice.get(address).content.decode()
    receipt = receipts.issue(payment, datetime.now(UTC))

    link = f'href="{reverse("billing:receipt", args=[receipt.number])}"'
    assert link not in before
    assert link in alice.get(address).content.decode()


def test_without_payments_it_says_what_will_be_there() -> None:
    account, _ = people.customer("alice")

    content = people.owner_of(account).get(BILLING).content.decode()

    assert "What you pay will be listed here" in content
    assert f'<a href="{reverse("billing:funds")}">Add funds</a></p>' in content


def test_the_list_leads_to_every_other_page_of_money_and_each_leads_back() -> None:
    account, _ = people.customer("alice")
    alice = people.owner_of(account)
    listed = alice.get(BILLING).content.decode()

    for view in ("funds", "auto_recharge", "redeem", "alerts", "details"):
        address = reverse(f"billing:{view}")
        assert f'href="{address}"' in listed
        assert f'<p class="crumb"><a href="{BILLING}">Billing</a></p>' in alice.get(address).content.decode()


def test_pages_are_turned_without_loss_or_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payment_log, "PAGE_SIZE", 2)
    account, _ = people.customer("alice")
    made = [papers.payment(account, cents).pk for cents in (100, 200, 300, 400, 500)]
    papers.payment(people.customer("charlie")[0])

    seen, before = [], None
    for _ in range(3):
        page = payment_log.page(account, before=before)
        seen += [line.payment.pk for line in page.lines]
        before = page.older

    assert before is None
    assert seen == made[::-1]


@pytest.mark.parametrize("cursor", ["nonsense", "", "00000000-0000-0000-0000-000000000000"])
def test_any_cursor_is_a_page(cursor: str) -> None:
    account, _ = people.customer("alice")

    assert people.owner_of(account).get(BILLING, {"before": cursor}).status_code == 200


def test_a_full_page_takes_few_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    account, _ = people.customer("alice")
    for _ in range(3):
        receipts.issue(papers.paid(account), datetime.now(UTC))
    alice = people.owner_of(account)

    with django_assert_max_num_queries(9):
        alice.get(BILLING)
