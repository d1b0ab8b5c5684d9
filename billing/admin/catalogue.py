"""What is sold: models and prices. A price is added, never edited."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import Account, User
from billing import clock, money, price_list, pricing
from billing.admin import base
from billing.admin.base import Column, ReadOnlyAdmin
from billing.models import (
    LanguageModel,
    PriceRate,
    PriceVersion,
)
from billing.templatetags.money import per_million


def rate(meter: PriceRate.Meter) -> Column:
    """A column that shows one rate of a price version whose rates are prefetched."""

    @admin.display(description=f"{meter.label.lower()} $/1M")
    def column(version: PriceVersion) -> str | None:
        rates = price_list.rates_of(version.rates.all())
        return per_million(rates[meter]) if meter in rates else None

    return column


def rate_in_force(meter: PriceRate.Meter) -> Column:
    """The same of a model whose list price in force is prefetched."""

    @admin.display(description=f"{meter.label.lower()} $/1M")
    def column(model: LanguageModel) -> str | None:
        versions = model.price_versions.all()
        return rate(meter)(versions[0]) if versions else None

    return column


@admin.register(LanguageModel)
class LanguageModelAdmin(admin.ModelAdmin):
    list_display = [
        "public_id", *(rate_in_force(meter) for meter in PriceRate.Meter), "context_tokens", "family", "type",
        "listed", "hidden",
    ]  # fmt: skip
    list_filter = ["listed", "hidden", "family", "type"]
    search_fields = ["public_id", "name", "family"]
    ordering = ["public_id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[LanguageModel]:
        list_prices = price_list.in_force(datetime.now(UTC)).filter(account=None)
        return super().get_queryset(request).prefetch_related(Prefetch("price_versions", list_prices))

    def get_readonly_fields(self, request: HttpRequest, obj: LanguageModel | None = None) -> list[str]:
        # Customers write the id in their programs.
        return ["public_id", "prices"] if obj else []

    @admin.display(description="prices")
    def prices(self, model: LanguageModel) -> SafeString:
        return format_html(
            '<a href="{}?model={}">Set a price</a> &middot; <a href="{}?model__id__exact={}">All its prices</a>',
            reverse("admin:billing_priceversion_add"), model.pk,
            reverse("admin:billing_priceversion_changelist"), model.pk,
        )  # fmt: skip

    def has_delete_permission(self, request: HttpRequest, obj: LanguageModel | None = None) -> bool:
        return False


class RateField(forms.CharField):
    """A price in USD per million tokens; cleaned to pico-USD per token."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=40, **options)

    def clean(self, value: Any) -> int | None:
        text = super().clean(value)
        try:
            return money.rate_from_usd_per_million(text) if text else None
        except money.InvalidAmount as fault:
            raise forms.ValidationError(str(fault)) from fault


class PriceForm(forms.Form):
    model = forms.ModelChoiceField(LanguageModel.objects.order_by("public_id"))
    account = forms.ModelChoiceField(
        Account.objects.all(),
        required=False,
        widget=AutocompleteSelect(PriceVersion._meta.get_field("account"), admin.site),
        help_text="Empty: the list price. Otherwise a contract price, which replaces it for this customer.",
    )
    input = RateField(label="Input", help_text="USD per 1M tokens, such as 0.14.")
    cached_input = RateField(label="Cached input", required=False, help_text="Empty: the input price.")
    output = RateField(label="Output", help_text="USD per 1M tokens.")
    starts_at = forms.SplitDateTimeField(
        required=False,
        widget=AdminSplitDateTime,
        help_text=f"UTC. Empty: as soon as it may, {pricing.NOTICE.seconds} s from now. The price before it ends then.",
    )

    def rates(self) -> dict[str, int]:
        given = {meter.value: self.cleaned_data[meter.value] for meter in PriceRate.Meter}
        return {meter: pico_per_token for meter, pico_per_token in given.items() if pico_per_token is not None}


@admin.register(PriceVersion)
class PriceVersionAdmin(ReadOnlyAdmin):
    list_display = [
        "model", "account_or_list", *(rate(meter) for meter in PriceRate.Meter), "starts_at", "ends_at", "created_by"
    ]  # fmt: skip
    list_filter = [("account", admin.EmptyFieldListFilter), ("ends_at", admin.EmptyFieldListFilter), "model"]
    list_select_related = ["model", "account", "created_by"]
    search_fields = ["model__public_id", "account__name"]
    ordering = ["-starts_at", "-id"]
    fields = [
        "model", "account_or_list", *(rate(meter) for meter in PriceRate.Meter),
        "starts_at", "ends_at", "created_at", "created_by",
    ]  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.add_priceversion")

    def get_queryset(self, request: HttpRequest) -> QuerySet[PriceVersion]:
        return super().get_queryset(request).prefetch_related("rates")

    @admin.display(description="for", ordering="account")
    def account_or_list(self, version: PriceVersion) -> str:
        return str(version.account) if version.account else "everybody"

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        staff = cast(User, request.user)
        form = PriceForm(request.POST or None, initial={"model": request.GET.get("model")})
        if form.is_valid():
            try:
                version = pricing.set_price(
                    model=form.cleaned_data["model"],
                    rates=form.rates(),
                    starts_at=form.cleaned_data["starts_at"],
                    account=form.cleaned_data["account"],
                    now=clock.now(),
                    by=staff,
                )
            except pricing.PriceRefused as refusal:
                form.add_error(None, str(refusal))
            else:
                LogEntry.objects.log_actions(staff.pk, [version], ADDITION, "Superseded the price before it.")
                messages.success(request, f"New price: {version} UTC.")
                return redirect("admin:billing_priceversion_changelist")
        return base.add_page(self, request, form, title="Set a price")
