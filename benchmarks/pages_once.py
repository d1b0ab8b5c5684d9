"""The pages of the busiest customer in the database that DATABASE_URL names: how many queries, how long, and whether
any of them reads a large table whole. A helper of pages.py.

Each page is asked three times; the first has cold caches of its process, the last counts. `--plans` prints each plan.
"""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")

import django

django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from accounts.models import Account, Membership  # noqa: E402
from tests import people  # noqa: E402

LARGE = re.compile(r"Seq Scan on (billing_(?:usagerecord\w*|transfer|usagehour))\b")
ROUNDS = 3


def main() -> None:
    account, days = busiest()
    user = Membership.objects.filter(account=account).first().user  # type: ignore[union-attr]
    settings.ALLOWED_HOSTS.append("testserver")  # The name by which Django's test clients ask.
    client = people.signed_in(user)
    show(f"account {account.pk}\n{'':<44}{'queries':>8}{'ms':>9}{'in SQL':>9}  scans of large tables")
    for address in addresses(account, days):
        measure(client, address)
    for address in ("/requests/export.csv?period=7d", "/usage/export.csv?period=30d", "/statement/export.csv"):
        began = time.perf_counter()
        lines = async_to_sync(download)(client, address)
        show(f"{address:<44}{lines:>8,} lines in {time.perf_counter() - began:.1f} s")


def busiest() -> tuple[Account, list[datetime]]:
    """Who has most transfers, and the first and last day of its calls."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT account_id FROM billing_wallet ORDER BY seq DESC LIMIT 1")
        account = Account.objects.get(pk=cursor.fetchone()[0])
        cursor.execute("SELECT min(hour), max(hour) FROM billing_usagehour WHERE account_id = %s", [account.pk])
        return account, list(cursor.fetchone())


def addresses(account: Account, days: list[datetime]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT api_key_id, (array_agg(id ORDER BY id DESC))[1] FROM (SELECT * FROM billing_usagerecord"
            " WHERE account_id = %s ORDER BY id DESC LIMIT 20000) newest GROUP BY 1 ORDER BY count(*) LIMIT 1",
            [account.pk],
        )
        key, call = cursor.fetchone()
        cursor.execute(
            "SELECT id FROM billing_usagerecord WHERE account_id = %s ORDER BY id OFFSET 100000 LIMIT 1", [account.pk]
        )
        early = (cursor.fetchone() or [call])[0]
    since, until = max(days[0], days[1] - timedelta(days=365)), min(days[1], datetime.now(UTC))
    return [
        "/", "/first-steps/", "/usage/?period=today", "/usage/?period=7d", "/usage/?period=30d&group=key",
        f"/usage/?period=custom&since={since:%Y-%m-%d}&until={until:%Y-%m-%d}", f"/usage/?period=30d&key={key}",
        "/requests/", f"/requests/?before={early}", f"/requests/?after={early}", "/requests/?period=30d",
        f"/requests/?key={key}", "/requests/?outcome=swept", "/requests/?outcome=key_disabled&period=30d",
        f"/requests/{call}/", "/statement/", f"/statement/?month={until:%Y-%m}&day={until:%Y-%m-%d}",
        f"/statement/?month={until.replace(day=1) - timedelta(days=1):%Y-%m}",
    ]  # fmt: skip


def measure(client: Client, address: str) -> None:
    for _ in range(ROUNDS):
        with CaptureQueriesContext(connection) as queries:
            began = time.perf_counter()
            answer = client.get(address)
            seconds = time.perf_counter() - began
    assert answer.status_code == 200, (address, answer.status_code)  # noqa: S101
    in_sql = sum(float(query["time"]) for query in queries)
    scanned = {name for query in queries for name in LARGE.findall(plan(query["sql"]))}
    line = f"{address[:43]:<44}{len(queries):>8}{seconds * 1000:>9.0f}{in_sql * 1000:>9.0f}"
    show(f"{line}  {', '.join(sorted(scanned)) or 'none'}")


def plan(query: str) -> str:
    if not query.lstrip().startswith(("SELECT", "WITH")):
        return ""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {query}")
        text = "\n".join(row[0] for row in cursor.fetchall())
    if "--plans" in sys.argv:
        show(f"\n{query}\n{text}\n")
    return text


async def download(client: Client, address: str) -> int:
    reader = AsyncClient()
    reader.cookies = client.cookies
    answer: Any = await reader.get(address)
    assert answer.status_code == 200, address  # noqa: S101
    lines = 0
    async for chunk in answer.streaming_content:
        lines += chunk.count(b"\n")
    return lines


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
