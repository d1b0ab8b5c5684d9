"""Celery's edges: the doorbell of settlement, and the sweeps that find whatever no doorbell rang for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore
from structlog.contextvars import bind_contextvars

from billing import (
    balance_mails,
    balance_watch,
    books,
    clock,
    closing,
    document_mails,
    holds,
    partitions,
    recharge_mails,
    refund_mails,
    settlement,
)
from billing.payments import customers, dispute_mails, fulfilment, inbox, recharge, reconcile, refunds

logger = logging.getLogger(__name__)


@shared_task
def settle_usage(*, account_ids: list[int], request_ids: Sequence[str] = (), **_ignored: Any) -> None:
    """`request_ids`: whose calls these are, for the log only."""
    bind_contextvars(request_ids=list(request_ids))
    settlement.settle_accounts(account_ids=account_ids)
    _ring_for_recharges(recharge.due(account_ids))


@shared_task
def settle_pending(**_ignored: Any) -> None:
    settlement.settle_accounts(account_ids=settlement.pending_accounts())


@shared_task
def sweep_holds(**_ignored: Any) -> None:
    settlement.settle_accounts(account_ids=holds.sweep())


@shared_task
def expire_credit(**_ignored: Any) -> None:
    settlement.expire_credit(now=clock.now())


@shared_task
def watch_balances(**_ignored: Any) -> None:
    balance_watch.sweep()


@shared_task
def watch_all_balances(**_ignored: Any) -> None:
    balance_watch.sweep_all()


# A mail server may take 10 s for each; less than the broker's visibility timeout.
@shared_task(soft_time_limit=200, time_limit=240)
def mail_low_balances(**_ignored: Any) -> None:
    balance_mails.send_due()


@shared_task(soft_time_limit=200, time_limit=240)
def mail_documents(**_ignored: Any) -> None:
    document_mails.send_due()


@shared_task
def write_statement_mails(**_ignored: Any) -> None:
    document_mails.write_statements(now=clock.now())


@shared_task(soft_time_limit=200, time_limit=240)
def mail_refunds(**_ignored: Any) -> None:
    refund_mails.send_due()


@shared_task
def finish_closings(**_ignored: Any) -> None:
    closing.finish_all(now=clock.now())


@shared_task
def recharge_account(*, account_id: int, **_ignored: Any) -> None:
    recharge.work(account_id)


@shared_task
def sweep_recharges(**_ignored: Any) -> None:
    recharge.tidy()
    _ring_for_recharges(recharge.due())


@shared_task(soft_time_limit=200, time_limit=240)  # As for the mails above.
def mail_recharges(**_ignored: Any) -> None:
    recharge_mails.send_due()


def _ring_for_recharges(account_ids: Collection[int]) -> None:
    """Each by a task of its own, so that nobody waits for the bank of another. What is lost, the sweep finds."""
    for account_id in account_ids:
        try:
            recharge_account.apply_async(kwargs={"account_id": account_id}, retry=False, expires=60)
        except Exception as error:  # kombu raises transport errors of many kinds; none of them matters here.
            logger.warning("no doorbell for the recharge of account %s: %s", account_id, error)


@shared_task
def make_partitions(**_ignored: Any) -> None:
    partitions.ensure(now=clock.now())
    if stray := partitions.stray_rows():
        logger.error("%d usage records lie in the DEFAULT partition: make_partitions did not run in time", stray)


@shared_task
def work_stripe_event(*, event_id: str, **_ignored: Any) -> None:
    inbox.work(event_id)


@shared_task
def sweep_stripe_events(**_ignored: Any) -> None:
    inbox.sweep()


@shared_task
def sweep_payments(**_ignored: Any) -> None:
    fulfilment.sweep(now=clock.now())


@shared_task
def forget_replaced_cards(**_ignored: Any) -> None:
    customers.forget_replaced_cards()


@shared_task
def sweep_refunds(**_ignored: Any) -> None:
    refunds.sweep(now=clock.now())


# A mail server may take 10 s for each; less than the broker's visibility timeout.
@shared_task(soft_time_limit=200, time_limit=240)
def mail_disputes(**_ignored: Any) -> None:
    dispute_mails.send_due()


# A run ends soon after reconcile.RUN_SECONDS; less than the broker's visibility timeout.
@shared_task(soft_time_limit=200, time_limit=240)
def reconcile_stripe(**_ignored: Any) -> None:
    try:
        outcome = reconcile.run(now=clock.now(), tell=logger.info)
    except reconcile.Busy:
        return
    if outcome.errors:
        raise Ignore  # Not done, so its age grows.


@shared_task
def reconcile_stripe_deeply(**_ignored: Any) -> None:
    reconcile.reach_back(to=clock.now() - reconcile.DEEP)


# It may read for minutes after a busy day; less than the broker's visibility timeout, or it would run twice.
@shared_task(soft_time_limit=240, time_limit=280)
def check_books(**_ignored: Any) -> None:
    for finding in books.check(full=False):
        if finding.broken:
            logger.critical(
                "books: %s is broken %d times: %s", finding.promise.name, finding.broken, finding.promise.text
            )
