"""The rules for accounts: what moved is what the judge makes of their calls, no more and no less, and was there.

**Overdraft** is replayed. A hold surely was open from its call's acceptance at the backend, or from its record at the
latest, until it was settled; it counts in full there, and its charge from then on. Credits count from the start of
their transaction. So what is found below zero was below zero, if the clocks of backend and database agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from tests.chaos.judge import budgets
from tests.chaos.judge.books import Books, Hour, Transfer, Wallet
from tests.chaos.judge.cases import Case, Priced
from tests.chaos.judge.verdict import Fault, Finding, Kind

_CREDIT, _CHARGE, _HOLD = range(3)  # What happened at the same moment counts in this order.
_NOW = float("inf")


def faults(books: Books, cases: Sequence[Case]) -> Iterator[Finding]:
    records = [priced for case in cases for priced in case.records]
    settled = [priced for priced in records if priced.record.settled_at is not None]
    yield from _unfinished(books, records)
    yield from _wallets(books, settled)
    yield from _hold_counts(books, settled)
    yield from _transfers(books.transfers, settled)
    yield from _hours(books.hours, settled)
    yield from budgets.faults(books, settled)
    yield from _overdrafts(books, cases)


def _unfinished(books: Books, records: Iterable[Priced]) -> Iterator[Finding]:
    recorded = {priced.record.id for priced in records}
    for hold in books.holds:
        if hold.id not in recorded:
            yield "open", Fault(hold.id, hold.account_id, f"a hold of {hold.amount} without an end")
        if hold.available_after < 0:
            yield "overdraft", Fault(hold.id, hold.account_id, f"admitted with {hold.available_after} left")
    for priced in records:
        if priced.record.settled_at is None:
            yield "open", Fault(priced.record.id, priced.record.account_id, "recorded, but not settled")


def _wallets(books: Books, settled: Iterable[Priced]) -> Iterator[Finding]:
    posted: Counter[int] = Counter()
    held: Counter[int] = Counter()
    lots: Counter[int] = Counter()
    for transfer in books.transfers:
        if transfer.kind != "usage":
            posted[transfer.wallet_id] += _received(transfer)
    for priced in settled:
        posted[priced.record.account_id] -= priced.charge
    for hold in books.holds:
        held[hold.account_id] += hold.amount
    for lot in books.lots:
        lots[lot.wallet_id] += lot.remaining
    for account in {*posted, *held} - {wallet.account_id for wallet in books.wallets}:
        yield "wrong", Fault(None, account, "it has calls or transfers, but no wallet")
    for wallet in books.wallets:
        account = wallet.account_id
        for kind, text in _wallet(wallet, posted[account], held[account], lots[account]):
            yield kind, Fault(None, account, text)


def _wallet(wallet: Wallet, posted: int, held: int, lots: int) -> Iterator[tuple[Kind, str]]:
    if wallet.posted < 0 or wallet.debt > 0:
        yield "overdraft", f"the wallet has {wallet.posted} and owes {wallet.debt}"
    if wallet.posted != posted:
        yield "wrong", f"the wallet has {wallet.posted}, its credits less its charges are {posted}"
    if wallet.held != held:
        yield "wrong", f"the wallet holds {wallet.held}, its open holds are {held}"
    if lots - wallet.debt != wallet.posted:
        yield "wrong", f"the wallet has {wallet.posted}, its lots {lots}, its debt is {wallet.debt}"


def _hold_counts(books: Books, settled: Iterable[Priced]) -> Iterator[Finding]:
    """Every hold that was opened ended in a record or a counted release, or is open."""
    accounted = Counter(priced.record.account_id for priced in settled)
    accounted.update(hold.account_id for hold in books.holds)
    for release in books.releases:
        accounted[release.account_id] += release.calls
    for wallet in books.wallets:
        missing = wallet.holds_opened - accounted[wallet.account_id]
        if missing > 0:
            yield "lost", Fault(None, wallet.account_id, f"{missing} holds ended neither in a record nor in a release")
        if missing < 0:
            yield "wrong", Fault(None, wallet.account_id, f"{-missing} holds ended twice, or never began")


def _transfers(transfers: Iterable[Transfer], settled: Iterable[Priced]) -> Iterator[Finding]:
    usage = {transfer.id: transfer for transfer in transfers if transfer.kind == "usage"}
    owed: Counter[int] = Counter()
    for priced in settled:
        record = priced.record
        transfer = usage.get(record.transfer_id or 0)
        if transfer is not None and transfer.wallet_id == record.account_id:
            owed[transfer.id] += priced.charge
        elif priced.charge:
            yield "double", Fault(record.id, record.account_id, "settled, but charged by no transfer of its wallet")
    for transfer in usage.values():
        if transfer.amount != owed[transfer.id]:
            kind: Kind = "double" if transfer.amount > owed[transfer.id] else "wrong"
            text = f"transfer {transfer.id} took {transfer.amount}, its records are {owed[transfer.id]}"
            yield kind, Fault(None, transfer.wallet_id, text)


def _hours(hours: Iterable[Hour], settled: Iterable[Priced]) -> Iterator[Finding]:
    expected: dict[tuple[int, int, int, datetime], Counter[str]] = defaultdict(Counter)
    for priced in settled:
        record = priced.record
        hour = record.admitted_at.replace(minute=0, second=0, microsecond=0)
        figures = expected[record.account_id, record.api_key_id, record.model_id, hour]
        figures["calls"] += 1
        figures["input_tokens"] += record.input_tokens
        figures["cached_input_tokens"] += record.cached_input_tokens
        figures["output_tokens"] += record.output_tokens
        figures["charge"] += priced.charge
    for rolled in hours:
        figures = expected.pop((rolled.account_id, rolled.api_key_id, rolled.model_id, rolled.hour), Counter())
        names = ("calls", "input_tokens", "cached_input_tokens", "output_tokens", "charge")
        different = [name for name in names if getattr(rolled, name) != figures[name]]
        if different:
            kind: Kind = "double" if rolled.calls > figures["calls"] else "wrong"
            text = f"the roll-up of {rolled.hour} differs from its {figures['calls']} records in {different}"
            yield kind, Fault(None, rolled.account_id, text)
    for (account_id, _, _, hour), figures in expected.items():
        yield "wrong", Fault(None, account_id, f"no roll-up of {hour} has its {figures['calls']} records")


def _overdrafts(books: Books, cases: Iterable[Case]) -> Iterator[Finding]:
    changes: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
    for transfer in books.transfers:
        if transfer.credit == "wallet":
            changes[transfer.wallet_id].append((transfer.created_at.timestamp(), _CREDIT, transfer.amount))
    for case in cases:
        if case.account_id is not None:
            changes[case.account_id] += _changes_by(case)
    for account_id, found in changes.items():
        left = 0
        for moment, _, change in sorted(found):
            left += change
            if left < 0:
                yield "overdraft", Fault(None, account_id, f"{-left} more held and charged than credited at {moment}")
                break


def _changes_by(case: Case) -> Iterator[tuple[float, int, int]]:
    seen_at = min((attempt.accepted_at for attempt in case.attempts), default=_NOW)
    if case.hold is not None and not case.records:
        yield seen_at, _HOLD, -case.hold.amount
    for priced in case.records:
        record = priced.record
        held_at = min(seen_at, record.recorded_at.timestamp())
        yield held_at, _HOLD, -record.held
        if record.settled_at is not None:
            settled_at = max(record.settled_at.timestamp(), held_at)
            yield settled_at, _CHARGE, record.held - priced.charge


def _received(transfer: Transfer) -> int:
    return transfer.amount if transfer.credit == "wallet" else -transfer.amount
