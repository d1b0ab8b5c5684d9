"""The mails about auto-recharge where it did not work out: each tells what that means, and the way on."""

from __future__ import annotations

from datetime import datetime

from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from accounts import access
from accounts.access import Permission
from accounts.models import Membership
from billing import funds, money, outbox, payment_log
from billing.models import RechargeMail, StripeCustomer

About = RechargeMail.About
SUBJECTS = {
    About.DECLINED: "your card could not be charged; {amount} was not added on Flint",
    About.CONFIRM: "your bank wants you to confirm {amount} on Flint",
    About.STOPPED: "auto-recharge on Flint has stopped",
}


def send_due() -> int:
    """Send what is due; returns how many were sent."""
    return outbox.send_due(RechargeMail, _message)


def _message(mail: RechargeMail, now: datetime) -> EmailMessage | None:
    """None where the recipient has no business with it any more."""
    member = Membership.objects.filter(account=mail.account, user=mail.recipient).first()
    if not access.may(member, Permission.MANAGE_MONEY):
        return None
    amount = money.display_cents(mail.payment.amount_cents) if mail.payment else ""
    context = {
        "mail": mail,
        "account": mail.account,
        "amount": amount,
        "why": payment_log.line_of(mail.payment).why if mail.payment else "",
        "card": StripeCustomer.objects.filter(account=mail.account).exclude(payment_method="").first(),
        "balance": money.display(funds.wallet_of(mail.account).posted),
        "recharge_link": outbox.link("billing:auto_recharge"),
    }
    subject = f"{mail.account}: {SUBJECTS[About(mail.about)].format(amount=amount)}"
    body = render_to_string("billing/mails/recharge.txt", context)
    return EmailMessage(subject, body, None, [mail.recipient.email])
