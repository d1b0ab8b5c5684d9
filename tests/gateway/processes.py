"""Gateway processes as tests start, know and lose them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from billing import holds
from billing.holds import DEAD_AFTER
from billing.models import GatewayProcess
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.proxy import Proxy
from tests.stack import WebProcess, until

RECOVERY_SECONDS = 20.0  # Within which all is as before, even on a busy machine.


@contextmanager
def web_process(folder: Path, **environment: str) -> Iterator[WebProcess]:
    """One more process on the stack's database and Redis."""
    web = WebProcess(folder / "web.log", **environment)
    try:
        web.wait_until_ready()
        yield web
    finally:
        web.stop()


@contextmanager
def database_proxy() -> Iterator[Proxy]:
    """In front of PostgreSQL, for those who are given its URL in place of the server's."""
    port = urlsplit(os.environ["DATABASE_URL"]).port
    assert port is not None
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.stop()


def wait_until_healthy(web: WebProcess) -> None:
    """Whatever was done to it before: it answers calls."""
    somebody = customer()
    until(lambda: wire.ask(web, somebody.secret, chat(max_tokens=1)).status == 200, RECOVERY_SECONDS)


def boot_of(web: WebProcess) -> UUID:
    """A pid may come again, so the last to start with it counts."""
    found = until(lambda: GatewayProcess.objects.filter(pid=web.process.pid).order_by("-started_at").first())
    return found.boot


def sweep_as_dead(boot: UUID) -> None:
    """What the sweeper does in time: two looks that lie far enough apart. Only this process is touched."""
    late = datetime.now(UTC) - DEAD_AFTER - timedelta(seconds=1)
    process = GatewayProcess.objects.filter(pk=boot)
    holds.sweep()
    process.update(seen_at=late)
    holds.sweep()
