"""Celery's edge of the gateway."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from billing import clock
from gateway import attempts, idempotency


@shared_task
def forget_answers(**_ignored: Any) -> None:
    idempotency.forget(now=clock.now())


@shared_task
def forget_attempts(**_ignored: Any) -> None:
    attempts.forget(now=clock.now())
