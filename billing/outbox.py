"""Sending the mails that wait in a table, each by one worker at a time, again where the mail server failed.

A mail is taken by moving its next attempt, and sent outside of any transaction. A worker that is killed between sending
and saying so sends again; both have the same Message-ID, so that a mail program shows one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import parseaddr
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.urls import reverse

from billing import clock
from billing.models.mails import OutboxMail

logger = logging.getLogger(__name__)

# How long after each attempt that failed the next one is made; then it is given up.
PAUSES = [timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360)]
LEASE = timedelta(minutes=5)  # More than a mail server may take: a mail whose worker is gone is sent again then.
MOST_AT_ONCE = 200
State = OutboxMail.State
Mail = TypeVar("Mail", bound=OutboxMail)


def send_due(kind: type[Mail], message: Callable[[Mail, datetime], EmailMessage | None]) -> int:
    """Send what is due of this kind; returns how many were sent. Safe to repeat and to race.

    `message` writes a mail when it is sent; None drops it, because it is not needed any more.
    """
    return sum(_send(mail, message) for mail in _taken(kind))


def send_again(chosen: QuerySet[Any]) -> int:
    """Let those of these mails that were given up wait again, with all attempts before them; returns how many."""
    given_up = chosen.filter(state=State.FAILED)
    return given_up.update(state=State.WAITING, attempts=0, error="", next_attempt_at=Now())


def link(name: str, *args: object) -> str:
    """The whole address of a page, as a mail needs it."""
    return settings.SITE_URL.rstrip("/") + reverse(name, args=args)


def _taken(kind: type[Mail]) -> Iterator[Mail]:
    """One after another, each taken just before it is sent."""
    for _ in range(MOST_AT_ONCE):
        with connection.cursor() as cursor:
            cursor.execute(_TAKE.format(table=kind._meta.db_table), [LEASE.total_seconds()])
            row = cursor.fetchone()
        if row is None:
            return
        yield kind._default_manager.get(pk=row[0])


def _send(mail: Mail, message: Callable[[Mail, datetime], EmailMessage | None]) -> bool:
    now = clock.now()
    try:
        written = message(mail, now)
        if written is None:
            _note(mail, state=State.DROPPED)
            return False
        # An account's name is in some, and may hold more than one line of a header may.
        written.subject = " ".join(written.subject.split())
        _, sender = parseaddr(settings.DEFAULT_FROM_EMAIL)
        written.extra_headers["Message-ID"] = f"<{mail._meta.model_name}-{mail.pk}@{sender.rpartition('@')[2]}>"
        written.send()
    except SoftTimeLimitExceeded:
        raise  # The time of the run is over; the mail waits for the next one.
    except OSError as fault:  # SMTP's own errors are OSErrors too.
        _failed(mail, fault, now)
        return False
    except Exception as fault:
        # A mail that cannot be written must not keep those behind it waiting, and must be found.
        logger.exception("%s could not be written", mail)
        _failed(mail, fault, now)
        return False
    _note(mail, state=State.SENT, sent_at=now, error="")
    return True


def _failed(mail: OutboxMail, fault: Exception, now: datetime) -> None:
    error = type(fault).__name__
    logger.error("%s was not sent, attempt %d: %s", mail, mail.attempts, error)
    if mail.attempts > len(PAUSES):
        _note(mail, state=State.FAILED, error=error)
        return
    _note(mail, next_attempt_at=now + PAUSES[mail.attempts - 1], error=error)


def _note(mail: OutboxMail, **fields: object) -> None:
    type(mail)._default_manager.filter(pk=mail.pk, state=State.WAITING).update(**fields)


_TAKE = """
UPDATE {table}
   SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + %s * interval '1 second'
 WHERE id = (SELECT id FROM {table}
              WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp()
              ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""
