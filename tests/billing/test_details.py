"""Who the customer is on paper."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent
from billing import details
from billing.models import BillingDetails
from tests import people

pytestmark = pytest.mark.django_db

FORM = {
    "company": "Müller & Söhne GmbH",
    "name": "",
    "address": "Königstraße 1",
    "address_more": "",
    "postal_code": "70173",
    "city": "Stuttgart",
    "region": "",
    "country": "DE",
    "tax_id": "DE 123.456/789",
    "email": "books@example.test",
}


def post(client: Client, **fields: str) -> str:
    return client.post(reverse("billing:details"), {**FORM, **fields}, follow=True).content.decode()


def test_what_is_saved_is_shown_again_and_stands_in_the_activity() -> None:
    account, _ = people.customer("alice")
    alice = people.owner_of(account)

    content = post(alice) + alice.get(reverse("billing:details")).content.decode()

    assert "Receipts from now on carry these details." in content
    assert 'value="Müller &amp; Söhne GmbH"' in content
    assert '<option value="DE" selected>Germany</option>' in content
    event = AuditEvent.objects.get(account=account, action="billing.details_set")
    assert event.object == "company, address, postal code, city, country, tax id, e-mail address"


def test_activity_says_what_was_changed_and_not_to_what() -> None:
    account, _ = people.customer("alice")
    alice = people.owner_of(account)
    post(alice)

    post(alice, city="Ulm")
    content = post(alice, city="  Ulm ")

    assert "Nothing was different." in content
    events = AuditEvent.objects.filter(account=account, action="billing.details_set").order_by("-id")
    assert [event.object for event in events][:-1] == ["city"]


def test_lines_are_as_on_a_letter() -> None:
    account, _ = people.customer("alice")
    post(people.owner_of(account))

    kept = details.of(account)

    assert kept is not None
    assert details.lines(kept) == ["Müller & Söhne GmbH", "Königstraße 1", "70173 Stuttgart", "Germany"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"company": " "}, "Say for whom receipts are"),
        ({"country": ""}, "This field is required"),
        ({"country": "XX"}, "Select a valid choice"),
        ({"tax_id": "12"}, "at least four of them"),
        ({"tax_id": "<script>"}, "letters, digits, blanks"),
        ({"email": "books"}, "valid email address"),
        ({"city": "x" * 101}, "at most 100 characters"),
        ({"city": "a\0b"}, "Null characters are not allowed"),
    ],
)
def test_what_cannot_be_printed_is_named_and_nothing_is_saved(fields: dict[str, str], sentence: str) -> None:
    account, _ = people.customer("alice")

    content = post(people.owner_of(account), **fields)

    assert sentence in content
    assert details.of(account) is None


@pytest.mark.parametrize(("role", "status"), [("admin", 302), ("billing", 302), ("member", 403)])
def test_who_sees_the_money_may_say_for_whom_the_papers_are(role: str, status: int) -> None:
    account, _ = people.customer("alice")
    client = people.signed_in(people.member_of(account, role))

    assert client.post(reverse("billing:details"), FORM).status_code == status


def test_another_account_keeps_its_own() -> None:
    alice, _ = people.customer("alice")
    charlie, _ = people.customer("charlie")
    post(people.owner_of(alice))

    content = people.owner_of(charlie).get(reverse("billing:details")).content.decode()

    assert "Müller" not in content
    assert BillingDetails.objects.filter(account=charlie).count() == 0
