"""The mails that tell a customer that money goes back to a card, and where it did not arrive."""

from __future__ import annotations

from datetime import datetime

from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from billing import details, money, outbox
from billing.models import Refund, RefundMail


def queue(refund: Refund, about: RefundMail.About) -> None:
    """Write the mail, in the transaction that writes down what it tells."""
    RefundMail.objects.create(refund=refund, about=about)


def send_due() -> int:
    """Send what is due; returns how many were sent."""
    return outbox.send_due(RefundMail, _message)


def _message(mail: RefundMail, now: datetime) -> EmailMessage | None:
    """None where the refund failed meanwhile, of which another mail tells, or where nobody is left."""
    refund = mail.refund
    failed = mail.about == RefundMail.About.FAILED
    if refund.state == Refund.State.FAILED and not failed:
        return None
    payment = refund.payment
    to = details.contacts(payment.account)
    if not to:
        return None
    amount = money.display_cents(refund.amount_cents)
    context = {
        "account": payment.account,
        "amount": amount,
        "tax": money.display_cents(refund.tax_cents) if refund.tax_cents else "",
        "taken": money.display(refund.transfer.amount) if refund.transfer else "",
        "paid_on": f"{payment.paid_at:%Y-%m-%d}",
        "paid": money.display_cents(payment.total_cents or 0),
        "failed": failed,
        "simulated": not payment.livemode,
        "link": outbox.link("billing:payment", payment.pk),
    }
    told = "did not reach the card" if failed else "is on its way back to the card"
    subject = f"{payment.account}: {amount} {told}"
    body = render_to_string("billing/mails/refund.txt", context)
    return EmailMessage(subject, body, None, to)
