"""Sending the mails about low balances, each by one worker at a time, again where the mail server failed.

A mail is taken by moving its next attempt, and sent outside of any transaction. A worker that is killed between sending
and saying so sends again; both have the same Message-ID, so that a mail program shows one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parseaddr

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection
from django.db.models import Sum
from django.template.loader import render_to_string
from django.urls import reverse

from accounts import access
from accounts.access import Permission
from accounts.models import Account, Membership
from billing import clock, funds, money
from billing.models import LowBalanceMail, UsageHour

logger = logging.getLogger(__name__)

# How long after each attempt that failed the next one is made; then it is given up.
PAUSES = [timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360)]
LEASE = timedelta(minutes=5)  # More than a mail server may take: a mail whose worker is gone is sent again then.
MOST_AT_ONCE = 200
SHOWN_MAILS = 20
State = LowBalanceMail.State


def send_due() -> int:
    """Send what is due; returns how many were sent. Safe to repeat and to race."""
    return sum(_send(mail) for mail in _taken())


def recent(account: Account) -> list[LowBalanceMail]:
    found = LowBalanceMail.objects.filter(account=account).select_related("recipient").order_by("-id")
    return list(found[:SHOWN_MAILS])


def _taken() -> Iterator[LowBalanceMail]:
    """One after another, each taken just before it is sent."""
    for _ in range(MOST_AT_ONCE):
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, [LEASE.total_seconds()])
            row = cursor.fetchone()
        if row is None:
            return
        yield LowBalanceMail.objects.select_related("account", "recipient").get(pk=row[0])


def _send(mail: LowBalanceMail) -> bool:
    now = clock.now()
    wallet = funds.wallet_of(mail.account)
    member = Membership.objects.filter(account=mail.account, user=mail.recipient).first()
    if wallet.posted >= mail.threshold or not access.may(member, Permission.MANAGE_MONEY):
        _note(mail, state=State.DROPPED)
        return False
    try:
        _message(mail, now).send()
    except OSError as fault:  # SMTP's own errors are OSErrors too.
        _failed(mail, fault, now)
        return False
    _note(mail, state=State.SENT, sent_at=now, error="")
    return True


def _failed(mail: LowBalanceMail, fault: OSError, now: datetime) -> None:
    error = type(fault).__name__
    logger.error("low balance mail %s was not sent, attempt %d: %s", mail.pk, mail.attempts, error)
    if mail.attempts > len(PAUSES):
        _note(mail, state=State.FAILED, error=error)
        return
    _note(mail, next_attempt_at=now + PAUSES[mail.attempts - 1], error=error)


def _note(mail: LowBalanceMail, **fields: object) -> None:
    LowBalanceMail.objects.filter(pk=mail.pk, state=State.WAITING).update(**fields)


def _message(mail: LowBalanceMail, now: datetime) -> EmailMessage:
    wallet = funds.wallet_of(mail.account)
    day_ago = now - funds.DAY
    hours = UsageHour.objects.filter(account=mail.account, hour__gt=day_ago.replace(minute=0, second=0, microsecond=0))
    spent = hours.aggregate(charge=Sum("charge", default=0))["charge"]
    lots = funds.promotional(mail.account, now=now)
    site = settings.SITE_URL.rstrip("/")
    context = {
        "account": mail.account,
        "balance": money.display(wallet.posted),
        "threshold": money.display(mail.threshold),
        "below_zero": wallet.posted <= 0,
        "spent": money.display(spent) if spent else "",
        "runway": funds.runway(available=wallet.posted, lots=lots, spent=spent, over=funds.DAY, now=now),
        "funds_link": site + reverse("billing:home"),
        "alerts_link": site + reverse("billing:alerts"),
    }
    subject = " ".join(f"{mail.account}: {money.display(wallet.posted)} left on Flint".split())
    _, sender = parseaddr(settings.DEFAULT_FROM_EMAIL)
    headers = {"Message-ID": f"<low-balance-{mail.pk}@{sender.rpartition('@')[2]}>"}
    body = render_to_string("billing/mails/low_balance.txt", context)
    return EmailMessage(subject, body, None, [mail.recipient.email], headers=headers)


_TAKE = """
UPDATE billing_lowbalancemail
   SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + %s * interval '1 second'
 WHERE id = (SELECT id FROM billing_lowbalancemail
              WHERE state = 'waiting' AND next_attempt_at <= clock_timestamp()
              ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""
