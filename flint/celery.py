"""The Celery app and the periodic schedule."""

import os
from typing import Any

import structlog
from celery import Celery, Task, signals
from kombu.transport.redis import Channel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")

# When the broker goes away, kombu would put the messages in hand back through the connection that it has just lost, and
# the worker dies of that. They come back by themselves after the visibility timeout, and the sweeps do not need them.
Channel.do_restore = False

app = Celery("flint")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def _keep_our_logging(**_ignored: Any) -> None:
    """That somebody listens is enough: Celery then leaves logging as Django's settings made it."""


@signals.task_prerun.connect
def _begin_to_log(task_id: str, task: Task[..., Any], **_ignored: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _end_to_log(**_ignored: Any) -> None:
    structlog.contextvars.clear_contextvars()


# A task that waited longer than its own interval is stale: the next one does its work.
app.conf.beat_schedule = {
    name: {"task": f"{app_name}.tasks.{name}", "schedule": seconds, "options": {"expires": max(seconds, 10)}}
    for app_name, name, seconds in (
        ("billing", "settle_pending", 5),
        ("billing", "sweep_holds", 10),
        ("billing", "expire_credit", 60),
        ("billing", "check_books", 300),
        ("billing", "make_partitions", 6 * 3600),
        ("gateway", "probe_backends", 5),
        ("gateway", "forget_answers", 600),
        ("gateway", "forget_attempts", 3600),
    )
}
