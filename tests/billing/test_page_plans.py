"""Pages find what they show by an index, in the order in which they show it, and in the partitions of its time.

Of a few rows PostgreSQL would read all. So it is forbidden here to scan a table, to use a bitmap and to sort, and what
it does all the same is what it has no index for. How the pages do on ten million calls: benchmarks/pages.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Account
from billing import partitions
from billing.models import Transfer
from tests import factories
from tests.billing.looking import called, customer, many_hours

pytestmark = pytest.mark.django_db

OF_EACH_LOT = "(id = billing_creditlot.transfer_id)"  # Of the account: nothing else is looked up by it.
LARGE = re.compile(r"billing_(usagerecord|usagehour|transfer)\b|billing_usagerecord_")
NOW = datetime.now(UTC)
LAST_YEAR = NOW - timedelta(days=365)


@pytest.fixture
def owner() -> Client:
    account, owner = customer()
    partitions.ensure(now=LAST_YEAR, months_ahead=1)
    other = factories.funded(10**12)
    for each in (account, other):
        for moment in (NOW, NOW - timedelta(days=40), LAST_YEAR):
            called(each, 5, at=moment)
    many_transfers(account)
    many_hours(other)
    return owner


def many_transfers(account: Account) -> None:
    """As many as make it worth while to choose among indexes."""
    seq = account.wallet.seq
    Transfer.objects.bulk_create(
        Transfer(
            kind="usage", debit="wallet", credit="usage_revenue", amount=1, cause=factories.unique("plan"),
            day=(LAST_YEAR + timedelta(days=number // 10)).date(), wallet=account.wallet,
            wallet_seq=seq + number, balance_after=0,
        )
        for number in range(1, 3000)
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE billing_transfer")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def plans(client: Client, address: str) -> list[list[dict[str, Any]]]:
    """The nodes of the plan of each query that reads a large table."""
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    found = []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off")
        for query in queries:
            if query["sql"].lstrip().startswith(("SELECT", "WITH")) and LARGE.search(query["sql"]):
                cursor.execute(f"EXPLAIN (FORMAT JSON) {query['sql']}")
                answer = cursor.fetchone()[0]
                plan = json.loads(answer) if isinstance(answer, str) else answer
                found.append(list(nodes(plan[0]["Plan"])))
    return found


def relations(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if LARGE.match(node.get("Relation Name", ""))}


@pytest.mark.parametrize(
    "address",
    [
        "/", "/first-steps/", "/usage/", "/usage/?period=today&group=key", "/usage/?group=none", "/requests/",
        "/requests/?period=30d", "/requests/?outcome=swept", "/statement/",
        f"/statement/?month={LAST_YEAR:%Y-%m}&day={LAST_YEAR:%Y-%m-%d}",
    ],
)  # fmt: skip
def test_every_large_table_is_read_by_an_index_of_the_account(owner: Client, address: str) -> None:
    found = plans(owner, address)

    assert found
    for plan in found:
        for node in plan:
            if LARGE.match(node.get("Relation Name", "")) and node.get("Index Cond") != OF_EACH_LOT:
                assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
                assert re.search(r"(account_id|wallet_id) = ", node["Index Cond"]), node
                if node["Relation Name"] == "billing_transfer":
                    assert node["Index Name"] in ("transfer_of_day", "transfer_not_usage"), node


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?outcome=swept",
        "?period=30d",
        f"?before={factories.call_id(NOW)}",
        f"?after={factories.call_id(LAST_YEAR)}",
    ],
    ids=["all", "outcome", "period", "before", "after"],
)
def test_calls_come_in_order_from_the_index(owner: Client, query: str) -> None:
    calls = [
        plan for plan in plans(owner, f"/requests/{query}") if any("usagerecord" in name for name in relations(plan))
    ]

    assert calls
    for plan in calls:
        assert [node for node in plan if "Sort" in node["Node Type"]] == []


def test_only_the_months_asked_for_are_read(owner: Client) -> None:
    read = {name for plan in plans(owner, "/requests/?period=today") for name in relations(plan)}
    ever = {name for plan in plans(owner, "/requests/") for name in relations(plan)}

    partition = f"billing_usagerecord_{NOW:%Y_%m}"
    assert {name for name in read if "usagerecord" in name} - {"billing_usagerecord_default"} == {partition}
    assert {partition, f"billing_usagerecord_{LAST_YEAR:%Y_%m}"} <= ever
