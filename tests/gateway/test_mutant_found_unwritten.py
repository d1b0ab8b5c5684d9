"""Records that the database cannot take for a while: their holds stay, and nobody leaves before they are written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from billing.models import GatewayProcess, Hold
from billing.usage import Outcome
from tests.billing.stage import assert_books_hold, wait_until_blocked_by
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")


@contextmanager
def nothing_can_be_recorded() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        other.execute("LOCK TABLE billing_usagerecord IN SHARE MODE")
        yield other


def test_a_hold_stays_until_the_record_of_its_call_is_durable(stack: Stack) -> None:
    alice, web = customer(), stack.webs[0]
    with nothing_can_be_recorded() as other, ThreadPoolExecutor() as pool:
        asked = pool.submit(wire.ask, web, alice.secret, chat())
        wait_until_blocked_by(other)
        (hold,) = alice.holds
        # As if it had run for so long that the heartbeat would miss it.
        Hold.objects.filter(account_id=alice.account.pk).update(admitted_at=datetime.now(UTC) - timedelta(seconds=10))
        answer = asked.result()
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        beat = GatewayProcess.objects.get(pk=hold.owner).beat
        until(lambda: GatewayProcess.objects.get(pk=hold.owner).beat > beat + 1)
        assert alice.holds == [hold]
    assert (alice.only_record().outcome, alice.wallet.held) == (Outcome.COMPLETED, 0)
    assert_books_hold()


def test_a_process_that_stops_writes_what_is_unwritten(stack: Stack, tmp_path: Path) -> None:
    alice, web = customer(), WebProcess(tmp_path / "web.log")
    try:
        web.wait_until_ready()
        with nothing_can_be_recorded():
            answer = wire.ask(web, alice.secret, chat())
            assert answer.status == 503
            web.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                web.process.wait(3)
    finally:
        assert web.stop() in (0, -15)
    record = alice.only_record()
    assert (record.pk, record.outcome) == (answer.call_id, Outcome.COMPLETED)
