"""Files that people take away: tables, sent while they are made, and papers as PDF. Who did is written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from django.http import HttpResponse, StreamingHttpResponse

from accounts import audit
from accounts.audit import Action
from accounts.models import Membership
from billing import exports, pdf
from billing.exports import Row
from billing.paper import Paper


def download(
    membership: Membership, name: str, header: Sequence[str], batches: Iterator[Iterable[Row]]
) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        exports.lines(header, batches),
        content_type="text/csv; charset=utf-8",
        headers=_taken(membership, f"{name}.csv"),
    )


def download_paper(membership: Membership, name: str, paper: Paper) -> HttpResponse:
    return HttpResponse(pdf.render(paper), content_type="application/pdf", headers=_taken(membership, f"{name}.pdf"))


def _taken(membership: Membership, file: str) -> dict[str, str]:
    audit.record(Action.DATA_EXPORTED, account=membership.account, by=membership.user, object=file)
    return {"Content-Disposition": f'attachment; filename="{file}"'}
