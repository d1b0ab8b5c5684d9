"""While an upgrade is rolled out, processes of the version before still write to the tables of the new one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import connection

from billing.models import Payment, StripeEvent
from tests import factories

pytestmark = pytest.mark.django_db


def insert(table: str, **values: Any) -> None:
    columns, places = ", ".join(values), ", ".join(["%s"] * len(values))
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(values.values()))  # noqa: S608


def test_a_payment_is_begun_without_the_columns_that_came_later() -> None:
    mark = uuid4()
    insert(
        "billing_payment", id=mark, account_id=factories.account().pk, kind="topup", livemode=False, amount_cents=2500,
        state="open", payment_method="", save_card=False, returned_cents=0, returned_tax_cents=0, failure_code="",
        error="", receipt_url="", updated_at="2026-11-27T00:00:00Z",
    )  # fmt: skip
    payment = Payment.objects.get(pk=mark)
    assert (payment.customer, payment.asked_at) == ("", None)
    assert apps.get_model("billing", "PaymentHistory")._default_manager.filter(pgh_obj=payment).count() == 1


def test_a_message_of_stripe_is_stored_without_the_columns_that_came_later() -> None:
    insert(
        "billing_stripeevent", id="evt_of_before", type="refund.created", api_version="", livemode=False,
        created="2026-11-27T00:00:00Z", payload="{}", source="webhook", request_id="", attempts=0, error="",
    )  # fmt: skip
    assert StripeEvent.objects.get(pk="evt_of_before").outcome == ""
