"""The mails about low balances: written when they are sent, with the balance of that moment."""

from __future__ import annotations

from datetime import datetime

from django.core.mail import EmailMessage
from django.db.models import Sum
from django.template.loader import render_to_string

from accounts import access
from accounts.access import Permission
from accounts.models import Account, Membership
from billing import funds, money, outbox
from billing.models import LowBalanceMail, UsageHour

SHOWN_MAILS = 20


def send_due() -> int:
    """Send what is due; returns how many were sent."""
    return outbox.send_due(LowBalanceMail, _message)


def recent(account: Account) -> list[LowBalanceMail]:
    found = LowBalanceMail.objects.filter(account=account).select_related("recipient").order_by("-id")
    return list(found[:SHOWN_MAILS])


def _message(mail: LowBalanceMail, now: datetime) -> EmailMessage | None:
    """None where the money is back, or the recipient has no business with it any more."""
    wallet = funds.wallet_of(mail.account)
    member = Membership.objects.filter(account=mail.account, user=mail.recipient).first()
    if wallet.posted >= mail.threshold or not access.may(member, Permission.MANAGE_MONEY):
        return None
    day_ago = now - funds.DAY
    hours = UsageHour.objects.filter(account=mail.account, hour__gt=day_ago.replace(minute=0, second=0, microsecond=0))
    spent = hours.aggregate(charge=Sum("charge", default=0))["charge"]
    lots = funds.promotional(mail.account, now=now)
    context = {
        "account": mail.account,
        "balance": money.display(wallet.posted),
        "threshold": money.display(mail.threshold),
        "below_zero": wallet.posted <= 0,
        "spent": money.display(spent) if spent else "",
        "runway": funds.runway(available=wallet.posted, lots=lots, spent=spent, over=funds.DAY, now=now),
        "funds_link": outbox.link("billing:funds"),
        "alerts_link": outbox.link("billing:alerts"),
    }
    subject = f"{mail.account}: {money.display(wallet.posted)} left on Flint"
    body = render_to_string("billing/mails/low_balance.txt", context)
    return EmailMessage(subject, body, None, [mail.recipient.email])
