"""The Celery app and the periodic schedule."""

import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import structlog
from celery import Celery, Task, signals
from django import db
from kombu.transport.redis import Channel

from billing import chores

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")

# When the broker goes away, kombu would put the messages in hand back through the connection that it has just lost, and
# the worker dies of that. They come back by themselves after the visibility timeout, and the sweeps do not need them.
Channel.do_restore = False

logger = logging.getLogger(__name__)

app = Celery("flint")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def _keep_our_logging(**_ignored: Any) -> None:
    """That somebody listens is enough: Celery then leaves logging as Django's settings made it."""


@signals.worker_init.connect
def _insist_on_real_money(**_ignored: Any) -> None:
    """A worker that starts without the database waits for it here: it could do nothing else."""
    from billing.payments import real_money  # Models need Django to be set up, which a worker does late.

    while True:
        try:
            real_money.insist()
            break
        except real_money.NotReal as refusal:
            sys.exit(str(refusal))
        except db.Error as silent:
            logger.warning("whether the books hold money of tests is not known yet: %s", type(silent).__name__)
            time.sleep(1)
        finally:
            db.connection.close()  # Not for the processes that are forked off.


@signals.task_prerun.connect
def _begin_to_log(task_id: str, task: Task[..., Any], **_ignored: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _end_to_log(**_ignored: Any) -> None:
    structlog.contextvars.clear_contextvars()


@signals.before_task_publish.connect
def _say_when(headers: dict[str, Any], **_ignored: Any) -> None:
    headers["sent_at"] = time.time()


@signals.task_success.connect
def _note_done(sender: Task[..., Any], **_ignored: Any) -> None:
    """Celery logs what fails in here, and goes on."""
    every = _EVERY_SECONDS.get(sender.name)
    sent_at = sender.request.get("sent_at")
    if every is not None and sent_at is not None:
        chores.note_done(name=sender.name, every_seconds=every, sent_at=datetime.fromtimestamp(sent_at, UTC))


# A task that waited longer than its own interval is stale: the next one does its work.
app.conf.beat_schedule = {
    name: {"task": f"{app_name}.tasks.{name}", "schedule": seconds, "options": {"expires": max(seconds, 10)}}
    for app_name, name, seconds in (
        ("billing", "settle_pending", 5),
        ("billing", "sweep_holds", 10),
        ("billing", "expire_credit", 60),
        ("billing", "sweep_stripe_events", 10),
        ("billing", "sweep_payments", 60),
        ("billing", "forget_replaced_cards", 60),
        ("billing", "sweep_refunds", 60),
        ("billing", "mail_disputes", 30),
        ("billing", "reconcile_stripe", 600),
        ("billing", "reconcile_stripe_deeply", 24 * 3600),
        ("billing", "watch_balances", 30),
        ("billing", "watch_all_balances", 3600),
        ("billing", "mail_low_balances", 30),
        ("billing", "mail_documents", 15),
        ("billing", "write_statement_mails", 3600),
        ("billing", "mail_refunds", 30),
        ("billing", "sweep_recharges", 10),
        ("billing", "mail_recharges", 30),
        ("billing", "finish_closings", 60),
        ("billing", "check_books", 300),
        ("billing", "make_partitions", 6 * 3600),
        ("gateway", "probe_backends", 5),
        ("gateway", "forget_answers", 600),
        ("gateway", "forget_attempts", 3600),
    )
}
_EVERY_SECONDS: dict[str, int] = {entry["task"]: entry["schedule"] for entry in app.conf.beat_schedule.values()}
