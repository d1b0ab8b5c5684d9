"""The calls, read-only, looked at by period."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import partitions
from billing.admin.base import CallRowsAdmin, CustomerRowsAdmin, ReadOnlyAdmin, dollars
from billing.models import (
    GatewayProcess,
    Hold,
    KeyBudget,
    LateUsageRecord,
    RefusedCalls,
    ReleasedHolds,
    UsageHour,
    UsageRecord,
)


@admin.display(description="call")
def call(row: models.Model) -> SafeString:
    """The end of the id, which tells calls apart; all of it on hover."""
    return format_html('<span title="{}">...{}</span>', row.pk, str(row.pk)[-12:])


@admin.display(description="settled", boolean=True)
def settled(record: UsageRecord) -> bool:
    return record.settled_at is not None


class PeriodFilter(admin.SimpleListFilter):
    """A period of ids, which are in order of time: the months outside of it are not read at all."""

    title = "admitted"
    parameter_name = "admitted"
    days = {"day": 1, None: 7, "month": 31}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("day", "last 24 hours"), ("month", "last 31 days"), ("all", "any time")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        default, *others = super().choices(changelist)
        yield {**default, "display": "last 7 days"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        days = self.days.get(self.value())
        if days is None or request.GET.get(SEARCH_VAR):  # What is searched for may be old, and has an index.
            return queryset
        return queryset.filter(pk__gte=partitions.first_id(datetime.now(UTC) - timedelta(days=days)))


@admin.register(UsageRecord)
class UsageRecordAdmin(CallRowsAdmin):
    list_display = [
        "admitted_at", "account", "model", dollars("charge"), "input_tokens", "output_tokens", "outcome", call, settled,
    ]  # fmt: skip
    list_filter = [PeriodFilter, "outcome", "source", "clamped", "model"]
    list_select_related = ["account", "model"]
    fields = [
        "id", "account", "api_key", "model", "price_version", "backend", "attempt", "streamed",
        "outcome", "source", "finish_reason", "admitted_at", "recorded_at", "first_token_ms", "duration_ms",
        "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens",
        dollars("held"), dollars("charge"), "clamped", dollars("upstream_cost"), "settled_at", "transfer",
    ]  # fmt: skip


@admin.register(Hold)
class HoldAdmin(CallRowsAdmin):
    list_display = ["admitted_at", call, "account", "model", dollars("amount"), "backend", "expires_at"]
    list_select_related = ["account__account", "model"]
    fields = [
        "id", "account", "api_key", "model", "price_version", dollars("amount"), dollars("available_after"),
        "budget", dollars("budget_left_after"), "streamed", "owner", "backend", "attempt",
        "checkpoint_input_tokens", "checkpoint_output_tokens", "admitted_at", "expires_at", "resolved_at",
    ]  # fmt: skip


@admin.register(KeyBudget)
class KeyBudgetAdmin(CustomerRowsAdmin):
    owner = "line__account"
    list_display = ["starts_at", "period", "line", "account", dollars("spent"), dollars("held")]
    list_filter = ["period"]
    list_select_related = ["line__account"]
    fields = ["line", "period", "starts_at", dollars("spent"), dollars("held")]

    @admin.display(description="account")
    def account(self, budget: KeyBudget) -> str:
        return str(budget.line.account)


@admin.register(LateUsageRecord)
class LateUsageRecordAdmin(CallRowsAdmin):
    list_display = ["created_at", "id", "account"]
    list_select_related = ["account"]
    fields = ["id", "account", "record", "created_at"]


@admin.register(UsageHour)
class UsageHourAdmin(CustomerRowsAdmin):
    list_display = [
        "hour", "account", "api_key", "model", "calls", "input_tokens", "cached_input_tokens", "output_tokens",
        dollars("charge"), dollars("upstream_cost"),
    ]  # fmt: skip
    list_filter = ["model"]
    list_select_related = ["account", "api_key", "model"]
    fields = [
        "hour", "account", "api_key", "model", "calls", "input_tokens", "cached_input_tokens", "output_tokens",
        dollars("charge"), dollars("upstream_cost"),
    ]  # fmt: skip


@admin.register(ReleasedHolds)
class ReleasedHoldsAdmin(CustomerRowsAdmin):
    list_display = ["hour", "account", "reason", "calls"]
    list_select_related = ["account"]


@admin.register(RefusedCalls)
class RefusedCallsAdmin(CustomerRowsAdmin):
    list_display = ["hour", "account", "status", "code", "calls"]
    list_filter = ["status"]
    list_select_related = ["account"]


@admin.register(GatewayProcess)
class GatewayProcessAdmin(ReadOnlyAdmin):
    list_display = ["host", "pid", "started_at", "beat_at", "boot"]
    ordering = ["-started_at", "boot"]
