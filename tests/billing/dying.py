"""A process that is killed at a chosen step of what it does, where a step is whatever anybody outside could notice.

That is every statement that writes and every request sent to Stripe, before it and after it: between two of them only
a commit changes what outlives the process, so whoever dies at each step has died everywhere.
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
        if text.startswith(IDLE):
            return execute(sql, params, many, context)
        self.take(f"before {text[:60]}")
        result = execute(sql, params, many, context)
        self.take(f"after {text[:60]}")
        return result


def walk(work: Callable[..., None], arguments: tuple[Any, ...], last: int | None, answers: Any) -> None:
    """Run `work` until step `last`, or to its end; then the answer is the list of its steps."""
    steps = Steps(last)
    send = requests.Session.request

    def request(session: requests.Session, method: str, url: str, *rest: Any, **options: Any) -> requests.Response:
        steps.take(f"before {method.upper()} {url}")
        response = send(session, method, url, *rest, **options)
        steps.take(f"after {method.upper()} {url}")
        return response

    requests.Session.request = request  # type: ignore[method-assign, assignment]
    with connection.execute_wrapper(steps.statement):
        work(*arguments)
    answers.put(steps.taken)
