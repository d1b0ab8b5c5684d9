"""What backends charge us. A price is superseded, never changed."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from accounts.models import User
from billing import clock, pricing
from billing.admin import base
from billing.admin.base import Column, ReadOnlyAdmin
from billing.admin.catalogue import RateField
from billing.templatetags.money import per_million
from gateway import route_prices
from gateway.models import Route, RoutePrice


def rate(meter: str) -> Column:
    """A column that shows one rate of a route's price."""

    @admin.display(description=f"{meter.replace('_', ' ')} $/1M", ordering=meter)
    def column(price: RoutePrice) -> str:
        return per_million(getattr(price, meter))

    return column


class RoutePriceForm(forms.Form):
    route = forms.ModelChoiceField(
        Route.objects.select_related("model", "backend").order_by("model__public_id", "backend__name")
    )
    input = RateField(help_text="USD per 1M tokens, such as 0.07; 0 for a server that is paid otherwise.")
    cached_input = RateField(required=False, help_text="Empty: the input price.")
    output = RateField(help_text="USD per 1M tokens.")
    starts_at = forms.SplitDateTimeField(
        required=False,
        widget=AdminSplitDateTime,
        help_text=f"UTC. Empty: as soon as it may, {pricing.NOTICE.seconds} s from now. The price before it ends then.",
    )


@admin.register(RoutePrice)
class RoutePriceAdmin(ReadOnlyAdmin):
    list_display = ["route", rate("input"), rate("cached_input"), rate("output"), "starts_at", "ends_at", "created_by"]
    list_filter = [("ends_at", admin.EmptyFieldListFilter), "route__backend"]
    list_select_related = ["route__model", "route__backend", "created_by"]
    search_fields = ["route__model__public_id", "route__backend__name"]
    ordering = ["-starts_at", "-id"]
    fields = [
        "route", rate("input"), rate("cached_input"), rate("output"), "starts_at", "ends_at", "created_at", "created_by"
    ]  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("gateway.add_routeprice")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        staff = cast(User, request.user)
        form = RoutePriceForm(request.POST or None, initial={"route": request.GET.get("route")})
        if form.is_valid():
            try:
                price = route_prices.set_price(**form.cleaned_data, now=clock.now(), by=staff)
            except route_prices.RoutePriceRefused as refusal:
                form.add_error(None, str(refusal))
            else:
                LogEntry.objects.log_actions(staff.pk, [price], ADDITION, "Superseded the price before it.")
                messages.success(request, f"New price: {price} UTC.")
                return redirect("admin:gateway_routeprice_changelist")
        return base.add_page(self, request, form, title="Set what a backend charges us")
