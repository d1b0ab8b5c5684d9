"""Staff's view of what is sold and of the money.

Money and usage are read-only here: balances move only through `ledger`. A price is added, never edited. Lists of
tables that grow without end stop at SHOWN_ROWS instead of counting them, and calls are looked at by period.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminErrorList, AdminForm
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Prefetch, Q, QuerySet
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import Account, User
from billing import money, partitions, price_list, pricing
from billing.models import (
    BooksCheck,
    CreditLot,
    GatewayProcess,
    Hold,
    LanguageModel,
    LateUsageRecord,
    PriceRate,
    PriceVersion,
    RefusedCalls,
    ReleasedHolds,
    Transfer,
    UsageHour,
    UsageRecord,
    Wallet,
)
from billing.templatetags.money import per_million, usd

SHOWN_ROWS = 1000
# A function that makes a cell of its row. Django takes one wherever it takes the name of a field; its stubs do not.
Column = Any


def dollars(field: str) -> Column:
    """A column that shows an amount in pico-USD as dollars, exact on hover."""

    @admin.display(description=field.replace("_", " "), ordering=field)
    def column(row: models.Model) -> SafeString | None:
        pico = getattr(row, field)
        return None if pico is None else usd(pico)

    return column


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


# --- What is sold --------------------------------------------------------------------------------------------


@admin.register(LanguageModel)
class LanguageModelAdmin(admin.ModelAdmin):
    list_display = [
        "public_id", *(rate_in_force(meter) for meter in PriceRate.Meter), "context_tokens", "family", "type", "listed"
    ]  # fmt: skip
    list_filter = ["listed", "family", "type"]
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
                    now=datetime.now(UTC),
                    by=staff,
                )
            except pricing.PriceRefused as refusal:
                form.add_error(None, str(refusal))
            else:
                LogEntry.objects.log_actions(staff.pk, [version], ADDITION, "Superseded the price before it.")
                messages.success(request, f"New price: {version} UTC.")
                return redirect("admin:billing_priceversion_changelist")
        return self._render_price_form(request, form)

    def _render_price_form(self, request: HttpRequest, form: PriceForm) -> HttpResponse:
        """Django's own add page around a form that is not the model's."""
        like_model_form = cast("forms.ModelForm[PriceVersion]", form)
        page = AdminForm(like_model_form, [(None, {"fields": list(form.fields)})], {}, model_admin=self)
        context = {
            **self.admin_site.each_context(request),
            "title": "Set a price",
            "adminform": page,
            "errors": AdminErrorList(like_model_form, []),
            "inline_admin_formsets": [],
            "media": self.media + page.media,
            "is_popup": False,
            "show_save_and_continue": False,
            "show_save_and_add_another": False,
        }
        return self.render_change_form(request, context, add=True)


# --- The money -----------------------------------------------------------------------------------------------


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
        members = Account.objects.alias(email=Lower("memberships__user__email")).filter(email=term.lower())
        accounts = list(members.values_list("pk", flat=True)[:SHOWN_ROWS])
        return queryset.filter(**{f"{self.owner}__in": accounts}), False

    def row_of(self, term: str) -> Q | None:
        return None


class CallRowsAdmin(CustomerRowsAdmin):
    search_help_text = "The id of a call, or the e-mail address of a customer."

    def row_of(self, term: str) -> Q | None:
        try:
            return Q(pk=UUID(term.removeprefix("chatcmpl-")))
        except ValueError:
            return None


@admin.register(Wallet)
class WalletAdmin(CustomerRowsAdmin):
    list_display = ["account", dollars("available"), dollars("posted"), dollars("held"), dollars("debt"), "seq"]
    list_select_related = ["account"]
    fields = [
        "account", dollars("available"), dollars("posted"), dollars("held"), dollars("debt"),
        "seq", "holds_opened", "holds_recorded", "holds_released",
    ]  # fmt: skip


@admin.register(Transfer)
class TransferAdmin(CustomerRowsAdmin):
    owner = "wallet"
    search_help_text = "The cause, or the e-mail address of a customer."
    list_display = [
        "created_at", "kind", "account", dollars("amount"), "debit", "credit", dollars("balance_after"),
        "cause", "created_by",
    ]  # fmt: skip
    list_filter = ["kind"]
    list_select_related = ["wallet__account", "created_by"]
    fields = [
        "kind", "account", dollars("amount"), "debit", "credit", "wallet_seq", dollars("balance_after"),
        "cause", "reason", "day", "created_at", "created_by",
    ]  # fmt: skip

    def row_of(self, term: str) -> Q | None:
        return Q(cause=term) if ":" in term else None

    @admin.display(description="account")
    def account(self, transfer: Transfer) -> str | None:
        return str(transfer.wallet.account) if transfer.wallet else None


@admin.register(CreditLot)
class CreditLotAdmin(CustomerRowsAdmin):
    owner = "wallet"
    list_display = ["created_at", "account", "kind", dollars("amount"), dollars("remaining"), "expires_at"]
    list_filter = ["kind"]
    list_select_related = ["wallet__account"]
    fields = ["account", "kind", dollars("amount"), dollars("remaining"), "expires_at", "transfer", "created_at"]

    @admin.display(description="account")
    def account(self, lot: CreditLot) -> str:
        return str(lot.wallet.account)


@admin.register(BooksCheck)
class BooksCheckAdmin(ReadOnlyAdmin):
    list_display = ["account", "seq", dollars("balance"), "checked_at"]
    list_select_related = ["wallet__account"]
    fields = ["account", "seq", dollars("balance"), "checked_at"]

    @admin.display(description="account")
    def account(self, check: BooksCheck) -> str:
        return str(check.wallet.account)


# --- The calls -----------------------------------------------------------------------------------------------


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
        if days is None:
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
        "streamed", "owner", "backend", "attempt", "checkpoint_input_tokens", "checkpoint_output_tokens",
        "admitted_at", "expires_at", "resolved_at",
    ]  # fmt: skip


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
