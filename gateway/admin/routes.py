"""Which backend serves which model; giving a backend or a route no more calls, and calls again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import User
from billing.admin.base import Column
from billing.templatetags.money import per_million
from gateway import backends
from gateway.models import Route, RoutePrice


def turn(verb: Callable[[QuerySet[Any]], list[Any]], word: str, description: str) -> Any:
    """An action of a list of backends or of routes."""

    @admin.action(description=description, permissions=["change"])
    def action(admin_of: admin.ModelAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        turned = verb(queryset)
        LogEntry.objects.log_actions(cast(User, request.user).pk, turned, CHANGE, f"{word}.")
        names = ", ".join(map(str, turned)) or "nothing, all of them were so already"
        messages.success(request, f"{word}: {names}.")

    action.__name__ = word.lower()
    return action


DRAIN = turn(backends.drain, "Drained", "Drain: no more calls, running streams finish")
RESUME = turn(backends.resume, "Resumed", "Resume: take calls again")


@admin.display(description="costs us per 1M tokens")
def _costs(route: Route) -> SafeString | str:
    """The price in force, or the next one, of a route whose prices are prefetched, and where to set it."""
    if route.pk is None:
        return "-"
    price = next(iter(route.prices.all()), None)
    told = "unknown"
    if price is not None:
        told = (
            f"in {per_million(price.input)}, cached {per_million(price.cached_input)}, out {per_million(price.output)}"
        )
        if price.starts_at > datetime.now(UTC):
            told += f", from {price.starts_at:%Y-%m-%d %H:%M:%S} UTC"
    address = f"{reverse('admin:gateway_routeprice_add')}?route={route.pk}"
    return format_html('{} &middot; <a href="{}">Set</a>', told, address)


costs: Column = _costs


def with_costs(routes: QuerySet[Route]) -> QuerySet[Route]:
    """With the prices that `costs` shows: the soonest first."""
    lasting = RoutePrice.objects.filter(Q(ends_at=None) | Q(ends_at__gt=datetime.now(UTC))).order_by("starts_at")
    return routes.prefetch_related(Prefetch("prices", lasting))


@admin.register(Route)
class RouteAdmin(admin.ModelAdmin):
    list_display = ["model", "backend", "enabled", "priority", "weight", costs, "backend_model"]
    list_editable = ["priority", "weight", "enabled"]
    list_filter = ["enabled", "backend"]
    list_select_related = ["model", "backend"]
    search_fields = ["model__public_id", "backend__name", "backend_model"]
    autocomplete_fields = ["model", "backend"]
    ordering = ["model__public_id", "priority", "id"]
    fields = ["model", "backend", "backend_model", "priority", "weight", "enabled", costs]
    readonly_fields = [costs]
    actions = [DRAIN, RESUME]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        return with_costs(super().get_queryset(request))
