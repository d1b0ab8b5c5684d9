"""A wallet as Python integers: what the ledger promises, written a second time and as plainly as it can be.

Where the ledger burns lots batch by batch, the model charges each call alone; where the ledger keeps a sum, the model
adds up. Amounts are pico-USD. Whoever compares a wallet with its model sees every difference to the pico-dollar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing.ledger import SETTLEMENT_BATCH, Answer, Ask, Settlement, Share
from billing.models import CreditLot
from billing.usage import Outcome

# Calls lie around the next midnight, so on two UTC days of which the database has partitions.
MIDNIGHT = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
# Calls are admitted before, after and exactly at the moments at which lots expire.
MOMENTS = [MIDNIGHT + timedelta(minutes=30) * step for step in range(-2, 3)]
EXPIRIES = MOMENTS[1:4]
INPUT_RATE, OUTPUT_RATE = 2, 5  # Of the price by which swept calls are charged.


Period = tuple[SpendPeriod, date]  # And its first day.


def period_of(period: SpendPeriod, moment: datetime) -> Period:
    day = moment.date()
    first = {SpendPeriod.DAY: day, SpendPeriod.MONTH: day.replace(day=1), SpendPeriod.TOTAL: date(1970, 1, 1)}
    return period, first[period]


@dataclass
class Lot:
    promotional: bool
    remaining: int
    expires_at: datetime | None = None

    @property
    def kind(self) -> CreditLot.Kind:
        return CreditLot.Kind.PROMOTIONAL if self.promotional else CreditLot.Kind.PAID

    def pays_at(self, moment: datetime) -> bool:
        return self.expires_at is None or moment < self.expires_at


@dataclass
class Hold:
    id: UUID
    amount: int
    admitted_at: datetime
    available_after: int
    overdue: bool
    budget: Period | None = None
    budget_left_after: int | None = None
    tokens: tuple[int, int] | None = None  # Input and output at the last checkpoint.
    swept: bool = False


@dataclass
class Record:
    id: UUID
    charge: int
    admitted_at: datetime
    outcome: Outcome = Outcome.COMPLETED
    settled: bool = False


def burn(lots: Iterable[Lot], amount: int, moment: datetime) -> int:
    """Take the amount from the lots that pay at this moment; returns what none of them covered. Lots come oldest first.

    Promotional credit goes first, then what expires soonest, then what is oldest.
    """
    for lot in sorted(lots, key=lambda lot: (not lot.promotional, lot.expires_at is None, lot.expires_at or MIDNIGHT)):
        if lot.pays_at(moment):
            taken = min(amount, lot.remaining)
            lot.remaining -= taken
            amount -= taken
    return amount


@dataclass
class Wallet:
    exists: bool = False
    posted: int = 0
    debt: int = 0
    seq: int = 0
    admitted: int = 0
    recorded: int = 0
    released: int = 0
    lots: list[Lot] = field(default_factory=list)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    refunds: dict[UUID, int] = field(default_factory=dict)  # What is held for them.
    records: dict[UUID, Record] = field(default_factory=dict)
    late: dict[UUID, int] = field(default_factory=dict)
    usage: Counter[date] = field(default_factory=Counter)
    cap: SpendCap | None = None  # Of the one line of keys that it has.
    opened: set[Period] = field(default_factory=set)

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values()) + sum(self.refunds.values())

    @property
    def available(self) -> int:
        return self.posted - self.held

    def credit(self, amount: int, *, promotional: bool, expires_at: datetime | None) -> Lot:
        repaid = min(self.debt, amount)
        self.debt -= repaid
        self.lots.append(Lot(promotional, amount - repaid, expires_at))
        self.posted += amount
        self.seq += 1
        self.exists = True
        return self.lots[-1]

    def debit(self, amount: int, now: datetime) -> bool:
        """Take what the lots in force have and no hold covers, or else nothing; whether it was there."""
        in_force = sum(lot.remaining for lot in self.lots if lot.pays_at(now))
        if amount > min(in_force, self.available):
            return False
        burn(self.lots, amount, now)
        self.posted -= amount
        self.seq += 1
        return True

    def refundable(self, now: datetime) -> int:
        paid = sum(lot.remaining for lot in self.lots if not lot.promotional) - sum(self.refunds.values())
        over = sum(lot.remaining for lot in self.lots if not lot.pays_at(now))
        return max(0, min(paid, self.available - over))

    def pay_back(self, amount: int, first: Lot | None) -> None:
        """Paid lots, the given one before all others; the rest is owed."""
        left = amount
        for lot in [*(lot for lot in self.lots if lot is first), *self.lots]:
            if not lot.promotional:
                taken = min(left, lot.remaining)
                lot.remaining -= taken
                left -= taken
        self.debt += left
        self.posted -= amount
        self.seq += 1
        self.exists = True

    def budget_of(self, moment: datetime) -> Period | None:
        return period_of(self.cap.period, moment) if self.cap else None

    def open_budget(self, moment: datetime) -> None:
        if (budget := self.budget_of(moment)) is not None:
            self.opened.add(budget)

    def spent_and_held(self, budget: Period) -> list[int]:
        """What every call of the period was charged, and what those that run were admitted for under a cap."""
        settled = [made for made in self.records.values() if made.settled]
        spent = sum(made.charge for made in settled if period_of(budget[0], made.admitted_at) == budget)
        return [spent, sum(hold.amount for hold in self.holds.values() if hold.budget == budget)]

    def share_at(self, moment: datetime) -> Share | None:
        budget = self.budget_of(moment)
        if self.cap is None or budget is None or not self.exists:
            return None
        left = self.cap.amount - sum(self.spent_and_held(budget)) if budget in self.opened else None
        return Share(self.cap.amount, self.cap.period, left)

    def admit(self, ask: Ask, available_after: int, budget_left_after: int | None = None) -> None:
        overdue, budget = ask.lifetime_seconds < 0, self.budget_of(ask.admitted_at)
        self.holds[ask.id] = Hold(
            ask.id, ask.amount, ask.admitted_at, available_after, overdue, budget, budget_left_after
        )
        self.admitted += 1

    def checkpoint(self, call: UUID, tokens: tuple[int, int]) -> None:
        if call in self.holds and not self.holds[call].swept:
            self.holds[call].tokens = tokens

    def knows(self, call: UUID) -> bool:
        return call in self.holds or call in self.records

    def record(self, call: UUID, charge: int) -> None:
        """The first record of a call stays; one that comes after the sweeper's is kept as late, the first of them."""
        if call not in self.records:
            self.records[call] = Record(call, charge, self.holds[call].admitted_at)
        elif self.records[call].outcome is not Outcome.COMPLETED:
            self.late.setdefault(call, charge)

    def release(self, call: UUID) -> bool:
        if call not in self.holds or call in self.records:
            return False
        del self.holds[call]
        self.released += 1
        return True

    def overdue(self) -> list[Hold]:
        return [hold for hold in self.holds.values() if hold.overdue and hold.id not in self.records]

    def sweep(self) -> bool:
        """Close what is past its time and has no record; whether there was anything."""
        over = self.overdue()
        for hold in over:
            input_tokens, output_tokens = hold.tokens or (0, 0)
            charge = min(hold.amount, INPUT_RATE * input_tokens + OUTPUT_RATE * output_tokens)
            outcome = Outcome.SWEPT if hold.tokens else Outcome.UNRESOLVED
            self.records[hold.id] = Record(hold.id, charge, hold.admitted_at, outcome)
            hold.swept = True
        return bool(over)

    def settle(self, limit: int) -> Settlement:
        """Charge the next batch, each of its calls alone."""
        batch = self._next_batch(limit)
        for record in batch:
            self.debt += burn(self.lots, record.charge, record.admitted_at)
            self.posted -= record.charge
            self.usage[record.admitted_at.date()] += record.charge
            self.recorded += 1
            record.settled = True
            del self.holds[record.id]
        amount = sum(record.charge for record in batch)
        self.seq += amount > 0
        return Settlement(len(batch), amount)

    def settle_all(self) -> int:
        return sum(settled.calls for settled in iter(lambda: self.settle(SETTLEMENT_BATCH), Settlement(0, 0)))

    def pending(self) -> list[Record]:
        return sorted((record for record in self.records.values() if not record.settled), key=lambda record: record.id)

    def _next_batch(self, limit: int) -> list[Record]:
        pending = self.pending()
        return list(takewhile(lambda record: self._belong_together(pending[0], record), pending))[:limit]

    def _belong_together(self, first: Record, later: Record) -> bool:
        expiries = [lot.expires_at for lot in self.lots if lot.remaining and lot.expires_at]
        expired_between = any(first.admitted_at < expiry <= later.admitted_at for expiry in expiries)
        return first.admitted_at.date() == later.admitted_at.date() and not expired_between

    def expire(self, now: datetime) -> int:
        """Take back what is left of expired lots and is neither kept for a call of the lot's time nor held."""
        taken = 0
        expired = [lot for lot in self.lots if not lot.pays_at(now)]
        for lot in sorted(expired, key=lambda lot: lot.expires_at or now):
            covered = sum(hold.amount for hold in self.holds.values() if lot.pays_at(hold.admitted_at))
            amount = min(lot.remaining - covered, self.available)
            if amount > 0:
                lot.remaining -= amount
                self.posted -= amount
                self.seq += 1
                taken += amount
        return taken

    def as_stored(self) -> dict[str, Any]:
        """What `stored` must find: for what is not there, None."""
        row = [self.posted, self.held, self.debt, self.seq, self.admitted, self.recorded, self.released]
        lots = [[lot.kind, lot.remaining, lot.expires_at and lot.expires_at.timestamp()] for lot in self.lots]
        running = {
            str(hold.id): [hold.amount, hold.available_after, hold.budget_left_after, hold.swept]
            for hold in self.holds.values()
        }
        records = {str(made.id): [made.charge, made.outcome, made.settled] for made in self.records.values()}
        return {
            "wallet": row if self.exists else None,
            "lots": lots or None,
            "holds": running or None,
            "refunds": {str(refund): amount for refund, amount in self.refunds.items()} or None,
            "records": records or None,
            "late": {str(call): charge for call, charge in self.late.items()} or None,
            "budgets": {f"{period} {first}": self.spent_and_held((period, first)) for period, first in self.opened}
            or None,
            "days": {str(day): amount for day, amount in self.usage.items() if amount} or None,
        }


