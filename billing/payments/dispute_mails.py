"""Telling the operator of a dispute: what the bank wants, and until when it takes an answer."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import Sum
from django.template.loader import render_to_string

from billing import money, outbox
from billing.models import DisputeMail
from billing.payments import stripe_api


def send_due() -> int:
    """Send what is due; returns how many were sent."""
    return outbox.send_due(DisputeMail, _message)


def _message(mail: DisputeMail, now: datetime) -> EmailMessage:
    """Written when it is sent, so it tells of the dispute as it is then."""
    dispute, payment = mail.dispute, mail.dispute.payment
    moved = dispute.movements.aggregate(cents=Sum("cents", default=0))["cents"]
    amount = money.display_cents(dispute.amount_cents)
    context = {
        "dispute": dispute,
        "account": payment.account,
        "amount": amount,
        "paid": money.display_cents(payment.total_cents or payment.amount_cents),
        "paid_at": payment.paid_at,
        "taken": money.display_cents(-moved) if moved else "",
        "reason": dispute.reason.replace("_", " "),
        "days_left": dispute.days_left(now),
        "at_stripe": stripe_api.dashboard(payment.payment_intent, livemode=payment.livemode),
        "in_the_admin": outbox.link("admin:billing_dispute_change", dispute.pk),
    }
    what = "Inquiry about" if dispute.is_inquiry else "Dispute of"
    due = f"answer by {dispute.due_by:%Y-%m-%d}" if dispute.due_by and dispute.is_unanswered else ""
    subject = f"{what} {amount}: {due or dispute.get_status_display()}"
    body = render_to_string("billing/mails/dispute.txt", context)
    return EmailMessage(subject, body, None, [settings.SUPPORT_EMAIL])
