"""A file is read from the database no faster than it is taken, and no further than its reader stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync

from billing import exports
from billing.exports import Row

pytestmark = pytest.mark.django_db


def test_nothing_is_fetched_that_nobody_reads() -> None:
    fetched = []

    def batches() -> Iterator[list[Row]]:
        for number in range(100):
            fetched.append(number)
            yield [(number, "x")]

    async def read_some() -> list[str]:
        lines = exports.lines(["number", "text"], batches())
        some = [await anext(lines) for _ in range(3)]
        await lines.aclose()  # type: ignore[attr-defined]
        return some

    assert async_to_sync(read_some)() == ["number,text\r\n", "0,x\r\n", "1,x\r\n"]
    assert fetched == [0, 1]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"])
def test_text_is_never_a_formula(text: str) -> None:
    assert exports.safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "name", "1=1", "a-b", "ключ"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert exports.safe(text) == text
