"""Whatever the order in which calls are recorded and settled, and whoever dies over it, a wallet ends the same.

What it ends with is worked out here in integers, call by call.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Account
from billing import ledger, ledger_sql, settlement
from billing.models import Transfer, UsageRecord
from billing.usage import Record
from tests import factories, seeds, stack
from tests.billing import processes, stage
from tests.billing.wallet_model import EXPIRIES, MIDNIGHT, MOMENTS, Lot, Wallet, burn

HOUR = timedelta(hours=1)
BILLION = 10**9

KILLS = 60


class Customer:
    """An account with lots that expire while its calls come in, on two UTC days."""

    def __init__(self, chance: random.Random, *, paid: int, calls: int = 400) -> None:
        self.account = factories.account()
        self.lots = [
            Lot(promotional=False, remaining=paid),
            *(Lot(True, chance.randrange(30, 60) * BILLION + 7, MIDNIGHT + HOUR * after) for after in (1, -1, 0.5)),
            Lot(True, 5 * BILLION + 3),
        ]
        open_lots(self.account, self.lots)
        self.credited = sum(lot.remaining for lot in self.lots)
        self.records = self._serve(chance, calls)

    def _serve(self, chance: random.Random, calls: int) -> list[Record]:
        """Hold what each call can cost, and make up what it then does cost: nothing, a part, or all of it."""
        one = factories.ask(self.account, 0)
        ids = [factories.call_id(MIDNIGHT + HOUR * chance.uniform(-2, 2)) for _ in range(calls)]
        asks = [
            replace(one, id=call, admitted_at=factories.moment_of(call), amount=chance.randrange(BILLION))
            for call in ids
        ]
        return [
            factories.record(ask, chance.choice([0, chance.randint(0, ask.amount), ask.amount]))
            for ask, answer in zip(asks, stage.reserve(*asks), strict=True)
            if answer.admitted
        ]

    def assert_charged_once(self, chance: random.Random) -> None:
        in_another_order = chance.sample(self.records, len(self.records))
        debt = sum(burn(self.lots, record.charge, record.admitted_at) for record in in_another_order)
        days: Counter[date] = Counter()
        for record in self.records:
            days[record.admitted_at.date()] += record.charge

        wallet = stage.wallet_of(self.account)
        assert (wallet.posted, wallet.debt) == (self.credited - days.total(), debt)
        assert (wallet.held, wallet.holds_recorded) == (0, len(self.records))
        assert stage.lots_of(self.account) == [(lot.kind, lot.remaining) for lot in self.lots]
        assert charged_by_day(self.account) == days


class Hit(NamedTuple):
    """What a kill hit: what the database was doing for the settler, and how many calls waited to be settled."""

    doing: str
    waiting: int


@pytest.mark.usefixtures("committed")
def test_four_settlers_killed_sixty_times_charge_every_call_once() -> None:
    chance = random.Random(seeds.SETTLE_ORDER)
    customers = [Customer(chance, paid=paid * BILLION) for paid in (10, 90, 10, 90)]
    ids = [customer.account.pk for customer in customers]
    records = [record for customer in customers for record in customer.records]
    chance.shuffle(records)

    hits = storm(chance, ids, records)

    print(f"seed {seeds.SETTLE_ORDER}: {hits}")  # noqa: T201  # Shown when it fails.
    assert len(hits) == KILLS
    assert sum(hit.doing == "settling" for hit in hits) >= 10
    assert sum(hit.waiting > 0 for hit in hits) >= 50
    assert settlement.settle_accounts(account_ids=ids) == 0
    for customer in customers:
        customer.assert_charged_once(chance)
    assert {stage.wallet_of(customer.account).debt > 0 for customer in customers} == {True, False}
    stage.assert_books_hold()


def storm(chance: random.Random, account_ids: Sequence[int], records: Sequence[Record]) -> list[Hit]:
    """Record in waves, and kill one of four settlers behind each; return when the others have settled it all."""
    wave = len(records) // KILLS + 1
    hits = []
    with ExitStack() as running, psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        settlers = [running.enter_context(processes.settler(account_ids, chance.random())) for _ in range(4)]
        for start in range(0, wave * KILLS, wave):
            number = chance.randrange(4)
            victim = settlers[number]
            victim.wait_until_begun()
            stage.record(*records[start : start + wave])
            time.sleep(chance.uniform(0, 0.01))  # No waiting for something: this is the random moment.
            victim.kill()
            hits.append(Hit(doing(database, victim.name), waiting(account_ids)))
            victim.process.join(processes.SECONDS)
            settlers[number] = running.enter_context(processes.settler(account_ids, chance.random()))
        stack.until(lambda: waiting(account_ids) == 0, processes.SECONDS)
        assert all(settler.process.is_alive() for settler in settlers)
    return hits


def doing(database: psycopg.Connection[tuple[Any, ...]], name: str) -> str:
    """`settling` is from the settling statement on until the commit: what is cut there must not be seen by anybody."""
    activity = "SELECT state, query FROM pg_stat_activity WHERE application_name = %s"
    state, query = database.execute(activity, [name]).fetchone() or ("gone", "")
    in_the_middle = state in {"active", "idle in transaction"} and query.startswith(ledger_sql.SETTLE[:20])
    return "settling" if in_the_middle else str(state)


def waiting(account_ids: Sequence[int]) -> int:
    return UsageRecord.objects.filter(account_id__in=account_ids, settled_at=None).count()


def charged_by_day(account: Account) -> dict[date, int]:
    transfers = Transfer.objects.filter(wallet_id=account.pk, kind="usage")
    return dict(transfers.values_list("day").annotate(Sum("amount")))


def open_lots(account: Account, lots: Sequence[Lot]) -> None:
    for lot in lots:
        factories.credit(account, lot.remaining, lot=lot.kind, expires_at=lot.expires_at)


class Call(NamedTuple):
    held: int
    quarters: int  # Of the hold, that are charged.
    moment: datetime
    place: int  # In the order in which the calls are recorded.
    then: int | datetime | None  # Behind its record: a settlement of so many calls, an expiry, or nothing.


moments = st.sampled_from(MOMENTS)
amounts = st.integers(1, 30)
paid_lots = st.builds(Lot, promotional=st.just(False), remaining=amounts)
promotional_lots = st.builds(
    Lot, promotional=st.just(True), remaining=amounts, expires_at=st.sampled_from(EXPIRIES) | st.none()
)
some_lots = st.lists(paid_lots | promotional_lots, min_size=1, max_size=5)
happenings = st.integers(1, 3) | moments | st.none()
some_calls = st.lists(st.builds(Call, amounts, st.integers(0, 4), moments, st.integers(0, 99), happenings), max_size=8)


@pytest.mark.django_db
@settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(lots=some_lots, calls=some_calls)
def test_in_whatever_order_and_batches_calls_are_settled_they_leave_the_same(
    lots: list[Lot], calls: list[Call]
) -> None:
    account, model = factories.account(), Wallet()
    open_lots(account, lots)
    for lot in lots:
        model.credit(lot.remaining, promotional=lot.promotional, expires_at=lot.expires_at)
    admitted = []
    for call in calls:
        if call.held <= model.available:
            ask = factories.ask(account, call.held, admitted_at=call.moment)
            factories.held(ask)
            model.admit(ask, model.available - call.held)
            admitted.append((call, factories.record(ask, call.held * call.quarters // 4)))

    for call, record in sorted(admitted, key=lambda pair: pair[0].place):
        UsageRecord.objects.create(**{name: getattr(record, name) for name in record.__struct_fields__})
        happen(account, call.then)
    settlement.settle_accounts(account_ids=[account.pk])
    happen(account, MOMENTS[-1])

    for _, record in admitted:
        model.record(record.id, record.charge)
    model.settle_all()
    model.expire(MOMENTS[-1])
    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.debt) == (model.posted, 0, model.debt)
    assert stage.lots_of(account) == [(lot.kind, lot.remaining) for lot in model.lots]
    assert charged_by_day(account) == +model.usage
    stage.assert_books_hold()


def happen(account: Account, what: int | datetime | None) -> None:
    if isinstance(what, datetime):
        ledger.expire_lots(account_id=account.pk, now=what)
    elif what is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "SETTLEMENT_BATCH", what)
            ledger.settle(account_id=account.pk)
