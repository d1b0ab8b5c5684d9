"""The independent judge of the money: from what was served and what the prices are to what every wallet must have.

It shares no code with the product and believes none of its sums. It reads the rows of the database, the demo
backend's journal and the load's client ledger, computes every charge itself, and tells what was lost, charged twice,
spent without being there, is wrong in another way, or has not come to its end.

    database ──▶ books ────┐
    journal, clients ──▶ evidence ──▶ cases ──▶ recorded, unrecorded, clients   (each call)
    price table ──▶ prices ┘               └──▶ wallets                         (each account)

It judges when the product is quiet: no call runs, the sweeper and the settlement have done their work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import IsolationLevel

from tests.chaos.judge import clients as client_rules
from tests.chaos.judge import unrecorded, wallets
from tests.chaos.judge.books import Books, read
from tests.chaos.judge.cases import Case, join
from tests.chaos.judge.evidence import Attempt, Client, read_clients, read_journal
from tests.chaos.judge.recorded import RecordRules
from tests.chaos.judge.verdict import Fault, Finding, Verdict, by_kind

__all__ = ["Fault", "Verdict", "decide", "judge"]

SLACK_SECONDS = 1.5  # What a beat may come late, and a checkpoint take, on a busy machine.


def judge(
    database_url: str,
    journal: Path,
    clients: Path | None = None,
    *,
    accounts: Collection[int] | None = None,
    checkpoint_seconds: float = 2.0,
) -> Verdict:
    """Judge these accounts, or all. Of some accounts only, calls that nothing but the journal knows are not told."""
    with psycopg.connect(database_url) as database:
        database.isolation_level = IsolationLevel.REPEATABLE_READ
        database.read_only = True
        books = read(database, accounts)
    seen = [] if clients is None else read_clients(clients, accounts)
    return decide(
        books, read_journal(journal), seen, whole=accounts is None, blind_seconds=checkpoint_seconds + SLACK_SECONDS
    )


def decide(
    books: Books, attempts: Sequence[Attempt], clients: Sequence[Client], *, whole: bool, blind_seconds: float
) -> Verdict:
    """Apply every rule. `blind_seconds` is how long a running stream can go without a checkpoint."""
    cases = join(books, attempts, clients, whole=whole)
    rules = RecordRules(books.prices, books.context_tokens, blind_seconds)
    found = by_kind(
        (
            *_faults_of_calls(cases, rules),
            *unrecorded.faults(cases, books.releases, clients),
            *(finding for client in clients for finding in client_rules.own_faults(client)),
            *wallets.faults(books, cases),
        )
    )
    outcomes = [record.outcome for record in books.records]
    return Verdict(
        calls=sum(1 for case in cases if _was_a_call(case)),
        records=len(books.records),
        late=len(books.late),
        charged=sum(priced.charge for case in cases for priced in case.records),
        unresolved=outcomes.count("unresolved"),
        swept=outcomes.count("swept"),
        **found,
    )


def _faults_of_calls(cases: Sequence[Case], rules: RecordRules) -> Iterator[Finding]:
    for case in cases:
        if not case.records:
            continue
        for kind, text in rules.faults(case):
            yield kind, Fault(case.id, case.account_id, text)
        if case.client is not None:
            for kind, text in client_rules.faults(case, case.client):
                yield kind, Fault(case.id, case.account_id, text)


def _was_a_call(case: Case) -> bool:
    answered = case.client is not None and case.client.got_content
    return bool(case.records or case.hold or case.attempts or answered)
