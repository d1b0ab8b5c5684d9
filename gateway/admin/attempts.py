"""What became of each attempt at a backend."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.admin.base import ReadOnlyAdmin, dollars
from gateway.models import Attempt


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    """The last ones first; those of one call are found by its id."""

    list_display = [
        "started_at", "result", "fault", "status", "backend", "model", "duration_ms", "first_event_ms", "input_tokens",
        "output_tokens", dollars("upstream_cost"), "call_id", "number",
    ]  # fmt: skip
    list_select_related = ["model"]
    list_filter = ["fault"]
    sortable_by = ()  # Another order than that of the index would sort the whole table.
    search_fields = ["call_id"]  # Shows the box; what is searched is decided below.
    search_help_text = "The id of a call."
    fields = [
        "call", "number", "model", "backend", "started_at", "result", "fault", "status", "first_event_ms",
        "duration_ms", "input_tokens", "output_tokens", "estimated", dollars("upstream_cost"),
    ]  # fmt: skip

    @admin.display(description="call")
    def call(self, attempt: Attempt) -> SafeString:
        attempts = f"{reverse('admin:gateway_attempt_changelist')}?q={attempt.call_id}"
        return format_html('{} &middot; <a href="{}">All its attempts</a>', attempt.call_id, attempts)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip().removeprefix("chatcmpl-").removeprefix("req_")
        if not term:
            return queryset, False
        try:
            return queryset.filter(call_id=UUID(term)), False
        except ValueError:
            return queryset.none(), False
