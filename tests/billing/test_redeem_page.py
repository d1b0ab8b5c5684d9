"""The page where a customer gives a code, and the admin in which staff make them."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from billing import vouchers
from billing.models import Voucher
from tests import factories, people
from tests.billing.test_commands import run

pytestmark = pytest.mark.django_db
REDEEM = "/billing/redeem/"
ADD = "/admin/billing/voucher/add/"


def form_id(page: str) -> str:
    found = re.search(r'name="(?:form|batch)_id" value="([^"]+)"', page)
    assert found
    return found[1]


def test_a_code_is_redeemed_and_its_credit_is_listed_with_its_end() -> None:
    account, _ = people.customer("alice")
    factories.voucher(10**13, code="SPRING-SALE", credit_expires_at=datetime(2099, 1, 31, 12, tzinfo=UTC))
    client = people.owner_of(account)
    asked = {"code": "spring sale", "form_id": form_id(client.get(REDEEM).content.decode())}

    client.post(REDEEM, asked)
    page = client.post(REDEEM, asked, follow=True).content.decode()

    assert "$10.00 of promotional credit was added. It expires on 2099-01-31 12:00 UTC." in page
    assert "Code SPRING-SALE" in page
    assert page.count("2099-01-31 12:00</time>") == 1
    assert "redeemed the code SPRING-SALE for $10.00" in client.get("/activity/").content.decode()


@pytest.mark.parametrize(
    ("said", "break_it"),
    [
        ("is not known", {"enabled": False}),
        ("expired on", {"valid_until": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("as often as it can be", {"total_limit": 0}),
    ],
)
def test_what_is_wrong_is_said_and_the_code_stays_in_the_form(said: str, break_it: dict[str, object]) -> None:
    account, _ = people.customer("alice")
    voucher = factories.voucher(code="SPRING-SALE")
    Voucher.objects.filter(pk=voucher.pk).update(**break_it)

    answer = people.owner_of(account).post(REDEEM, {"code": "SPRING-SALE", "form_id": uuid4()})

    assert answer.status_code == 400
    page = answer.content.decode()
    assert said in page
    assert 'value="SPRING-SALE"' in page


def test_who_may_not_add_funds_may_not_redeem() -> None:
    account, _ = people.customer("alice")
    member = people.signed_in(people.member_of(account, "member"))

    assert member.post(REDEEM, {"code": "X", "form_id": uuid4()}).status_code == 403
    assert REDEEM not in member.get("/").content.decode()


def terms(**changes: object) -> dict[str, object]:
    return {"amount": "2.50", "count": 1, "account_limit": 1, "batch_id": uuid4(), **changes}


def test_staff_make_one_code_that_customers_can_redeem() -> None:
    staff = people.superuser()
    page = staff.post(ADD, terms(code="Spring-Sale"), follow=True).content.decode()

    assert "The code is SPRING-SALE." in page
    voucher = Voucher.objects.get(code=vouchers.normalised("spring sale"))
    assert (voucher.amount, voucher.account_limit, voucher.created_by.is_staff) == (25 * 10**11, 1, True)  # type: ignore[union-attr]


def test_a_batch_is_a_file_that_is_handed_out_once_and_nowhere_shown_again() -> None:
    staff = people.superuser()
    batch = form_id(staff.get(ADD).content.decode())
    answer = staff.post(ADD, terms(count=3, batch_id=batch))
    rows = list(csv.reader(answer.content.decode().splitlines()))

    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert "no-store" in answer["Cache-Control"]
    assert rows[0] == ["code", "usd"]
    assert [amount for _, amount in rows[1:]] == ["2.5"] * 3
    listed = staff.get("/admin/billing/voucher/").content.decode()
    assert all(code not in listed and f"…{code[-4:]}" in listed for code, _ in rows[1:])
    again = staff.post(ADD, terms(count=3, batch_id=batch))
    assert "handed out once" in again.content.decode()
    assert Voucher.objects.filter(batch_id=batch).count() == 3


def test_staff_are_told_what_cannot_be() -> None:
    staff, before = people.superuser(), Voucher.objects.count()

    assert "at most" in staff.post(ADD, terms(amount="0")).content.decode()
    assert "is not an amount" in staff.post(ADD, terms(amount="ten")).content.decode()
    assert "leave it empty" in staff.post(ADD, terms(code="SPRING-SALE", count=2)).content.decode()
    assert Voucher.objects.count() == before


def test_staff_switch_a_code_off_and_on() -> None:
    staff, voucher = people.superuser(), factories.voucher()
    for action, on in (("switch_off", False), ("switch_on", True)):
        staff.post("/admin/billing/voucher/", {"action": action, "_selected_action": voucher.pk})
        voucher.refresh_from_db()
        assert voucher.enabled is on


def test_staff_find_a_code_as_a_customer_writes_it() -> None:
    staff, voucher = people.superuser(), factories.voucher(code="SPRING-SALE", note="for the fair")
    factories.voucher(code="OTHER-CODE", note="another one")

    page = staff.get("/admin/billing/voucher/?q=spring sale").content.decode()

    assert voucher.note in page
    assert "another one" not in page


def test_a_command_makes_codes() -> None:
    made = run("create_voucher", "--usd", "5", "--count", "3", "--credit-days", "30").split()
    named = run("create_voucher", "--usd", "5", "--code", "spring-sale", "--total", "100").split()

    assert Voucher.objects.filter(written__in=made, total_limit=1, credit_days=30).count() == 3
    assert named == ["SPRING-SALE"]
