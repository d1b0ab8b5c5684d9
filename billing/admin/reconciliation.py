"""Stripe's side of the money beside ours: its balance transactions, how far its lists were read, and the difference."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path
from django.utils.dateparse import parse_datetime
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing.admin.base import Column, ReadOnlyAdmin
from billing.models import BalanceTransaction, ClearingCheck, LedgerAccount, StripeCursor
from billing.templatetags.money import cents


def _in_currency(field: str) -> Column:
    """A column that shows dollars as such, and what is in another currency as Stripe counts it."""

    @admin.display(description=field.removesuffix("_cents"))
    def column(row: BalanceTransaction) -> SafeString | str:
        amount = getattr(row, field)
        return cents(amount) if row.currency == "usd" else f"{amount:,} {row.currency} cents"

    return column


class _Posted(admin.SimpleListFilter):
    title = "what became of it"
    parameter_name = "became"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waits"), ("refused", "Cannot be posted"), ("foreign", "Not ours"), ("ours", "Ours")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "waiting":
                return queryset.filter(posted_at=None)
            case "refused":
                return queryset.filter(posted_at=None).exclude(error="")
            case "foreign":
                return queryset.filter(foreign=True)
            case "ours":
                return queryset.filter(foreign=False, posted_at__isnull=False)
        return queryset


@admin.register(BalanceTransaction)
class BalanceTransactionAdmin(ReadOnlyAdmin):
    ordering = ["-created", "-id"]
    list_display = [
        "created", "id", "type", _in_currency("amount_cents"), _in_currency("fee_cents"), _in_currency("net_cents"),
        "source", "foreign", "posted_at", "livemode", "error",
    ]  # fmt: skip
    list_filter = [_Posted, "livemode"]
    search_fields = ["id__exact", "source__exact", "payment_intent__exact"]
    search_help_text = "An id of Stripe's: txn_, pi_, ch_, re_, po_."
    sortable_by = ()
    raw_id_fields = ["transfer", "fee_transfer"]

    def get_urls(self) -> list[URLPattern]:
        books = path("books/", self.admin_site.admin_view(stripe_and_books), name="billing_balancetransaction_books")
        return [books, *super().get_urls()]


@admin.register(StripeCursor)
class StripeCursorAdmin(ReadOnlyAdmin):
    list_display = ["list", "livemode", "since", "until", "read_at", "error"]


@admin.register(ClearingCheck)
class ClearingCheckAdmin(ReadOnlyAdmin):
    list_display = ["clearing", "difference", "unexplained_count", "checked_at"]

    @admin.display(description="difference")
    def difference(self, check: ClearingCheck) -> SafeString:
        return cents(check.difference_cents)


@require_safe
@never_cache
def stripe_and_books(request: HttpRequest) -> HttpResponse:
    """What the last comparison found, so that nobody waits for one."""
    if not request.user.has_perm("billing.view_balancetransaction"):
        raise PermissionDenied
    moved = [check for check in ClearingCheck.objects.order_by("-clearing") if check.stripe_cents or check.books_cents]
    context = {
        **admin.site.each_context(request),
        "title": "Stripe and the books",
        "is_nav_sidebar_enabled": False,  # Its tables are wide.
        "sides": [_side(check) for check in moved],
        "cursors": StripeCursor.objects.order_by("-livemode", "list"),
        "refused": BalanceTransaction.objects.filter(posted_at=None).exclude(error="").order_by("created")[:20],
    }
    return render(request, "admin/billing/stripe_and_books.html", context)


def _side(check: ClearingCheck) -> dict[str, Any]:
    """The comparison, and what of it no template could work out."""
    examples = [
        {
            **example,
            "difference": example["stripe"] - example["books"],
            "moved_at": parse_datetime(example["moved_at"]),
            "knows": _who_knows(example),
            "is_fresh": example["part"] == "fresh",
        }
        for example in check.examples
    ]
    live = check.clearing == LedgerAccount.STRIPE_CLEARING
    return {"check": check, "name": "Live money" if live else "Money of tests", "examples": examples}


def _who_knows(example: dict[str, Any]) -> str:
    if not example["books"]:
        return "Only Stripe has it"
    return "Both have it, with other amounts" if example["stripe"] else "Only the books have it"
