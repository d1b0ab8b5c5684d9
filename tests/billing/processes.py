"""Real processes for the tests of money: gateways that race for wallets, and settlers that are killed.

They are forked from a small server process that has loaded Django once, so sixteen of them start in a second.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Barrier, Event
from typing import Any
from uuid import UUID, uuid4

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from django.conf import settings
from django.db import connection
from psycopg import AsyncConnection

from accounts.models import Account, User
from billing import clock, ledger, vouchers
from billing.ledger import Ask
from billing.models import Payment
from billing.payments import customers, disputes, recharge, reconcile, refunds, stripe_api
from tests import factories

SECONDS = 30  # The longest that a test waits for its processes.


def context() -> ForkServerContext:
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload([__name__])
    return chosen


@dataclass(frozen=True)
class Settler:
    """A process that settles the same wallets again and again, under a name that the database knows."""

    name: str
    process: ForkServerProcess
    begun: Event

    def wait_until_begun(self) -> None:
        assert self.begun.wait(SECONDS)

    def kill(self) -> None:
        assert self.process.is_alive()  # It never ends by itself.
        self.process.kill()


@contextmanager
def settler(account_ids: Sequence[int], seed: float) -> Iterator[Settler]:
    name, begun = f"settler {uuid4()}", context().Event()
    with running(settle_in_any_order, account_ids, name, seed, begun) as process:
        yield Settler(name, process, begun)


@contextmanager
def running(target: Callable[..., object], *arguments: Any) -> Iterator[ForkServerProcess]:
    """A process that runs `target`, and is gone after the block, whatever happened."""
    process = context().Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(SECONDS)
        process.close()


def race_to_reserve(seed: int, account_ids: Sequence[int], give_back: bool, start: Barrier, answers: Any) -> None:
    """One gateway: 60 calls of 10 for random wallets, in batches, as the gateway asks. Puts how many it has admitted.

    With `give_back` some of its calls fail free, and what they give back may be admitted again.
    """
    chance = random.Random(seed)
    batches = [[factories.ask(chance.choice(account_ids), 10) for _ in range(chance.randint(1, 12))] for _ in range(10)]

    async def work() -> int:
        admitted = 0
        options = "-c lock_timeout=10s"
        async with await AsyncConnection.connect(
            os.environ["DATABASE_URL"], autocommit=True, options=options
        ) as database:
            for batch in batches:
                ids = await _admit(database, batch)
                admitted += len(ids)
                if give_back:
                    free = chance.sample(ids, len(ids) // 3)
                    admitted -= await ledger.release(database, free, reason="race")
        return admitted

    start.wait(SECONDS)
    try:
        answers.put(asyncio.run(work()))
    except Exception as fault:
        answers.put(repr(fault))


async def _admit(database: AsyncConnection[object], asks: Sequence[Ask]) -> list[UUID]:
    done = await ledger.reserve(database, asks, wait=False)
    locked = [ask for ask, answer in zip(asks, done, strict=True) if answer.locked]
    if locked:
        done += await ledger.reserve(database, locked, wait=True)
    refused = {answer.id for answer in done if not answer.admitted and not answer.locked}
    for ask in asks:
        if ask.id in refused:
            done += await ledger.reserve(database, [ask], wait=True)
    return [answer.id for answer in done if answer.admitted]


def settle_in_any_order(account_ids: Sequence[int], name: str, seed: float, begun: Event) -> None:
    """A settler that walks the wallets in another order each time, and in the database goes by its name."""
    ledger.SETTLEMENT_BATCH = 3  # Many small batches: more moments to be killed in.
    chance = random.Random(seed)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('application_name', %s, false)", [name])
    begun.set()
    while True:
        for account_id in chance.sample(account_ids, len(account_ids)):
            ledger.settle(account_id=account_id)


def move_for_ever(account_id: int, causes: Sequence[str], begun: Event) -> None:
    """Somebody who credits 10 and debits 3 for every cause, again and again."""
    account = Account.objects.get(pk=account_id)
    begun.set()
    while True:
        for cause in causes:
            factories.credit(account, 10, cause=f"{cause}:credit")
            factories.debit(account, 3, cause=f"{cause}:debit")


def refund_for_ever(account_id: int, causes: Sequence[str], begun: Event) -> None:
    """Somebody who holds and gives back, then holds and posts 10 for every cause, again and again.

    Whatever was posted already needs no hold any more, but gets one, which ends with it.
    """
    account = Account.objects.get(pk=account_id)
    begun.set()
    while True:
        for cause in causes:
            with suppress(ledger.InsufficientBalance):
                ledger.release_refund(id=factories.refund_hold(account, 10))
                factories.pay_back(account, 10, cause=cause, hold=factories.refund_hold(account, 10))


def refund_once(stripe_url: str, payment_id: UUID, cents: int, by: int) -> None:
    """Somebody of our staff who refunds, and need not get to the end."""
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_sim_tests", stripe_url
    payment, user = Payment.objects.get(pk=payment_id), User.objects.get(pk=by)
    refunds.start(form=uuid4(), payment=payment, cents=cents, reason="A test", by=user)


def sweep_refunds_later(stripe_url: str) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_sim_tests", stripe_url
    refunds.sweep(now=clock.now() + timedelta(minutes=2))


def apply_disputes_for_ever(stripe_url: str, dispute_ids: Sequence[str], begun: Event) -> None:
    """A worker that is told of the same disputes again and again; it has begun when Stripe's client is there."""
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_sim_tests", stripe_url
    stripe_api.dispute(dispute_ids[0])
    begun.set()
    while True:
        for dispute_id in dispute_ids:
            disputes.apply(dispute_id)


def reconcile_for_ever(key: str, stripe_url: str, begun: Event) -> None:
    """Somebody who reads all of this Stripe, again and again."""
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = key, stripe_url
    begun.set()
    while True:
        with suppress(reconcile.Busy):
            reconcile.run(now=clock.now(), tell=lambda _: None)
        reconcile.reach_back(to=reconcile.BEGINNING)


def kill_at_random(target: Callable[..., None], *arguments: Any, seed: int, seconds: float) -> None:
    """Start `target` and kill it at a random moment within so many seconds after it has begun."""
    begun = context().Event()
    with running(target, *arguments, begun):
        assert begun.wait(SECONDS)
        time.sleep(random.Random(seed).uniform(0, seconds))


def redeem_once(account_id: int, code: str, by: int) -> None:
    account, user = Account.objects.get(pk=account_id), User.objects.get(pk=by)
    vouchers.redeem(account=account, code=code, form_id=uuid4(), now=clock.now(), by=user)


def redeem_for_ever(account_ids: Sequence[int], code: str, by: int, begun: Event) -> None:
    """Everybody tries the code, again and again."""
    begun.set()
    while True:
        for account_id in account_ids:
            with suppress(vouchers.Refused):
                redeem_once(account_id, code, by)


def recharge_once(account_id: int, key: str, stripe: str) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = key, stripe
    recharge.work(account_id)


def forget_cards(key: str, stripe: str) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = key, stripe
    customers.forget_replaced_cards()
