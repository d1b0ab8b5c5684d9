from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from billing.usage import Outcome, Source
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.proxy import Proxy
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    port = urlsplit(os.environ["DATABASE_URL"]).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    proxy.stop()


@pytest.fixture
def web(stack: Stack, proxy: Proxy, tmp_path: Path) -> Iterator[WebProcess]:
    """A process that reaches PostgreSQL through the proxy."""
    url = urlsplit(os.environ["DATABASE_URL"])
    through = url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{proxy.port}").geturl()
    web = WebProcess(tmp_path / "web.log", DATABASE_URL=through)
    web.wait_until_ready()
    yield web
    web.stop()


def test_records_outlive_an_outage_and_customers_are_told_the_truth(
    stack: Stack, web: WebProcess, proxy: Proxy
) -> None:
    alice = customer()
    short = chat("[demo: tokens=10 tokens_per_second=50]")
    long = chat("[demo: tokens=160 tokens_per_second=50]")
    with wire.stream(web, alice.secret, short) as first, wire.stream(web, alice.secret, long) as second:
        first.read(1)
        second.read(1)
        proxy.cut()

        started = time.monotonic()
        refusal = wire.ask(web, customer().secret, chat())
        assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
        assert time.monotonic() - started < 4

        *_, error, done = first.rest()
        assert 4 < time.monotonic() - started < 8
        assert done is None
        assert error is not None
        assert "could not be recorded" in error["error"]["message"]

        # The second stream ended meanwhile; its record is waited for, and now it can be written.
        proxy.restore()
        *_, finish, done = second.rest()
        assert done is None
        assert finish is not None
        assert finish["choices"][0]["finish_reason"]

    records = alice.settled(2)
    assert [record.pk for record in records] == [first.call_id, second.call_id]
    assert {(record.outcome, record.source) for record in records} == {(Outcome.COMPLETED, Source.BACKEND)}
    assert [record.output_tokens for record in records] == [10, 160]
    until(lambda: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200)
    assert_books_hold()
