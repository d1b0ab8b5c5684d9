"""What waits is seen: in a command with an exit code, on the first page of the admin, and in the gateway's log."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now

from billing import backlog, ledger
from billing.models import GatewayProcess, Hold, LateUsageRecord
from tests import factories, people
from tests.billing import stage

pytestmark = pytest.mark.django_db


def grow_older(call: ledger.Ask, age: timedelta) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_usagerecord SET recorded_at = now() - make_interval(secs => %s) WHERE id = %s",
            [age.total_seconds(), call.id],
        )


@pytest.mark.usefixtures("at_rest")
def test_what_waits_is_counted_and_what_is_done_is_not() -> None:
    before = backlog.measure()
    account = factories.funded(1_000)
    done = factories.recorded(account, 10)
    ledger.settle(account_id=account.pk)
    waiting = factories.recorded(account, 20)
    grow_older(waiting, timedelta(hours=1))
    factories.held(factories.ask(account, 30))
    overdue = factories.held(factories.ask(account, 40))
    Hold.objects.filter(pk=overdue.pk).update(expires_at=Now() - timedelta(seconds=1))
    LateUsageRecord.objects.create(id=done.id, account=account, record={})
    GatewayProcess.objects.create(boot=done.owner, host="here", pid=1, beat_at=Now() - timedelta(minutes=1))

    after = backlog.measure()

    assert replace(after, settlement_lag_seconds=0) == backlog.Backlog(
        unsettled_calls=before.unsettled_calls + 1,
        settlement_lag_seconds=0,
        open_holds=before.open_holds + 3,  # That of the waiting call, too.
        overdue_holds=before.overdue_holds + 1,
        silent_processes=before.silent_processes + 1,
        late_records=before.late_records + 1,
        stray_records=before.stray_records,
    )
    assert 3600 <= after.settlement_lag_seconds < 3700


@pytest.mark.usefixtures("at_rest")
def test_the_command_tells_a_monitor(capsys: pytest.CaptureFixture[str]) -> None:
    account = factories.funded(1_000)
    waiting = factories.recorded(account, 20)
    call_command("backlog", "--json")
    assert json.loads(capsys.readouterr().out)["unsettled_calls"] >= 1

    grow_older(waiting, timedelta(seconds=backlog.BEHIND_SECONDS + 1))
    with pytest.raises(CommandError, match="worker") as behind:
        call_command("backlog")
    assert behind.value.returncode == 1
    assert "settlement lag seconds" in capsys.readouterr().out


@pytest.mark.usefixtures("at_rest")
def test_the_first_page_of_the_admin_shows_it() -> None:
    client = people.superuser()
    assert "is behind" not in client.get("/admin/").content.decode()
    grow_older(factories.recorded(factories.funded(1_000), 20), timedelta(hours=1))
    page = client.get("/admin/").content.decode()
    assert "is behind" in page
    assert "Calls to settle" in page


def test_the_gateway_reads_the_same() -> None:
    by_gateway, by_site = stage.as_gateway(backlog.read), backlog.measure()
    assert by_gateway.settlement_lag_seconds <= by_site.settlement_lag_seconds + 1
    assert by_gateway.open_holds >= 0
