"""What came in, what was used, and the balance after each line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import exports, periods, statement_papers, statements
from billing.views.downloads import download, download_paper


@require_safe
@never_cache
@requires(Permission.SEE_MONEY)
def statement(request: HttpRequest, membership: Membership) -> HttpResponse:
    today = datetime.now(UTC).date()
    month = _month(request.GET.get("month", ""), today)
    months = statements.months(membership.account)
    if month is None:
        return render(request, "billing/statement.html", {"months": months, "wrong": True}, status=400)
    opened = _day(request.GET.get("day", ""))
    found = statements.of_month(membership.account, month, opened=opened)
    facts = {
        "months": months,
        "statement": found,
        "opened": opened,
        "is_current": month == today.replace(day=1),
        "last_day": periods.month_of(month).last_day,
    }
    return render(request, "billing/statement.html", facts)


@require_GET
@never_cache
@requires(Permission.SEE_MONEY)
def statement_csv(request: HttpRequest, membership: Membership) -> HttpResponseBase:
    month = _month(request.GET.get("month", ""), datetime.now(UTC).date())
    if month is None:
        return _wrong(request, membership)
    found = statements.of_month(membership.account, month)
    return download(membership, f"statement-{month:%Y-%m}", exports.STATEMENT, exports.statement(found))


@require_safe
@never_cache
@requires(Permission.SEE_MONEY)
def statement_paper(request: HttpRequest, membership: Membership) -> HttpResponse:
    now = datetime.now(UTC)
    month = _month(request.GET.get("month", ""), now.date())
    if month is None:
        return _wrong(request, membership)
    facts = {
        "paper": statement_papers.paper(membership.account, month, now=now),
        "back": "billing:statement",
        "pdf_url": f"{reverse('billing:statement_pdf')}?month={month:%Y-%m}",
    }
    return render(request, "billing/paper.html", facts)


@require_GET
@never_cache
@requires(Permission.SEE_MONEY)
def statement_pdf(request: HttpRequest, membership: Membership) -> HttpResponse:
    now = datetime.now(UTC)
    month = _month(request.GET.get("month", ""), now.date())
    if month is None:
        return _wrong(request, membership)
    paper = statement_papers.paper(membership.account, month, now=now)
    return download_paper(membership, f"statement-{month:%Y-%m}", paper)


def _wrong(request: HttpRequest, membership: Membership) -> HttpResponse:
    months = statements.months(membership.account)
    return render(request, "billing/statement.html", {"months": months, "wrong": True}, status=400)


def _month(text: str, today: date) -> date | None:
    """The first day of the month; the current one where none is asked for."""
    if not text:
        return today.replace(day=1)
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", text, re.ASCII):
        return None
    month = date.fromisoformat(f"{text}-01")
    return month if month <= today else None


def _day(text: str) -> date | None:
    if not re.fullmatch(r"20\d\d-\d\d-\d\d", text, re.ASCII):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
