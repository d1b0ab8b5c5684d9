"""What programs ask is read by an index, in the month of the call and in the hours of the period, and not otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.db import connection

from billing import inquiries, periods
from billing.models import UsageHour
from tests import factories
from tests.billing.looking import called, many_hours

pytestmark = pytest.mark.django_db


def scans(query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """How each table is read that grows with history, where PostgreSQL may not scan if it has a choice."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {query}", parameters)
        answer = cursor.fetchone()[0]
    plan = json.loads(answer) if isinstance(answer, str) else answer

    def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield plan
        for inner in plan.get("Plans", []):
            yield from nodes(inner)

    large = ("billing_usagerecord", "billing_usagehour", "billing_hold")
    return [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name", "").startswith(large)]


def test_a_call_is_found_by_its_id_in_one_partition() -> None:
    account = factories.funded(10**12)
    call = called(account, 1, at=datetime.now(UTC))
    found = scans(inquiries._GENERATION, {"account": account.pk, "id": call.id})
    assert {node["Node Type"] for node in found} == {"Index Scan"}
    assert sorted(node["Relation Name"] for node in found) == [
        "billing_hold",
        f"billing_usagerecord_{call.admitted_at:%Y_%m}",
    ]


@pytest.mark.parametrize("by", [[], ["day"], ["day", "model", "key"]])
@pytest.mark.parametrize("filtered", [False, True])
def test_usage_reads_the_hours_of_the_period(by: list[str], filtered: bool) -> None:
    account = factories.funded(10**12)
    called(account, 1, at=datetime.now(UTC))
    UsageHour.objects.exclude(account=account).delete()  # Left by other tests, and of so many models that each is rare.
    many_hours(account)
    used = UsageHour.objects.filter(account=account).select_related("model")[0]
    filters = {"model": used.model.public_id, "key": used.api_key_id} if filtered else {}
    period = periods.last_days(30, now=datetime.now(UTC))
    parameters = {
        "account": account.pk, "since": period.since, "until": period.until, "by_day": "day" in by,
        "by_model": "model" in by, "by_key": "key" in by, "after_day": date.min, "after_model": -1, "after_key": -1,
        "model": None, "key": None, "limit": 100, **filters,
    }  # fmt: skip
    (hours,) = scans(inquiries._USAGE, parameters)
    assert hours["Index Name"] == "usagehour_unique"
    assert all(part in hours["Index Cond"] for part in ("account_id = ", "hour >= ", "hour < "))
