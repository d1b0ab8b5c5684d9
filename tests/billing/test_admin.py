from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apikeys.models import ApiKey
from billing import ledger, price_list
from billing.admin import base
from billing.models import LanguageModel, PriceVersion
from tests import factories, people

pytestmark = pytest.mark.django_db

ADD_PRICE = "admin:billing_priceversion_add"
CALLS = "admin:billing_usagerecord_changelist"


def price_form(priced: LanguageModel, **changes: Any) -> dict[str, Any]:
    empty = {"account": "", "cached_input": "", "starts_at_0": "", "starts_at_1": ""}
    return {"model": priced.pk, "input": "0.14", "output": "0.28", **empty, **changes}


def shown(staff: Client, **query: str) -> list[Any]:
    return list(staff.get(reverse(CALLS), query).context["cl"].result_list)


class TestAPriceIsAdded:
    def test_in_usd_per_million_tokens(self) -> None:
        model = factories.language_model()

        response = people.superuser().post(reverse(ADD_PRICE), price_form(model, cached_input="0.028"))

        assert response.status_code == 302
        version = PriceVersion.objects.get(model=model)
        assert price_list.rates_of(version.rates.all()) == {"input": 140_000, "cached_input": 28_000, "output": 280_000}
        assert version.created_by is not None

    def test_for_one_customer_from_a_moment_on(self) -> None:
        account, _ = people.customer("alice")
        model = factories.price().model
        day = datetime.now(UTC).date() + timedelta(days=90)
        given = price_form(model, account=account.pk, starts_at_0=f"{day}", starts_at_1="08:30:00")

        people.superuser().post(reverse(ADD_PRICE), given)

        version = PriceVersion.objects.get(model=model, account=account)
        assert version.starts_at == datetime(day.year, day.month, day.day, 8, 30, tzinfo=UTC)

    def test_the_price_before_it_ends_there(self) -> None:
        before = factories.price()

        people.superuser().post(reverse(ADD_PRICE), price_form(before.model))

        before.refresh_from_db()
        assert before.ends_at == PriceVersion.objects.get(model=before.model, ends_at=None).starts_at

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"input": "0"}, "more than zero"),
            ({"input": "-1"}, "more than zero"),
            ({"output": "cheap"}, "is not an amount"),
            ({"cached_input": "0.0000001"}, "at most 6 decimals"),
            ({"input": ""}, "This field is required"),
            ({"model": "0"}, "Select a valid choice"),
            ({"starts_at_0": "2001-01-01", "starts_at_1": "00:00:00"}, "at least 5 s from now"),
        ],
    )
    def test_what_is_wrong_is_told_and_nothing_is_lost(self, changes: dict[str, str], sentence: str) -> None:
        model = factories.price().model

        response = people.superuser().post(reverse(ADD_PRICE), price_form(model, **changes))

        assert response.status_code == 200
        content = response.content.decode()
        assert sentence in content
        assert 'value="0.28"' in content or "output" in changes
        assert PriceVersion.objects.filter(model=model).count() == 1

    def test_the_model_can_be_chosen_by_the_link(self) -> None:
        model = factories.language_model()

        content = people.superuser().get(reverse(ADD_PRICE), {"model": str(model.pk)}).content.decode()

        assert f'<option value="{model.pk}" selected>' in content

    def test_a_price_is_not_edited(self) -> None:
        version = factories.price()

        response = people.superuser().post(
            reverse("admin:billing_priceversion_change", args=[version.pk]), price_form(version.model)
        )

        assert response.status_code == 403


class TestAmounts:
    def test_they_are_short_and_exact_on_hover(self) -> None:
        factories.credit(people.customer("alice")[0], 12_345_678_901_234)

        content = people.superuser().get(reverse("admin:billing_wallet_changelist")).content.decode()

        assert 'title="12.345678901234 USD">$12.34</span>' in content

    def test_rates_are_per_million_tokens(self) -> None:
        factories.price(input=28_000, output=1_400_000)

        content = people.superuser().get(reverse("admin:billing_priceversion_changelist")).content.decode()

        assert "$0.028" in content
        assert "$1.40" in content


class TestCalls:
    def test_those_of_the_last_week_are_shown(self) -> None:
        account = factories.funded(100)
        now = datetime.now(UTC)
        recent = factories.recorded(account, 1, admitted_at=now - timedelta(days=2))
        older = factories.recorded(account, 1, admitted_at=now - timedelta(days=20))
        staff, of_theirs = people.superuser(), {"account__id__exact": str(account.pk)}

        week = [row.pk for row in shown(staff, **of_theirs)]
        month = [row.pk for row in shown(staff, admitted="month", **of_theirs)]

        assert week == [recent.id]
        assert month == [recent.id, older.id]

    @pytest.mark.parametrize("written", ["chatcmpl-{0.hex}", "req_{0.hex}", "{0}"])
    def test_one_is_found_by_its_id_however_it_is_quoted_and_however_old(self, written: str) -> None:
        account = factories.funded(100)
        call = factories.recorded(account, 1, admitted_at=datetime.now(UTC) - timedelta(days=20))
        factories.recorded(account, 2)

        found = shown(people.superuser(), q=written.format(call.id))

        assert [row.pk for row in found] == [call.id]

    def test_those_of_a_customer_are_found_by_the_e_mail_address(self) -> None:
        account, email = people.customer("alice")
        ApiKey.objects.create(account=account, name="key", digest=bytes(32), display="tk-...")
        factories.credit(account, 100)
        call = factories.recorded(account, 1)

        found = shown(people.superuser(), q=email.upper())

        assert [row.pk for row in found] == [call.id]

    def test_a_list_stops_instead_of_counting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base, "SHOWN_ROWS", 3)
        account = factories.funded(100)
        for _ in range(5):
            factories.recorded(account, 1)

        changelist = people.superuser().get(reverse(CALLS)).context["cl"]

        assert changelist.result_count == 3

    def test_a_transfer_is_found_by_its_cause(self) -> None:
        account = factories.funded(100)
        factories.recorded(account, 7)
        ledger.settle(account_id=account.pk)
        cause = factories.unique("cause:of")
        transfer = factories.credit(account, 5, cause=cause)

        response = people.superuser().get(reverse("admin:billing_transfer_changelist"), {"q": cause})

        assert list(response.context["cl"].result_list) == [transfer]
