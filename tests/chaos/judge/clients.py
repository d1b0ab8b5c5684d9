"""The rules for what clients were told: the same as what they are charged.

Whoever was refused is charged nothing, unless the code says that there may have been an answer (LATE_REFUSAL: it could
not be recorded in time, or was broken off by us).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.judge.books import Record
from tests.chaos.judge.cases import Case
from tests.chaos.judge.evidence import Client, usage_tokens
from tests.chaos.judge.verdict import Fault, Finding, Kind

LATE_REFUSAL = "service_unavailable"


def own_faults(client: Client) -> Iterator[Finding]:
    """Those of an answer that no other fact is needed for."""
    if client.status == 503 and client.retry_after is None:
        yield "wrong", Fault(client.call_id, client.account_id, "a 503 without Retry-After")


def faults(case: Case, client: Client) -> Iterator[tuple[Kind, str]]:
    """Those of a client whose call has a record."""
    record = case.records[0].record
    if client.account_id != record.account_id:
        yield "wrong", f"account {client.account_id} made it, account {record.account_id} is charged"
    if client.end == "refused" and record.charge and client.code != LATE_REFUSAL:
        yield "wrong", f"refused with {client.status} {client.code}, but charged {record.charge}"
    if case.late is None:
        yield from _answered(case, client, record)


def _answered(case: Case, client: Client, record: Record) -> Iterator[tuple[Kind, str]]:
    if client.end == "done" and record.outcome != "completed":
        kind: Kind = "lost" if record.source in ("none", "checkpoint") else "wrong"
        yield kind, f"the whole answer arrived, but the record says {record.outcome}"
    seen = usage_tokens(client.usage)
    if seen is not None and seen != record.tokens:
        yield "wrong", f"the client was told {seen}, the record has {record.tokens}"
    attempt = case.attempt(record.attempt)
    counted = min(client.tokens, attempt.most_output) if attempt is not None else client.tokens
    if record.source == "estimated" and record.output_tokens < counted:
        yield "lost", f"{client.tokens} tokens arrived, {record.output_tokens} are charged"