def reserve(wallets: Mapping[int, Wallet], asks: Sequence[Ask], *, wait: bool) -> list[Answer] | None:
    """Admit by running sum, in the order asked; None where a repeated id keeps the whole batch out."""
    asked: Counter[int] = Counter()
    asked_of_budget: Counter[tuple[int, Period | None]] = Counter()
    answers, admissions = [], []
    for ask in asks:
        wallet = wallets[ask.account_id]
        asked[ask.account_id] += ask.amount
        available_after = wallet.available - asked[ask.account_id]
        admitted = wallet.exists and available_after >= 0
        share, budget = wallet.share_at(ask.admitted_at), (ask.account_id, wallet.budget_of(ask.admitted_at))
        left_after = None
        if share is not None:
            asked_of_budget[budget] += ask.amount
            left_after = None if share.left is None else share.left - asked_of_budget[budget]
            admitted = admitted and left_after is not None and left_after >= 0
        answers.append(Answer(ask.id, admitted, wallet.available if wallet.exists or wait else None, share))
        if admitted:
            admissions.append((wallet, ask, available_after, left_after))
    ids = [ask.id for _, ask, _, _ in admissions]
    if len(set(ids)) < len(ids) or any(ask.id in wallet.holds for wallet, ask, _, _ in admissions):
        return None
    for wallet, ask, available_after, left_after in admissions:
        wallet.admit(ask, available_after, left_after)
    return answers


