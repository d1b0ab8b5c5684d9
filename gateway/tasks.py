"""Celery's edge of the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from celery import shared_task

from billing import clock
from gateway import attempts, idempotency, rounds


@shared_task
def forget_answers(**_ignored: Any) -> None:
    idempotency.forget(now=clock.now())


@shared_task
def forget_attempts(**_ignored: Any) -> None:
    attempts.forget(now=clock.now())


@shared_task
def probe_backends(**_ignored: Any) -> None:
    asyncio.run(rounds.make())
