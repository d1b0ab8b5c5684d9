"""What tests of the pages of billing share: people in each role, calls of the past, and files that are downloaded."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, cast

from asgiref.sync import async_to_sync
from django.db import connection
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client

from accounts.models import Account, Membership
from billing import settlement
from billing.ledger import Ask
from billing.models import UsageHour, UsageRecord
from tests import factories, people

PAGES = ["/", "/usage/", "/requests/", "/statement/"]
FILES = ["/usage/export.csv", "/requests/export.csv", "/statement/export.csv"]


def member(account: Account, role: str) -> Client:
    user = factories.user()
    Membership.objects.create(account=account, user=user, role=role)
    return people.signed_in(user)


def customer(amount: int = 10**12) -> tuple[Account, Client]:
    """An account with money and a key, seen by its owner."""
    account = factories.funded(amount)
    return account, member(account, "owner")


def called(account: Account, charge: int, *, at: datetime, settled: bool = True, **fields: Any) -> Ask:
    """A call that was made and, unless told otherwise, charged. `fields` are those of its ask and of its record."""
    asked = {name: fields.pop(name) for name in ("api_key_id", "model_id", "price_version_id") if name in fields}
    call = factories.ask(account, charge, admitted_at=at, **asked)
    factories.held(call)
    record = factories.record(call, charge, **fields)
    UsageRecord.objects.create(**{name: getattr(record, name) for name in record.__struct_fields__})
    if settled:
        settlement.settle_accounts(account_ids=[account.pk])
    return call


def many_hours(of: Account) -> None:
    """As many hours with calls as make it worth while to look for some of them by an index."""
    hour = UsageHour.objects.filter(account=of).order_by("hour")[0]
    UsageHour.objects.bulk_create(
        UsageHour(
            account=of, api_key_id=hour.api_key_id, model_id=hour.model_id,
            hour=hour.hour + timedelta(hours=number), calls=1, input_tokens=1, cached_input_tokens=0,
            output_tokens=1, charge=1, upstream_cost=0,
        )
        for number in range(1, 3000)
    )  # fmt: skip
    with connection.cursor() as cursor:  # The server may have counted while there were no rows yet.
        cursor.execute("ANALYZE billing_usagehour")


def text(client: Client, address: str, *, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status
    return response.content.decode()


def downloaded(client: Client, address: str) -> tuple[str, list[dict[str, str]]]:
    """The name and the rows of a file, read as under ASGI: chunk by chunk."""

    async def read() -> tuple[str, str]:
        reader = AsyncClient()
        reader.cookies = client.cookies
        response = cast("StreamingHttpResponse", await reader.get(address))
        assert response.status_code == 200
        assert response["Content-Type"] == "text/csv; charset=utf-8"
        assert "no-store" in response["Cache-Control"]
        chunks = [chunk async for chunk in cast("AsyncIterator[bytes]", response.streaming_content)]
        return response["Content-Disposition"], b"".join(chunks).decode()

    disposition, content = async_to_sync(read)()
    return disposition.removeprefix("attachment; filename=").strip('"'), list(csv.DictReader(io.StringIO(content)))
