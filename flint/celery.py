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
    name: {"task": f"billing.tasks.{name}", "schedule": seconds, "options": {"expires": max(seconds, 10)}}
    for name, seconds in {
        "settle_pending": 5,
        "sweep_holds": 10,
        "expire_credit": 60,
        "check_books": 300,
        "make_partitions": 6 * 3600,
    }.items()
}
