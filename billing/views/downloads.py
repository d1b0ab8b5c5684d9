"""A file that is sent while it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from django.http import StreamingHttpResponse

from billing import exports
from billing.exports import Row


def download(name: str, header: Sequence[str], batches: Iterator[Iterable[Row]]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        exports.lines(header, batches),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
