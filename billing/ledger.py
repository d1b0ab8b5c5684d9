"""The only writer of balances.

Every amount is pico-USD. A balance moves in one of these ways, and nowhere else:

- `reserve` takes the most a call can cost from what a wallet, and a key with a spend cap, can spend (may refuse);
- `release` gives a hold back, with a reason; `settle` charges the recorded calls of a wallet and closes their holds;
- `hold_refund` keeps back what a refund will take (may refuse); `release_refund` gives it back, `pay_back` posts it,
  and whatever else went back to a card;
- `credit` and `debit` post every other transfer of a wallet; `expire_lots` takes back promotional credit whose time is
  over, `end_promotions` all of it; `post` moves what belongs to no wallet: taxes, Stripe's fees, payouts.

`posted`, `debt`, `seq` and the lots of a wallet change only under its advisory lock; `held` and the counts of holds
also change by single statements that touch the wallet row last. The order of locks is everywhere: advisory lock, usage,
holds, transfer, lots, roll-ups, wallet row; several wallets in the order of their ids. The budgets of keys move only
behind the lock of their wallet's row, so they come after it and are never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet, Sum
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from accounts.models import Account, User
from apikeys.models import SpendPeriod
from billing import ledger_sql as sql
from billing import money
from billing.models import CreditLot, LedgerAccount, RefundHold, Transfer, TransferKind, Wallet
from billing.models.wallets import SIDES

SETTLEMENT_BATCH = 1000


class CauseReused(Exception):
    """This cause already moved another amount, another wallet, or between other accounts."""


class InsufficientBalance(Exception):
    """The wallet has less to spend, or to refund, than was asked for."""


class InvalidTransfer(ValueError):
    """The amount is not positive, or more than a wallet can hold."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call that wants to be admitted: its id, and the most it can cost."""

    id: UUID
    account_id: int
    api_key_id: int
    model_id: int
    price_version_id: int
    amount: int
    streamed: bool
    owner: UUID
    admitted_at: datetime
    lifetime_seconds: int  # By the database's clock: then the sweeper ends the hold, whoever owns it.


