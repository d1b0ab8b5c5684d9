"""Whatever happens to two wallets, in whatever order: the database agrees with a model of plain integers, exactly.

Hypothesis makes up the stories from a fixed seed. For more of them, and others:

    WALLET_MODEL_EXAMPLES=3000 WALLET_MODEL_SEED=7 make test ARGS="tests/billing/test_wallet_model.py"
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import AsyncConnection

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing import holds, ledger, settlement, usage
from billing.holds import Checkpoint
from billing.ledger import Ask
from billing.models import CreditLot, LedgerAccount, PriceVersion, Transfer
from tests import factories, seeds
from tests.billing import stage, wallet_model
from tests.billing.wallet_model import EXPIRIES, INPUT_RATE, MOMENTS, OUTPUT_RATE

Result = TypeVar("Result")
Expiring = tuple[CreditLot.Kind, datetime | None]

EXAMPLES = int(os.environ.get("WALLET_MODEL_EXAMPLES", "40"))
STEPS = 40


class Call(NamedTuple):
    of: int
    amount: int
    moment: datetime
    overdue: bool
    quarters: int | None  # Of its hold it is charged so many, at once; None while it runs.


moments = st.sampled_from(MOMENTS)
wallets = st.sampled_from([0, 1])
charged = st.sampled_from([4, 4, 3, 2, 1, 0])  # Quarters of the hold.
some_call = st.builds(
    Call,
    of=wallets,
    amount=st.integers(0, 25),
    moment=moments,
    overdue=st.sampled_from([False, False, False, True]),
    quarters=st.none() | charged,
)
batches = st.integers(1, 4)
often = st.sampled_from([True, True, True, False])
caps = st.builds(SpendCap, amount=st.integers(1, 120), period=st.sampled_from(SpendPeriod))
some_calls = st.lists(some_call, min_size=1, max_size=8)
paid = st.tuples(st.just(CreditLot.Kind.PAID), st.none())
promotional = st.tuples(st.just(CreditLot.Kind.PROMOTIONAL), st.sampled_from([*EXPIRIES, None]))
expiring = st.one_of(paid, promotional, promotional)

# The later a call is asked for, the smaller its id within a moment: no statement may take the one order for the other.
_call_numbers = itertools.count(2**62 - 1, -1)


class Gateway:
    """The gateway's statements, many of them on one connection and one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        connect = AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True)
        self._database = self._loop.run_until_complete(connect)

    def run(self, work: Callable[[AsyncConnection[Any]], Awaitable[Result]]) -> Result:
        async def connected() -> Result:
            return await work(self._database)

        return self._loop.run_until_complete(connected())

    def close(self) -> None:
        self._loop.run_until_complete(self._database.close())
        self._loop.close()


