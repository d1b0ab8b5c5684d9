"""The worker outlives its broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu import Connection

from billing import ledger_sql
from billing.models import UsageRecord
from billing.tasks import settle_usage
from flint.sandbox import servers
from tests import factories
from tests.billing import stage
from tests.stack import until, worker

pytestmark = pytest.mark.usefixtures("committed")


def test_a_worker_that_loses_its_broker_with_tasks_in_hand_goes_on_when_it_is_back(tmp_path: Path) -> None:
    alice, charlie = factories.funded(100), factories.funded(100)
    for account in (alice, charlie):
        stage.admitted_and_recorded(account, [10])

    def ring(broker: str) -> None:
        with Connection(broker) as connection:
            for account in (alice, charlie):
                settle_usage.apply_async(kwargs={"account_ids": [account.pk]}, connection=connection)  # type: ignore[call-arg]

    with servers.valkey(tmp_path / "broker") as broker:
        log = tmp_path / "worker.log"
        with worker(log, CELERY_BROKER_URL=broker.url) as process:
            with stage.another_connection() as other:
                other.execute(ledger_sql.LOCK_WALLET, [alice.pk])
                other.execute(ledger_sql.LOCK_WALLET, [charlie.pk])
                ring(broker.url)
                until(lambda: log.read_text().count("received") == 2, 20)
                broker.kill()
                until(lambda: "Connection to broker lost" in log.read_text(), 20)
            broker.start()
            waiting = UsageRecord.objects.filter(account__in=[alice, charlie], settled_at=None)

            def settled() -> bool:
                ring(broker.url)
                return not waiting.exists()

            until(settled, 60)
            assert process.poll() is None
            # Putting messages back through the lost connection is what workers died of, though not each time.
            assert "Restoring" not in log.read_text()
    assert [stage.wallet_of(account).posted for account in (alice, charlie)] == [90, 90]