@dataclass(frozen=True, slots=True)
class Share:
    """What a key with a spend cap could spend before, `left`; None where its budget for the period is not open yet."""

    cap: int
    period: SpendPeriod
    left: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an Ask. `available` is what the wallet could spend before; None where the wallet was locked."""

    id: UUID
    admitted: bool
    available: int | None
    share: Share | None = None  # Of a key that has a cap.

    @property
    def locked(self) -> bool:
        return self.available is None

    @property
    def unopened(self) -> bool:
        return self.share is not None and self.share.left is None

    def has_room_for(self, amount: int) -> bool:
        room = self.available or 0
        if self.share is not None:
            room = min(room, self.share.left or 0)
        return room >= amount


@dataclass(frozen=True, slots=True)
class Settlement:
    """One batch of one wallet: how many calls, and their charge in pico-USD."""

    calls: int
    amount: int


async def reserve(database: AsyncConnection[object], asks: Sequence[Ask], *, wait: bool) -> list[Answer]:
    """Admit each call whose amount fits into what its wallet can spend, in the order given; one statement.

    Of a key with a spend cap it must fit into what is left of that, too. A call whose key has a cap but no open budget
    is answered `unopened`: open it, and ask again.

    With `wait` locked wallets are waited for (the connection's lock_timeout bounds it), else their calls are answered
    `locked`. A call is refused if it does not fit *together with those before it*, refused ones included: ask again
    alone before believing a refusal. A wallet that does not exist counts as empty. A repeated id raises
    UniqueViolation and admits nobody.
    """
    statement = sql.RESERVE_WAITING if wait else sql.RESERVE_SKIPPING
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement, [msgspec.json.encode(asks).decode()])
        return [
            Answer(call_id, admitted, available, Share(cap, SpendPeriod(period), left) if cap is not None else None)
            for call_id, admitted, available, cap, period, left in await cursor.fetchall()
        ]


async def open_budget(database: AsyncConnection[object], ask: Ask) -> None:
    """Open the budget of the call's key for the period in which it was admitted; nothing where there is one already.

    It begins with what the line of the key has been charged in the period. Waits for a settlement of the wallet.
    """
    async with database.transaction():
        await database.execute(sql.LOCK_WALLET, [ask.account_id])
        # A statement of its own: its snapshot is taken after the lock, so it sees what the last settler did.
        await database.execute(sql.OPEN_BUDGET, {"keys": [ask.api_key_id], "moment": ask.admitted_at})


async def release(database: AsyncConnection[object], ids: Sequence[UUID], *, reason: str) -> int:
    """Give holds back without a charge, counted under `reason`; returns how many there were. Repeats do nothing."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql.RELEASE, {"ids": list(ids), "reason": reason})
        return sum(calls for (calls,) in await cursor.fetchall())


def settle(*, account_id: int) -> Settlement:
    """Charge the next batch of recorded calls of a wallet: close holds, burn lots, post one transfer, roll up.

    A batch stays within one UTC day and does not cross the expiry of a lot, so the result is the same whoever settles
    and when. Never refuses: what no lot covers becomes debt. Doing it again does nothing.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_WALLET, [account_id])
        # A statement of its own: its snapshot is taken after the lock, so it sees what the last settler did.
        cursor.execute(sql.SETTLE, {"account": account_id, "batch": SETTLEMENT_BATCH})
        row = cursor.fetchone()
    return Settlement(*row) if row else Settlement(0, 0)


def credit(
    *,
    account: Account,
    amount: int,
    kind: TransferKind,
    source: LedgerAccount,
    cause: str,
    now: datetime,
    lot: CreditLot.Kind,
    expires_at: datetime | None = None,
    reason: str = "",
    by: User | None = None,
) -> Transfer:
    """Post `source -> wallet` and open a credit lot, less what pays off the wallet's debt. Makes the wallet if need be.

    The same cause again returns the first transfer and moves nothing. Raises InvalidTransfer, CauseReused.
    """
    with transaction.atomic():
        wallet = _locked_wallet(account.pk)
        done = _already_posted(cause, wallet, amount, kind, source, LedgerAccount.WALLET)
        if done is not None:
            return done
        if wallet.posted + amount > money.MAX_AMOUNT:
            raise InvalidTransfer(f"A wallet holds at most {money.usd(money.MAX_AMOUNT)} USD.")
        transfer = Transfer.objects.create(
            kind=kind, debit=source, credit=LedgerAccount.WALLET, amount=amount, cause=cause, day=_utc_day(now),
            wallet=wallet, wallet_seq=wallet.seq + 1, balance_after=wallet.posted + amount,
            reason=reason, created_by=by,
        )  # fmt: skip
        repaid = min(wallet.debt, amount)
        CreditLot.objects.create(
            wallet=wallet, kind=lot, amount=amount, remaining=amount - repaid, expires_at=expires_at, transfer=transfer
        )
        Wallet.objects.filter(pk=wallet.pk).update(
            posted=F("posted") + amount, seq=F("seq") + 1, debt=F("debt") - repaid
        )
    return transfer


def debit(
    *,
    account: Account,
    amount: int,
    kind: TransferKind,
    target: LedgerAccount,
    cause: str,
    now: datetime,
    reason: str = "",
    by: User | None = None,
) -> Transfer:
    """Post `wallet -> target`, burning lots as a call at `now` would. Never takes what open holds cover, nor credit
    whose time is over.

    The same cause again returns the first transfer and moves nothing. Raises InvalidTransfer, CauseReused,
    InsufficientBalance.
    """
    with transaction.atomic():
        wallet = _locked_wallet(account.pk)
        done = _already_posted(cause, wallet, amount, kind, LedgerAccount.WALLET, target)
        if done is not None:
            return done
        transfer = _post_debit(wallet, amount, kind, target, cause, now, reason=reason, by=by)
        in_force = Q(expires_at=None) | Q(expires_at__gt=now)
        owed = amount
        for lot in wallet.lots.filter(in_force, remaining__gt=0).order_by(*sql.BURN_ORDER):
            burned = min(owed, lot.remaining)
            CreditLot.objects.filter(pk=lot.pk).update(remaining=F("remaining") - burned)
            owed -= burned
        if owed:
            raise _insufficient(wallet, amount)
        _take(wallet, amount)
    return transfer


def post(
    *, amount: int, kind: TransferKind, debit: LedgerAccount, credit: LedgerAccount, cause: str, now: datetime
) -> Transfer:
    """Post between two accounts of ours, neither of them a wallet.

    The same cause again returns the first transfer and moves nothing. Raises InvalidTransfer, CauseReused.
    """
    if LedgerAccount.WALLET in (debit, credit):
        raise InvalidTransfer("A wallet moves by credit and debit alone, which keep its balance.")
    if (debit, credit) not in SIDES[kind]:
        raise InvalidTransfer(f"A {kind} does not move from {credit} to {debit}.")
    with transaction.atomic():
        done = _already_posted(cause, None, amount, kind, debit, credit)
        if done is not None:
            return done
        fields = {"kind": kind, "debit": debit, "credit": credit, "amount": amount, "day": _utc_day(now)}
        # Another may post the same meanwhile; then this waits for it, and gets its transfer.
        transfer, posted = Transfer.objects.get_or_create(cause=cause, defaults=fields)
    return transfer if posted else _same(transfer, None, amount, kind, debit, credit)


def refundable(*, account_id: int, now: datetime) -> int:
    """The most that `hold_refund` would hold now, in pico-USD: unspent paid money that no open hold needs.

    Credit whose time is over covers no hold, though it may still be in the balance.
    """
    wallet = Wallet.objects.filter(pk=account_id).first()
    return max(0, min(_unspent_paid(wallet), wallet.available - _expired(wallet, now))) if wallet else 0


def hold_refund(*, id: UUID, account: Account, amount: int, now: datetime) -> None:
    """Keep this much back for the refund with this id, until `pay_back` posts it or `release_refund` gives it back.

    Raises InvalidTransfer, InsufficientBalance. An id that holds already raises IntegrityError and holds nothing more.
    """
    if amount <= 0:
        raise InvalidTransfer("A refund moves a positive amount.")
    with transaction.atomic():
        wallet = _locked_wallet(account.pk)
        if amount > _unspent_paid(wallet):
            raise _insufficient(wallet, amount)
        RefundHold.objects.create(id=id, wallet=wallet, amount=amount)
        # Calls are admitted meanwhile, so the wallet row has the last word.
        fits = Wallet.objects.filter(pk=wallet.pk, posted__gte=F("held") + amount + _expired(wallet, now))
        if not fits.update(held=F("held") + amount):
            raise _insufficient(wallet, amount)


def release_refund(*, id: UUID) -> bool:
    """Give back what is held for a refund; whether there was anything. Repeats do nothing."""
    hold = RefundHold.objects.filter(pk=id).first()
    if hold is None:
        return False
    with transaction.atomic():
        wallet = _locked_wallet(hold.wallet_id)
        amount = _end_refund_hold(id, wallet)
        Wallet.objects.filter(pk=wallet.pk).update(held=F("held") - amount)
    return amount > 0


def pay_back(
    *,
    account: Account,
    amount: int,
    kind: TransferKind,
    target: LedgerAccount,
    cause: str,
    now: datetime,
    credited: Transfer | None = None,
    hold: UUID | None = None,
    reason: str = "",
    by: User | None = None,
) -> Transfer:
    """Post `wallet -> target` for money that has gone back to a card, and end the refund's `hold` if it has one.

    Never refuses. Burns paid lots: that of the payment `credited`, then the oldest; what none covers becomes debt. The
    same cause again returns the first transfer and moves nothing. Raises InvalidTransfer, CauseReused.
    """
    with transaction.atomic():
        wallet = _locked_wallet(account.pk)
        held = _end_refund_hold(hold, wallet) if hold else 0
        done = _already_posted(cause, wallet, amount, kind, LedgerAccount.WALLET, target)
        if done is not None:
            Wallet.objects.filter(pk=wallet.pk).update(held=F("held") - held)
            return done
        transfer = _post_debit(wallet, amount, kind, target, cause, now, reason=reason, by=by)
        debt = amount - _burn_paid(wallet, amount, credited)
        Wallet.objects.filter(pk=wallet.pk).update(
            posted=F("posted") - amount, held=F("held") - held, debt=F("debt") + debt, seq=F("seq") + 1
        )
    return transfer


def _unspent_paid(wallet: Wallet) -> int:
    """What is left of paid money, less what other refunds will take of it."""
    paid = wallet.lots.filter(kind=CreditLot.Kind.PAID, remaining__gt=0)
    return _sum(paid, "remaining") - _sum(wallet.refund_holds.all(), "amount")


def _expired(wallet: Wallet, now: datetime) -> int:
    return _sum(wallet.lots.filter(remaining__gt=0, expires_at__lte=now), "remaining")


def _sum(rows: QuerySet[Any], field: str) -> int:
    return int(rows.aggregate(total=Sum(field, default=0))["total"])


def _end_refund_hold(refund: UUID, wallet: Wallet) -> int:
    """Delete the hold of the refund; returns what the wallet row holds too much now."""
    with connection.cursor() as cursor:
        cursor.execute(sql.END_REFUND_HOLD, [refund, wallet.pk])
        row = cursor.fetchone()
    return row[0] if row else 0


def _burn_paid(wallet: Wallet, amount: int, credited: Transfer | None) -> int:
    """Burn paid lots, first that of the transfer; returns how much there was."""
    owed = amount
    lots = wallet.lots.filter(kind=CreditLot.Kind.PAID, remaining__gt=0).order_by("id")
    for lot in sorted(lots, key=lambda lot: credited is None or lot.transfer_id != credited.pk):
        burned = min(owed, lot.remaining)
        CreditLot.objects.filter(pk=lot.pk).update(remaining=F("remaining") - burned)
        owed -= burned
    return amount - owed


def expire_lots(*, account_id: int, now: datetime) -> int:
    """Take back what is left of the wallet's expired lots, except what open holds cover; returns the amount taken."""
    expired = CreditLot.objects.filter(wallet_id=account_id, remaining__gt=0, expires_at__lte=now)
    lot_ids = expired.order_by("expires_at", "id").values_list("pk", flat=True)
    return sum(_expire_lot(account_id, lot_id, now) for lot_id in lot_ids)


def end_promotions(*, account_id: int, now: datetime) -> int:
    """Let all promotional credit of the wallet expire at `now`, and take back what is left; returns the amount."""
    with transaction.atomic():
        wallet = _locked_wallet(account_id)
        lasting = Q(expires_at=None) | Q(expires_at__gt=now)
        wallet.lots.filter(lasting, kind=CreditLot.Kind.PROMOTIONAL, remaining__gt=0).update(expires_at=now)
        return expire_lots(account_id=account_id, now=now)


def _expire_lot(account_id: int, lot_id: int, now: datetime) -> int:
    try:
        with transaction.atomic():
            wallet = _locked_wallet(account_id)
            lot = wallet.lots.get(pk=lot_id)
            # Calls admitted in the lot's time will burn it, whenever they are settled.
            covered = wallet.holds.filter(admitted_at__lt=lot.expires_at).aggregate(amount=Sum("amount", default=0))
            amount = min(lot.remaining - int(covered["amount"]), wallet.posted - wallet.held)
            if amount <= 0:
                return 0
            # A lot may expire in several takes: what a hold covered today is free tomorrow.
            cause = f"expiry:{lot.pk}:{wallet.seq + 1}"
            _post_debit(wallet, amount, TransferKind.EXPIRY, LedgerAccount.PROMOTIONS, cause, now)
            CreditLot.objects.filter(pk=lot.pk).update(remaining=F("remaining") - amount)
            _take(wallet, amount)
    except InsufficientBalance:
        return 0  # A call was admitted meanwhile; the next run takes what it leaves.
    return amount


def _locked_wallet(account_id: int) -> Wallet:
    """The wallet, made if need be, under its advisory lock until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(sql.LOCK_WALLET, [account_id])
        cursor.execute(sql.OPEN_WALLET, [account_id])
    return Wallet.objects.get(pk=account_id)


def _already_posted(
    cause: str, wallet: Wallet | None, amount: int, kind: TransferKind, debit: LedgerAccount, credit: LedgerAccount
) -> Transfer | None:
    if amount <= 0:
        raise InvalidTransfer("A transfer moves a positive amount.")
    if kind is TransferKind.USAGE:
        raise InvalidTransfer("Usage is charged by settlement alone: its transfer is the sum of its records.")
    done = Transfer.objects.filter(cause=cause).first()
    return _same(done, wallet, amount, kind, debit, credit) if done is not None else None


def _same(
    done: Transfer, wallet: Wallet | None, amount: int, kind: TransferKind, debit: LedgerAccount, credit: LedgerAccount
) -> Transfer:
    asked = (wallet.pk if wallet else None, amount, kind, debit, credit)
    if (done.wallet_id, done.amount, done.kind, done.debit, done.credit) != asked:
        raise CauseReused(
            f"{done.cause!r} already moved {done.amount} pico-USD of wallet {done.wallet_id}, "
            f"{done.debit} to {done.credit}."
        )
    return done


def _post_debit(
    wallet: Wallet,
    amount: int,
    kind: TransferKind,
    target: LedgerAccount,
    cause: str,
    now: datetime,
    *,
    reason: str = "",
    by: User | None = None,
) -> Transfer:
    return Transfer.objects.create(
        kind=kind, debit=LedgerAccount.WALLET, credit=target, amount=amount, cause=cause, day=_utc_day(now),
        wallet=wallet, wallet_seq=wallet.seq + 1, balance_after=wallet.posted - amount, reason=reason, created_by=by,
    )  # fmt: skip


def _take(wallet: Wallet, amount: int) -> None:
    """Move the wallet row down, last of all, unless an open hold needs the money."""
    fits = Wallet.objects.filter(pk=wallet.pk, posted__gte=F("held") + amount)
    if not fits.update(posted=F("posted") - amount, seq=F("seq") + 1):
        raise _insufficient(wallet, amount)


def _insufficient(wallet: Wallet, amount: int) -> InsufficientBalance:
    return InsufficientBalance(f"Wallet {wallet.pk} has less than {amount} pico-USD to spend or to refund.")


def _utc_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
