"""A file that is sent while it is made. Who takes data away is written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from django.http import StreamingHttpResponse

from accounts import audit
from accounts.audit import Action
from accounts.models import Membership
from billing import exports
from billing.exports import Row


def download(
    membership: Membership, name: str, header: Sequence[str], batches: Iterator[Iterable[Row]]
) -> StreamingHttpResponse:
    audit.record(Action.DATA_EXPORTED, account=membership.account, by=membership.user, object=f"{name}.csv")
    return StreamingHttpResponse(
        exports.lines(header, batches),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
