"""The rules for calls that have neither a record nor a hold: they ended free, and that must be so.

Free is a failure of the backend's or ours before the gateway has seen the backend's first well-formed event or body;
nothing has gone out to the client by then. So:

- whoever got content, or only the 200 of a stream, is served, and a record is missing: **lost**;
- whoever was told one of the codes of FREE (no other can follow a request that was sent) saw nothing else, so nobody
  got anything for free, whatever the backend had in flight;
- a backend that lost the gateway's interest in no other way than by failing (`cut`, `error`, or its own death) may
  have failed before its first event: free;
- one that ended in `done`, or was left (`client_gone`, `hung`), is owed for: if its answer was read there is a record,
  and a customer who hung up pays the prompt. It can still be free, with the answer in flight when the gateway was
  stopped or the network broke, and with a client that could not be told. Then a release is counted for the account, so
  as many calls are excused as there are releases that no client was told of, and no more. A release because the client
  hung up excuses none: that is free only before the request is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.chaos.judge.books import Release
from tests.chaos.judge.cases import Case
from tests.chaos.judge.evidence import Client
from tests.chaos.judge.verdict import Fault, Finding

# The code that the client is told -> the reason under which the hold is released.
FREE = {
    "model_unavailable": "model_unavailable",
    "invalid_prompt": "invalid_prompt",
    "key_disabled": "key_disabled",
    "internal_error": "our_error",
}
UNSENT = "client_closed"


def faults(cases: Iterable[Case], releases: Iterable[Release], clients: Iterable[Client]) -> Iterator[Finding]:
    excuses = _releases_nobody_was_told_of(releases, clients)
    ended_free = [case for case in cases if not case.records and case.hold is None]
    # Those whose account is known may only be excused by it, so they come first.
    for case in sorted(ended_free, key=lambda case: case.client is None):
        if case.late is not None:
            yield "wrong", Fault(case.id, case.late.account_id, "it has a late record, but none that was in time")
        if case.client is not None and case.client.got_content:
            yield "lost", Fault(case.id, case.account_id, f"{case.client.tokens} tokens arrived; it has no record")
        elif _is_owed(case) and not _told_free(case.client) and not _excused(case, excuses):
            last = case.last_attempt
            yield "lost", Fault(case.id, case.account_id, f"the backend worked ({last and last.end}); it has no record")


def _releases_nobody_was_told_of(releases: Iterable[Release], clients: Iterable[Client]) -> Counter[int]:
    left: Counter[tuple[int, str]] = Counter()
    for release in releases:
        left[release.account_id, release.reason] += release.calls
    left.subtract((client.account_id, FREE[client.code]) for client in clients if client.code in FREE)
    excuses: Counter[int] = Counter()
    for (account_id, reason), calls in left.items():
        if reason != UNSENT and calls > 0:
            excuses[account_id] += calls
    return excuses


def _is_owed(case: Case) -> bool:
    last = case.last_attempt
    answered = any(attempt.end == "done" for attempt in case.attempts)
    return last is not None and (answered or last.end in ("client_gone", "hung"))


def _told_free(client: Client | None) -> bool:
    return client is not None and client.code in FREE


def _excused(case: Case, excuses: Counter[int]) -> bool:
    """Use up one of the releases of its account, or of anybody where the account is unknown."""
    owners = list(excuses) if case.account_id is None else [case.account_id]
    owner = next((account_id for account_id in owners if excuses[account_id] > 0), None)
    if owner is not None:
        excuses[owner] -= 1
    return owner is not None
