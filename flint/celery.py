"""The Celery app and the periodic schedule."""

import os

from celery import Celery
from kombu.transport.redis import Channel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")

# When the broker goes away, kombu would put the messages in hand back through the connection that it has just lost, and
# the worker dies of that. They come back by themselves after the visibility timeout, and the sweeps do not need them.
Channel.do_restore = False

app = Celery("flint")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# A task that waited longer than its own interval is stale: the next one does its work.
app.conf.beat_schedule = {
    name: {"task": f"{app_name}.tasks.{name}", "schedule": seconds, "options": {"expires": max(seconds, 10)}}
    for app_name, name, seconds in (
        ("billing", "settle_pending", 5),
        ("billing", "sweep_holds", 10),
        ("billing", "expire_credit", 60),
        ("billing", "check_books", 300),
        ("billing", "make_partitions", 6 * 3600),
        ("gateway", "forget_answers", 600),
        ("gateway", "forget_attempts", 3600),
    )
}
