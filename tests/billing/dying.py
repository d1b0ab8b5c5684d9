"""A process that is killed at a chosen step of what it does, where a step is what leaves a trace outside of it.

That is every statement that writes and every request that asks Stripe to do something. It dies just before the next
step, so with all that came before it; what is not committed by then is as if it had not begun. Whoever dies once before
each step, and once after the last, has died in every state that there is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import requests
from django.db import connection

IDLE = ("SELECT", "SAVEPOINT", "RELEASE")


class Steps:
    """Counts them, and does not survive number `last`."""

    def __init__(self, last: int | None) -> None:
        self.last = last
        self.taken: list[str] = []

    def take(self, what: str) -> None:
        if len(self.taken) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.taken.append(what)

    def statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        text = " ".join(str(sql).split())
        if not text.startswith(IDLE):
            self.take(text[:60])
        return execute(sql, params, many, context)


def walk(work: Callable[..., None], arguments: tuple[Any, ...], last: int | None, answers: Any) -> None:
    """Run `work` until step `last`, or to its end; then the answer is the list of its steps."""
    steps = Steps(last)
    send = requests.Session.request

    def request(session: requests.Session, method: str, url: str, *rest: Any, **options: Any) -> requests.Response:
        if method.upper() != "GET":
            steps.take(f"{method.upper()} {url}")
        return send(session, method, url, *rest, **options)

    requests.Session.request = request  # type: ignore[method-assign, assignment]
    with connection.execute_wrapper(steps.statement):
        work(*arguments)
    steps.take("the end")
    answers.put(steps.taken)