# All there is about a wallet in one statement, since it is asked after each step.
_STORED = """
SELECT account.id,
       (SELECT jsonb_build_array(posted, held, debt, seq, holds_opened, holds_recorded, holds_released)
          FROM billing_wallet WHERE account_id = account.id) AS wallet,
       (SELECT jsonb_agg(jsonb_build_array(kind, remaining, extract(epoch FROM expires_at)) ORDER BY id)
          FROM billing_creditlot WHERE wallet_id = account.id) AS lots,
       (SELECT jsonb_object_agg(id, jsonb_build_array(amount, available_after, budget_left_after,
                                                          resolved_at IS NOT NULL))
          FROM billing_hold WHERE account_id = account.id) AS holds,
       (SELECT jsonb_object_agg(id, amount) FROM billing_refundhold WHERE wallet_id = account.id) AS refunds,
       (SELECT jsonb_object_agg(id, jsonb_build_array(charge, outcome, settled_at IS NOT NULL))
          FROM billing_usagerecord WHERE account_id = account.id) AS records,
       (SELECT jsonb_object_agg(id, record -> 'charge')
          FROM billing_lateusagerecord WHERE account_id = account.id) AS late,
       (SELECT jsonb_object_agg(period || ' ' || (starts_at AT TIME ZONE 'UTC')::date,
                                jsonb_build_array(budget.spent, budget.held))
          FROM billing_keybudget budget JOIN apikeys_apikey key ON key.id = line_id
         WHERE key.account_id = account.id) AS budgets,
       (SELECT jsonb_object_agg(day, amount)
          FROM (SELECT day, sum(amount) AS amount FROM billing_transfer
                 WHERE wallet_id = account.id AND kind = 'usage' GROUP BY day) usage) AS days
  FROM accounts_account account
 WHERE id = ANY(%s)
"""


async def stored(database: AsyncConnection[Any], accounts: Collection[int]) -> dict[int, dict[str, Any]]:
    async with database.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_STORED, [list(accounts)])
        return {row.pop("id"): row for row in await cursor.fetchall()}
