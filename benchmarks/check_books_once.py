"""One measurement of `check_books.py`: settle new calls through the ledger, check the books, print the seconds."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

import django
from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")
django.setup()

from django.db import connection  # noqa: E402

from billing import books, ledger, usage  # noqa: E402
from billing.ledger import Ask  # noqa: E402
from billing.usage import Outcome, Record, Source  # noqa: E402

AMOUNT = 1000  # Pico-USD that each call costs.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--calls", type=int, default=0, help="of as many different customers")
    asked = parser.parse_args()
    calls = new_calls(asked.calls)
    asyncio.run(serve(calls))
    for call in calls:
        ledger.settle(account_id=call.account_id)
    began = time.perf_counter()
    findings = books.check(full=asked.full)
    seconds = time.perf_counter() - began
    if broken := [finding for finding in findings if finding.broken]:
        sys.exit(f"The books are broken: {broken}")
    sys.stdout.write(f"{seconds}\n")


def new_calls(count: int) -> list[Ask]:
    with connection.cursor() as cursor:
        cursor.execute(_CALLERS, {"amount": AMOUNT, "count": count})
        return [_ask(*caller) for caller in cursor.fetchall()]


def _ask(account_id: int, api_key_id: int, model_id: int, price_version_id: int) -> Ask:
    call_id = uuid7()
    return Ask(
        id=call_id, account_id=account_id, api_key_id=api_key_id, model_id=model_id, price_version_id=price_version_id,
        amount=AMOUNT, streamed=False, owner=uuid4(),
        admitted_at=datetime.fromtimestamp((call_id.int >> 80) / 1000, UTC), lifetime_seconds=660,
    )  # fmt: skip


async def serve(calls: list[Ask]) -> None:
    """Admit and record the calls as the gateway does."""
    async with await AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        answers = await ledger.reserve(database, calls, wait=True)
        assert all(answer.admitted for answer in answers)  # noqa: S101  # Else nothing would be measured.
        await usage.record(database, [_record(call) for call in calls])


def _record(call: Ask) -> Record:
    return Record(
        id=call.id, account_id=call.account_id, api_key_id=call.api_key_id, model_id=call.model_id,
        price_version_id=call.price_version_id, backend="benchmark", attempt=1, streamed=call.streamed,
        outcome=Outcome.COMPLETED, source=Source.BACKEND, finish_reason="stop", admitted_at=call.admitted_at,
        first_token_ms=None, duration_ms=5, input_tokens=3, cached_input_tokens=0, output_tokens=2, reasoning_tokens=0,
        held=call.amount, charge=call.amount, clamped=False,
    )  # fmt: skip


_CALLERS = """
SELECT account_id, key.id, price.model_id, price.id
  FROM (SELECT account_id FROM billing_wallet WHERE posted >= %(amount)s ORDER BY random() LIMIT %(count)s) wallet
 CROSS JOIN LATERAL (SELECT id FROM apikeys_apikey WHERE apikeys_apikey.account_id = wallet.account_id LIMIT 1) key
 CROSS JOIN (SELECT id, model_id FROM billing_priceversion WHERE ends_at IS NULL LIMIT 1) price
"""

if __name__ == "__main__":
    main()
