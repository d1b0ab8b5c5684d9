"""The Celery app and the periodic schedule."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")

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