@seed(seeds.WALLET_MODEL)
class WalletMachine(RuleBasedStateMachine):
    """Two wallets and their models. Each rule does the same to both, and compares the answers."""

    calls: Bundle[UUID] = Bundle("calls")  # Whose hold was admitted once.
    posts: Bundle[Transfer] = Bundle("posts")
    refunds: Bundle[UUID] = Bundle("refunds")  # For which something was held once.

    def __init__(self) -> None:
        super().__init__()
        self.gateway = Gateway()
        self.boot = uuid4()
        self.accounts = [factories.account() for _ in range(2)]
        # A line of two keys each: what is counted by line must not be counted by key.
        self.lines = [[account.api_keys.get()] for account in self.accounts]
        for line in self.lines:
            line.append(keys.rotate(key=line[0], overlap=timedelta(days=1), now=datetime.now(UTC))[0])
        self.models = {account.pk: wallet_model.Wallet() for account in self.accounts}
        self.asks: dict[UUID, Ask] = {}
        self.lots: dict[int, wallet_model.Lot] = {}  # By the transfer that opened them.
        self.refund_of: dict[UUID, int] = {}

    @initialize(credits=st.lists(st.tuples(wallets, st.integers(1, 150), expiring), max_size=5))
    def fund(self, credits: list[tuple[int, int, Expiring]]) -> None:
        """A wallet without a credit is not there yet."""
        for of, amount, expiring in credits:
            self.credit(of, amount, expiring)

    @rule(target=posts, of=wallets, amount=st.integers(1, 60), expiring=expiring)
    def credit(self, of: int, amount: int, expiring: Expiring) -> Transfer:
        kind, expires_at = expiring
        promotional = kind is CreditLot.Kind.PROMOTIONAL
        post = factories.credit(self.accounts[of], amount, lot=kind, expires_at=expires_at)
        self.lots[post.pk] = self.model(of).credit(amount, promotional=promotional, expires_at=expires_at)
        return post

    @precondition(lambda self: any(model.exists for model in self.models.values()))
    @rule(target=posts, of=wallets, amount=st.integers(1, 25), now=moments)
    def debit(self, of: int, amount: int, now: datetime) -> Any:
        if self.model(of).debit(amount, now):
            return factories.debit(self.accounts[of], amount, now=now)
        with pytest.raises(ledger.InsufficientBalance):
            factories.debit(self.accounts[of], amount, now=now)
        return multiple()

    @rule(post=posts, changed=st.sampled_from(["nothing", "amount", "wallet", "direction"]))
    def post_the_same_cause(self, post: Transfer, changed: str) -> None:
        of = 0 if post.wallet_id == self.accounts[0].pk else 1
        is_credit = post.credit == LedgerAccount.WALLET
        move = factories.credit if is_credit is not (changed == "direction") else factories.debit
        account = self.accounts[1 - of if changed == "wallet" else of]
        if changed == "nothing":
            assert move(account, post.amount, cause=post.cause) == post
            return
        with pytest.raises(ledger.CauseReused):
            move(account, post.amount + (changed == "amount"), cause=post.cause)

    @precondition(lambda self: any(model.exists for model in self.models.values()))
    @rule(target=refunds, of=wallets, amount=st.integers(1, 60), now=moments, all_there_is=st.booleans())
    def hold_refund(self, of: int, amount: int, now: datetime, all_there_is: bool) -> Any:
        account, room = self.accounts[of], self.model(of).refundable(now)
        assert ledger.refundable(account_id=account.pk, now=now) == room
        if all_there_is and room:
            with pytest.raises(ledger.InsufficientBalance):
                factories.refund_hold(account, room + 1, now=now)
            amount = room
        if amount > room:
            with pytest.raises(ledger.InsufficientBalance):
                factories.refund_hold(account, amount, now=now)
            return multiple()
        refund = factories.refund_hold(account, amount, now=now)
        self.model(of).refunds[refund] = amount
        self.refund_of[refund] = of
        return refund

    @rule(refund=refunds)
    def release_refund(self, refund: UUID) -> None:
        held = self.model(self.refund_of[refund]).refunds.pop(refund, None)
        assert [ledger.release_refund(id=refund) for _ in range(2)] == [held is not None, False]

    @rule(refund=refunds, credited=posts)
    def post_refund(self, refund: UUID, credited: Transfer) -> None:
        """Twice; one that was given back meanwhile is left alone."""
        of = self.refund_of[refund]
        amount = self.model(of).refunds.pop(refund, None)
        if amount is None:
            return
        post = {"hold": refund, "credited": credited, "cause": f"refund:{refund}"}
        first, again = (factories.pay_back(self.accounts[of], amount, **post) for _ in range(2))
        assert first == again
        self.model(of).pay_back(amount, self.lots.get(credited.pk))

    @rule(of=wallets, amount=st.integers(1, 60), credited=st.none() | posts)
    def lose_to_the_card(self, of: int, amount: int, credited: Transfer | None) -> None:
        """A refund that nobody asked us for, or a dispute: it never refuses."""
        factories.pay_back(self.accounts[of], amount, credited=credited)
        self.model(of).pay_back(amount, self.lots.get(credited.pk) if credited else None)

    @rule(of=wallets, cap=st.none() | caps)
    def set_spend_cap(self, of: int, cap: SpendCap | None) -> None:
        keys.set_spend_cap(key=self.lines[of][1], cap=cap)
        self.model(of).cap = cap

    @rule(target=calls, wanted=some_calls, wait=st.booleans(), bell=st.none() | batches, opened=often)
    def serve(self, wanted: list[Call], wait: bool, bell: int | None, opened: bool) -> Any:
        asks = [self.ask(call) for call in wanted]
        for ask in asks if opened else []:
            self.gateway.run(lambda database, ask=ask: ledger.open_budget(database, ask))  # type: ignore[misc]
            self.models[ask.account_id].open_budget(ask.admitted_at)
        admitted = self.reserved(asks, wanted, wait=wait)
        self.ring(bell)
        return admitted

    @rule(target=calls, call=some_call, more=st.sampled_from([-1, 0, 0, 1]), bell=st.none() | batches)
    def serve_for_all_that_is_left(self, call: Call, more: int, bell: int | None) -> Any:
        call = call._replace(amount=max(0, self.model(call.of).available + more))
        admitted = self.reserved([self.ask(call)], [call])
        self.ring(bell)
        return admitted

    @rule(target=calls, again=calls, wanted=some_calls)
    def reserve_an_id_again(self, again: UUID, wanted: list[Call]) -> Any:
        if again not in self.model_of(again).holds:
            return multiple()
        return self.reserved([*(self.ask(call) for call in wanted), self.asks[again]], wanted)

    @rule(call=calls, tokens=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def checkpoint(self, call: UUID, tokens: tuple[int, int]) -> None:
        self.gateway.run(lambda database: holds.checkpoint(database, [Checkpoint(call, "demo", 1, *tokens)]))
        self.model_of(call).checkpoint(call, tokens)

    @rule(first=calls, others=st.lists(calls, max_size=3), quarters=st.lists(charged, min_size=4, max_size=4))
    def record(self, first: UUID, others: list[UUID], quarters: list[int]) -> None:
        """Calls that run, or have a record; what was given back is never recorded."""
        known = [call for call in dict.fromkeys((first, *others)) if self.model_of(call).knows(call)]
        self.recorded(dict(zip(known, quarters, strict=False)))

    @rule(first=calls, others=st.lists(calls, max_size=2))
    def release(self, first: UUID, others: list[UUID]) -> None:
        ids = [first, *others, uuid4()]  # The last one is nobody's.
        released = self.gateway.run(lambda database: ledger.release(database, ids, reason="model"))
        assert released == sum(self.model_of(call).release(call) for call in (first, *others))

    @precondition(lambda self: any(model.pending() for model in self.models.values()))
    @rule(of=wallets, limit=batches)
    def settle_a_batch(self, of: int, limit: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "SETTLEMENT_BATCH", limit)
            settled = ledger.settle(account_id=self.accounts[of].pk)
        assert settled == self.model(of).settle(limit)

    @precondition(lambda self: any(model.pending() for model in self.models.values()))
    @rule(of=wallets)
    def settle_everything_twice(self, of: int) -> None:
        calls = [settlement.settle_accounts(account_ids=[self.accounts[of].pk]) for _ in range(2)]
        assert calls == [self.model(of).settle_all(), 0]

    @precondition(lambda self: any(lot.expires_at for model in self.models.values() for lot in model.lots))
    @rule(of=wallets, now=st.sampled_from(MOMENTS[2:]))
    def expire(self, of: int, now: datetime) -> None:
        assert ledger.expire_lots(account_id=self.accounts[of].pk, now=now) == self.model(of).expire(now)

    @precondition(lambda self: any(model.overdue() for model in self.models.values()))
    @rule()
    def sweep(self) -> None:
        # Its process lives, so only what is past its time is closed; calls of other tests are none of our business.
        self.gateway.run(lambda database: holds.beat(database, boot=self.boot, host="model", pid=1))
        swept = holds.sweep()
        assert swept & self.models.keys() == {pk for pk, model in self.models.items() if model.sweep()}

    @invariant()
    def the_database_agrees(self) -> None:
        stored = self.gateway.run(lambda database: wallet_model.stored(database, self.models))
        assert stored == {account_id: model.as_stored() for account_id, model in self.models.items()}

    def teardown(self) -> None:
        """End what is open, so that nothing is left for other tests, and prove the books."""
        self.gateway.run(lambda database: ledger.release(database, list(self.asks), reason="model"))
        for refund in self.refund_of:
            ledger.release_refund(id=refund)
        settlement.settle_accounts(account_ids=self.models)
        self.gateway.run(lambda database: holds.leave(database, boot=self.boot))
        self.gateway.close()
        stage.assert_books_hold()

    def model(self, of: int) -> wallet_model.Wallet:
        return self.models[self.accounts[of].pk]

    def model_of(self, call: UUID) -> wallet_model.Wallet:
        return self.models[self.asks[call].account_id]

    def ask(self, call: Call) -> Ask:
        made = UUID(int=int(call.moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | next(_call_numbers))
        self.asks[made] = Ask(
            id=made, account_id=self.accounts[call.of].pk, api_key_id=self.lines[call.of][made.int % 2].pk,
            amount=call.amount, model_id=price().model_id, price_version_id=price().pk, streamed=False, owner=self.boot,
            admitted_at=call.moment, lifetime_seconds=-1 if call.overdue else 720,
        )  # fmt: skip
        return self.asks[made]

    def reserved(self, asks: Sequence[Ask], wanted: Sequence[Call], *, wait: bool = True) -> MultipleResults[UUID]:
        """The calls admitted, after those that are done at once were recorded."""
        answers = wallet_model.reserve(self.models, asks, wait=wait)
        if answers is None:
            with pytest.raises(psycopg.errors.UniqueViolation):
                self.gateway.run(lambda database: ledger.reserve(database, asks, wait=wait))
            return multiple()
        assert self.gateway.run(lambda database: ledger.reserve(database, asks, wait=wait)) == answers
        admitted = {answer.id: call for answer, call in zip(answers, wanted, strict=False) if answer.admitted}
        self.recorded({made: call.quarters for made, call in admitted.items() if call.quarters is not None})
        return multiple(*admitted)

    def ring(self, bell: int | None) -> None:
        """The doorbell, which rings as soon as a call is recorded, or is lost."""
        for of in range(len(self.accounts)):
            if bell is not None and self.model(of).pending():
                self.settle_a_batch(of, bell)

    def recorded(self, quarters: Mapping[UUID, int]) -> None:
        charges = {call: self.asks[call].amount * part // 4 for call, part in quarters.items()}
        records = [factories.record(self.asks[call], charge) for call, charge in charges.items()]
        self.gateway.run(lambda database: usage.record(database, records))
        for call, charge in charges.items():
            self.model_of(call).record(call, charge)


@lru_cache
def price() -> PriceVersion:
    """A price so low that a swept call costs sometimes less and sometimes more than its hold."""
    return factories.price(factories.language_model(listed=False), input=INPUT_RATE, output=OUTPUT_RATE)


@pytest.mark.timeout(300 + 20 * EXAMPLES)  # Hypothesis takes up to 300 s to find the shortest story that goes wrong.
@pytest.mark.usefixtures("committed")
def test_whatever_happens_to_a_wallet_the_database_agrees_with_a_model_of_integers() -> None:
    print(f"{EXAMPLES} stories of {STEPS} steps, seed {seeds.WALLET_MODEL}")  # noqa: T201  # Shown when it fails.
    run_state_machine_as_test(
        WalletMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
