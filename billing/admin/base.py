"""What the lists of staff share: columns of money, and rows that nobody edits here.

Lists of tables that grow without end stop at SHOWN_ROWS instead of counting them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminErrorList, AdminForm
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from accounts.models import Account
from billing import outbox
from billing.templatetags.money import cents, usd

SHOWN_ROWS = 1000
# A function that makes a cell of its row. Django takes one wherever it takes the name of a field; its stubs do not.
Column = Any
ATTEMPTS = ["attempts", "error", "next_attempt_at", "sent_at"]


def dollars(field: str) -> Column:
    """A column that shows an amount in pico-USD as dollars, exact on hover."""

    @admin.display(description=field.replace("_", " "), ordering=field)
    def column(row: models.Model) -> SafeString | str:
        pico = getattr(row, field)
        return "-" if pico is None else usd(pico)

    return column


def dollars_of_cents(field: str) -> Column:
    """The same of US cents, as Stripe counts them."""

    @admin.display(description=field.removesuffix("_cents").replace("_", " "))
    def column(row: models.Model) -> SafeString | str:
        amount = getattr(row, field)
        return "-" if amount is None else cents(amount)

    return column


def add_page(admin_of: admin.ModelAdmin, request: HttpRequest, form: forms.Form, *, title: str) -> HttpResponse:
    """Django's own add page around a form that is not the model's."""
    like_model_form = cast("forms.ModelForm[models.Model]", form)
    page = AdminForm(like_model_form, [(None, {"fields": list(form.fields)})], {}, model_admin=admin_of)
    context = {
        **admin_of.admin_site.each_context(request),
        "title": title,
        "adminform": page,
        "errors": AdminErrorList(like_model_form, []),
        "inline_admin_formsets": [],
        "media": admin_of.media + page.media,
        "is_popup": False,
        "show_save_and_continue": False,
        "show_save_and_add_another": False,
    }
    return admin_of.render_change_form(request, context, add=True)


class BoundedPaginator(Paginator):
    """Counts no further than SHOWN_ROWS: nobody pages through millions of rows, and counting them takes minutes."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return len(rows.order_by().values_list("pk")[:SHOWN_ROWS])


class ReadOnlyAdmin(admin.ModelAdmin):
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # Each count would read the whole table.
    ordering = ["-pk"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


class CustomerRowsAdmin(ReadOnlyAdmin):
    """Rows that belong to customers, found by an e-mail address or by the id of one row: both by an index."""

    owner = "account"
    sortable_by = ()  # Another order than that of the index would sort the whole table.
    search_fields = ["pk"]  # Shows the box; what is searched is decided below.
    search_help_text = "The e-mail address of a customer."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        row = self.row_of(term)
        if row is not None:
            return queryset.filter(row), False
        members = Account.objects.filter(memberships__user__email__iexact=term)
        accounts = list(members.values_list("pk", flat=True)[:SHOWN_ROWS])
        return queryset.filter(**{f"{self.owner}__in": accounts}), False

    def row_of(self, term: str) -> Q | None:
        return None


class MailAdmin(CustomerRowsAdmin):
    """Mails of one kind: what they are about, which were sent, and which the mail server did not take."""

    subject: Sequence[Column] = ()
    list_filter = ["state"]
    actions = ["send_again"]

    def get_list_display(self, request: HttpRequest) -> list[Column]:
        return ["created_at", "state", *self.subject, *ATTEMPTS]

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> list[Column]:
        return [*self.subject, "created_at", "state", *ATTEMPTS]

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"billing.change_{self.opts.model_name}")

    @admin.action(description="Send again those of the chosen that were given up", permissions=["send"])
    def send_again(self, request: HttpRequest, chosen: QuerySet[Any]) -> None:
        count = outbox.send_again(chosen)
        self.message_user(request, f"To be sent within a minute: {count}.", messages.SUCCESS)


def uuid_of(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None


class CallRowsAdmin(CustomerRowsAdmin):
    search_help_text = "The id of a call, or the e-mail address of a customer."

    def row_of(self, term: str) -> Q | None:
        found = uuid_of(term.removeprefix("chatcmpl-").removeprefix("req_"))
        return Q(pk=found) if found else None
