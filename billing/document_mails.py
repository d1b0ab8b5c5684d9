"""Receipts and monthly statements by mail: each once, to the address of the billing details or to who may add funds.

The mail of a receipt is written in the transaction that issues it; those of a month in one transaction, when no call of
that month can be charged any more. `billing.outbox` sends them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.template.loader import render_to_string

from accounts import audit
from accounts.audit import Action
from accounts.models import Account, User
from billing import details, money, outbox, pdf, periods, receipts, statement_papers, statements
from billing.models import DocumentMail, NoStatementMails, Receipt
from billing.paper import Paper

# After the end of a month: much longer than a call may take and is charged afterwards.
ALL_CHARGED = timedelta(hours=6)
LARGEST_ATTACHMENT = 1024 * 1024


def send_due() -> int:
    """Send what is due; returns how many were sent. Safe to repeat and to race."""
    return outbox.send_due(DocumentMail, _compose)


def write_statements(*, now: datetime) -> int:
    """Write the mails of the month that is over, once; returns how many. Safe to repeat and to race."""
    month = periods.month_before((now - ALL_CHARGED).date())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_BEGIN_MONTH, [month.since.date()])
        if not cursor.rowcount:
            return 0
        cursor.execute(_WRITE_STATEMENTS, {"first": month.since.date(), "last": month.last_day})
        return int(cursor.rowcount)


def statements_are_mailed(account: Account) -> bool:
    return not NoStatementMails.objects.filter(account=account).exists()


def mail_statements(*, account: Account, wanted: bool, by: User) -> None:
    """Whether a statement is mailed at the start of each month."""
    with transaction.atomic():
        if wanted:
            changed = NoStatementMails.objects.filter(account=account).delete()[0] > 0
        else:
            _row, changed = NoStatementMails.objects.get_or_create(account=account)
        if changed:
            audit.record(Action.STATEMENT_MAILS_SET, account=account, by=by, object="yes" if wanted else "no")


def _compose(mail: DocumentMail, now: datetime) -> EmailMessage | None:
    to = details.contacts(mail.account)
    if not to:
        return None
    if mail.receipt is not None:
        return _receipt(mail, mail.receipt, to)
    return _statement(mail, to, now) if statements_are_mailed(mail.account) else None


def _receipt(mail: DocumentMail, receipt: Receipt, to: list[str]) -> EmailMessage:
    paid = money.display_cents(receipt.total_cents)
    context = {
        "receipt": receipt,
        "credit": money.display_cents(receipt.net_cents),
        "tax": money.display_cents(receipt.tax_cents) if receipt.tax_cents else "",
        "paid": paid,
        "is_automatic": receipt.payment.kind == receipt.payment.Kind.RECHARGE,
        "is_simulated": not receipt.payment.livemode,
        "link": outbox.link("billing:receipt", receipt.number),
    }
    subject = f"Receipt {receipt.number}: {paid} paid to Flint"
    return _message(mail, subject, "receipt", context, to, receipts.paper(receipt), f"receipt-{receipt.number}.pdf")


def _statement(mail: DocumentMail, to: list[str], now: datetime) -> EmailMessage | None:
    assert mail.month is not None  # noqa: S101  The database promises it of a mail without a receipt.
    month = f"{mail.month:%Y-%m}"
    of = statements.of_month(mail.account, mail.month)
    context: dict[str, object] = {
        "month": f"{mail.month:%B %Y}",
        "opening": money.display(of.opening),
        "added": money.display(of.added),
        "taken": money.display(-of.taken),
        "closing": money.display(of.closing),
        "link": f"{outbox.link('billing:statement')}?month={month}",
        "alerts_link": outbox.link("billing:alerts"),
    }
    paper = statement_papers.paper(mail.account, mail.month, now=now)
    subject = f"Statement of {mail.month:%B %Y} for {mail.account} on Flint"
    return _message(mail, subject, "statement", context, to, paper, f"statement-{month}.pdf")


def _message(
    mail: DocumentMail, subject: str, template: str, context: dict[str, object], to: list[str], paper: Paper, name: str
) -> EmailMessage:
    """With the paper, unless it is too large for a mail; the link leads to it as well."""
    document = pdf.render(paper)
    fits = len(document) <= LARGEST_ATTACHMENT
    body = render_to_string(f"billing/mails/{template}.txt", context | {"account": mail.account, "is_attached": fits})
    message = EmailMessage(" ".join(subject.split()), body, None, to)
    if fits:
        message.attach(name, document, "application/pdf")
    return message


_BEGIN_MONTH = "INSERT INTO billing_statementmonth (month) VALUES (%s) ON CONFLICT DO NOTHING"
_WRITE_STATEMENTS = """
INSERT INTO billing_documentmail (account_id, month)
SELECT DISTINCT wallet_id, %(first)s::date
  FROM billing_transfer JOIN accounts_account account ON account.id = wallet_id
 WHERE day BETWEEN %(first)s AND %(last)s
   AND NOT EXISTS (SELECT FROM billing_nostatementmails declined WHERE declined.account_id = wallet_id)
ON CONFLICT DO NOTHING
"""
