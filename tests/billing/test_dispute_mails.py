"""The operator is told of every dispute, once, and until when it must be answered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from pytest_django import Settings

from billing.models import DisputeMail, DisputeMovement
from billing.payments import dispute_mails
from tests import people
from tests.billing import papers

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("at_rest")]


@pytest.fixture(autouse=True)
def mails(settings: Any) -> list[Any]:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    outbox.outbox = []
    return outbox.outbox


def waiting(about: str = "dispute", *, livemode: bool = False, **fields: Any) -> DisputeMail:
    account, _ = people.customer("alice")
    dispute = papers.dispute(papers.paid(account, 2500, tax=475, livemode=livemode), 2975, **fields)
    return DisputeMail.objects.create(dispute=dispute, about=about)


def test_it_says_what_the_bank_wants_until_when_and_where_to_answer(mails: list[Any], settings: Settings) -> None:
    due = datetime.now(UTC) + timedelta(days=7, hours=1)
    dispute = waiting(livemode=True, due_by=due).dispute
    DisputeMovement.objects.create(dispute=dispute, stripe_id="txn_1", cents=-2975, moved_at=due)

    assert dispute_mails.send_due() == 1

    [mail] = mails
    assert mail.to == [settings.SUPPORT_EMAIL]
    assert mail.subject == f"Dispute of $29.75: answer by {due:%Y-%m-%d}"
    assert 'a bank takes back a payment of the account "alice"' in mail.body
    assert f"{due:%Y-%m-%d %H:%M} UTC, 7 days left" in mail.body
    assert "The bank says: fraudulent" in mail.body
    assert "Taken from the customer's balance: $29.75" in mail.body
    assert f"https://dashboard.stripe.com/payments/{dispute.payment.payment_intent}" in mail.body
    assert f"{settings.SITE_URL}/admin/billing/dispute/{dispute.pk}/change/" in mail.body
    assert "The account is flagged" in mail.body
    assert mail.extra_headers["Message-ID"].startswith("<disputemail-")


def test_of_an_inquiry_it_says_that_nothing_has_moved(mails: list[Any], settings: Settings) -> None:
    settings.STRIPE_API_BASE = "http://127.0.0.1:1"
    waiting("inquiry", status="warning_needs_response")

    dispute_mails.send_due()

    assert mails[0].subject.startswith("Inquiry about $29.75: answer by ")
    assert "No money has moved." in mails[0].body
    assert "flagged" not in mails[0].body
    assert "dashboard.stripe.com" not in mails[0].body, "The simulator has no such page."


def test_of_one_that_is_over_when_we_hear_of_it_it_says_how_it_ended(mails: list[Any]) -> None:
    waiting(status="lost", closed_at=datetime.now(UTC))
    dispute_mails.send_due()
    assert mails[0].subject == "Dispute of $29.75: Lost"
    assert "We hear of it now that it is decided." in mails[0].body
    assert "Evidence" not in mails[0].body


def test_sending_again_sends_nothing(mails: list[Any]) -> None:
    mail = waiting()
    assert [dispute_mails.send_due() for _ in range(3)] == [1, 0, 0]
    mail.refresh_from_db()
    assert (mail.state, len(mails)) == ("sent", 1)
