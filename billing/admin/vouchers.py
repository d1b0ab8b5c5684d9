"""Codes that give credit: staff make, find and switch them off. What a code gives is never edited."""

from __future__ import annotations

import csv
from typing import Any, cast
from uuid import uuid4

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from accounts.models import User
from billing import clock, money, vouchers
from billing.admin import base
from billing.admin.base import CustomerRowsAdmin, ReadOnlyAdmin, dollars
from billing.models import Voucher, VoucherRedemption
from billing.vouchers import Terms


class DollarsField(forms.CharField):
    """An amount in USD; cleaned to pico-USD."""

    def clean(self, value: Any) -> int:
        try:
            return money.from_usd(super().clean(value))
        except money.InvalidAmount as fault:
            raise forms.ValidationError(str(fault)) from fault


def _moment(label: str, help_text: str) -> forms.SplitDateTimeField:
    return forms.SplitDateTimeField(label=label, required=False, widget=AdminSplitDateTime, help_text=help_text)


class VoucherForm(forms.Form):
    amount = DollarsField(label="Credit in USD", max_length=20, help_text="Such as 10.")
    credit_days = forms.IntegerField(
        label="Credit expires after days", required=False, help_text="Counted from when it was redeemed."
    )
    credit_expires_at = _moment("or credit expires at", "UTC. With neither it never expires.")
    code = forms.CharField(
        max_length=vouchers.LONGEST, required=False, help_text="Such as SPRING-SALE. Empty: one is made."
    )
    count = forms.IntegerField(
        label="Number of codes",
        initial=1,
        min_value=1,
        max_value=vouchers.MOST_AT_ONCE,
        help_text="More than one: codes that work once each, as a CSV file. Keep it: it is handed out once.",
    )
    total_limit = forms.IntegerField(
        label="Redeemed in total", required=False, min_value=1, help_text="By all together; empty: without limit."
    )
    account_limit = forms.IntegerField(label="Redeemed by one account", initial=1, min_value=1)
    valid_from = _moment("Valid from", "UTC. Empty: from now on.")
    valid_until = _moment("Valid until", "UTC. Empty: for ever.")
    note = forms.CharField(max_length=300, required=False, help_text="What it is for; customers do not see it.")
    batch_id = forms.UUIDField(widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("code") and cleaned.get("count", 1) > 1:
            self.add_error("code", "Several codes cannot be the same; leave it empty.")
        return cleaned

    def terms(self) -> Terms:
        return Terms(**{name: self.cleaned_data[name] for name in Terms.__slots__})


@admin.register(Voucher)
class VoucherAdmin(ReadOnlyAdmin):
    list_display = [
        "__str__", dollars("amount"), "redeemed", "total_limit", "account_limit", "valid_from", "valid_until",
        "credit_days", "credit_expires_at", "enabled", "note", "created_by", "created_at",
    ]  # fmt: skip
    list_filter = ["enabled", "created_at"]
    list_select_related = ["created_by"]
    search_fields = ["code"]
    search_help_text = "A code, or the number of a batch."
    fields = [
        "__str__", dollars("amount"), "credit_days", "credit_expires_at", "valid_from", "valid_until",
        "total_limit", "account_limit", "redeemed", "enabled", "note", "batch_id", "created_by", "created_at",
    ]  # fmt: skip
    actions = ["switch_off", "switch_on"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.add_voucher")

    def has_switch_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_voucher")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Voucher], search_term: str
    ) -> tuple[QuerySet[Voucher], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(code=vouchers.normalised(term))
        if len(term) == 36:
            found |= Q(batch_id__in=_uuids(term))
        return queryset.filter(found), False

    @admin.action(description="Switch off: nobody can redeem them any longer", permissions=["switch"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Voucher]) -> None:
        self._tell(request, vouchers.switch(chosen=queryset, on=False), "Switched off")

    @admin.action(description="Switch on again", permissions=["switch"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Voucher]) -> None:
        self._tell(request, vouchers.switch(chosen=queryset, on=True), "Switched on")

    def _tell(self, request: HttpRequest, changed: list[Voucher], word: str) -> None:
        LogEntry.objects.log_actions(_staff(request).pk, changed, CHANGE, f"{word}.")
        messages.success(request, f"{word}: {len(changed)}.")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = VoucherForm(request.POST or None, initial={"batch_id": uuid4()})
        if form.is_valid():
            try:
                return self._make(request, form)
            except (vouchers.InvalidVoucher, vouchers.BatchExists) as refusal:
                form.add_error(None, str(refusal))
        return base.add_page(self, request, form, title="Make a code, or many")

    def _make(self, request: HttpRequest, form: VoucherForm) -> HttpResponse:
        staff, asked = _staff(request), form.cleaned_data
        if asked["count"] == 1:
            voucher = vouchers.create(terms=form.terms(), code=asked["code"], now=clock.now(), by=staff)
            LogEntry.objects.log_actions(staff.pk, [voucher], ADDITION, "Made.")
            messages.success(request, f"The code is {voucher.written}.")
            return redirect("admin:billing_voucher_changelist")
        made = vouchers.create_batch(
            terms=form.terms(), count=asked["count"], batch_id=asked["batch_id"], now=clock.now(), by=staff
        )
        LogEntry.objects.log_actions(staff.pk, made[:1], ADDITION, f"Made with {len(made) - 1} others.")
        return _as_csv(made)


def _as_csv(made: list[Voucher]) -> HttpResponse:
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="codes-{made[0].batch_id}.csv"'
    writer = csv.writer(answer)
    writer.writerow(["code", "usd"])
    writer.writerows([voucher.written, money.usd(voucher.amount)] for voucher in made)
    return answer


@admin.register(VoucherRedemption)
class VoucherRedemptionAdmin(CustomerRowsAdmin):
    list_display = ["redeemed_at", "account", "code", "number", "redeemed_by"]
    list_select_related = ["account", "voucher", "redeemed_by"]
    fields = ["redeemed_at", "account", "code", "number", "transfer", "redeemed_by"]

    @admin.display(description="code")
    def code(self, redemption: VoucherRedemption) -> str:
        return redemption.voucher.written


def _uuids(text: str) -> list[Any]:
    try:
        return [forms.UUIDField().clean(text)]
    except forms.ValidationError:
        return []


def _staff(request: HttpRequest) -> User:
    return cast(User, request.user)
