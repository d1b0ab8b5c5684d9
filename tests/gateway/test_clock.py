"""A host with a wrong clock takes no calls: they would get another moment's price. The database's clock counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing.models import GatewayProcess, Hold
from tests import factories
from tests.billing.stage import reserve
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

# Python runs this when it starts; the file beside it says how far the clock of the process is off.
SHIFTED_CLOCK = """
import pathlib, time
_offset, _time = pathlib.Path(__file__).with_name("offset"), time.time
time.time = lambda: _time() + float(_offset.read_text())
"""


@pytest.fixture
def offset(tmp_path: Path) -> Path:
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    file = tmp_path / "offset"
    file.write_text("0")
    return file


@pytest.fixture
def web(stack: Stack, offset: Path, tmp_path: Path) -> Iterator[WebProcess]:
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    web = WebProcess(tmp_path / "web.log", PYTHONPATH=path)
    web.wait_until_ready()
    yield web
    web.stop()


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_host_whose_clock_is_an_hour_off_takes_no_calls_until_it_is_right(
    web: WebProcess, offset: Path, seconds: int
) -> None:
    alice = customer()
    assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
    offset.write_text(str(seconds))
    until(lambda: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 503)
    answer = wire.ask(web, alice.secret, chat(max_tokens=1))
    assert (answer.status, answer.retry_after) == (503, 2)
    assert wire.ask(web, None, method="GET", path="/readyz").status == 503
    assert "clock is 3600." in web.log.read_text()
    offset.write_text("0")
    until(lambda: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200)


def test_a_second_is_no_reason(web: WebProcess, offset: Path) -> None:
    alice = customer()
    offset.write_text("1")
    (process,) = GatewayProcess.objects.filter(pid=web.process.pid)
    until(lambda: GatewayProcess.objects.get(pk=process.pk).beat > process.beat + 1)
    assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200


def test_how_long_a_hold_lasts_is_counted_by_the_database_whatever_the_id_says() -> None:
    account = factories.funded(100)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    call = factories.ask(account, 10, admitted_at=long_ago, lifetime_seconds=720)
    assert reserve(call)[0].admitted
    hold = Hold.objects.get(pk=call.id)
    assert timedelta(seconds=700) < hold.expires_at - datetime.now(UTC) <= timedelta(seconds=721)
