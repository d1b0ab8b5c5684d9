"""Receipts, as pages that print well and as PDF."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_safe

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import payment_log, receipts
from billing.models import Receipt
from billing.views.downloads import download_paper


@require_safe
@never_cache
@requires(Permission.SEE_MONEY)
def receipt(request: HttpRequest, membership: Membership, number: str) -> HttpResponse:
    found = _find(membership, number)
    facts = {
        "paper": receipts.paper(found),
        "back": "billing:payments",
        "since": payment_log.since_paid(found.payment),
        "receipt_url": found.payment.receipt_url,
        "pdf_url": reverse("billing:receipt_pdf", args=[number]),
    }
    return render(request, "billing/paper.html", facts)


@require_GET
@never_cache
@requires(Permission.SEE_MONEY)
def receipt_pdf(request: HttpRequest, membership: Membership, number: str) -> HttpResponse:
    found = _find(membership, number)
    return download_paper(membership, f"receipt-{found.number}", receipts.paper(found))


def _find(membership: Membership, number: str) -> Receipt:
    found = receipts.find(membership.account, number)
    if found is None:
        raise Http404
    return found
