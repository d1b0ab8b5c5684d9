"""The site while PostgreSQL is away: a page that says so, and all is well again by itself."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.proxy import Proxy
from tests.stack import WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(os.environ["DATABASE_URL"]).port or 5432)
    yield proxy
    proxy.stop()


@pytest.fixture
def web(proxy: Proxy, tmp_path: Path) -> Iterator[WebProcess]:
    url = urlsplit(os.environ["DATABASE_URL"])
    through = url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{proxy.port}").geturl()
    web = WebProcess(tmp_path / "web.log", DATABASE_URL=through)
    web.wait_until_ready()
    yield web
    web.stop()


def read(web: WebProcess, path: str) -> tuple[int, Message, str]:
    try:
        with urllib.request.urlopen(web.url + path, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_a_page_says_that_the_database_is_away_and_comes_back_with_it(web: WebProcess, proxy: Proxy) -> None:
    assert read(web, "/")[0] == 200
    proxy.cut()
    status, headers, page = read(web, "/")
    assert (status, headers["Retry-After"]) == (503, "5")
    assert "Our database is away for a moment" in page
    assert "Content-Security-Policy" in headers
    proxy.restore()
    until(lambda: read(web, "/")[0] == 200)
