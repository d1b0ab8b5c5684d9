"""Backends. A credential goes in and never comes out, and stays with the address it was entered for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from gateway import backends, dialects, operator_pages
from gateway.admin.routes import DRAIN, RESUME, costs, with_costs
from gateway.models import Backend, Route

LIMITS = ["max_concurrent", "connect_seconds", "first_token_seconds", "idle_seconds"]
DIALECT = [
    "allowed_parameters", "denied_parameters", "renamed_parameters", "added_parameters", "developer_role",
    "usage_in_streams",
]  # fmt: skip


class JsonObjectField(forms.CharField):
    """An object, empty where nothing is written. Its help is that of the model's field."""

    def __init__(self, field: str, **options: Any) -> None:
        help_text = cast("models.Field[Any, Any]", Backend._meta.get_field(field)).help_text
        widget = forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3, "spellcheck": "false"})
        super().__init__(required=False, max_length=dialects.LENGTH, help_text=help_text, widget=widget, **options)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, indent=2) if value else ""
        return value

    def clean(self, value: Any) -> dict[str, Any]:
        try:
            return dialects.json_object(super().clean(value))
        except dialects.InvalidDialect as refusal:
            raise forms.ValidationError(str(refusal)) from refusal

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), (data or "").replace("\r\n", "\n"))


class BackendForm(forms.ModelForm):
    refused: Mapping[str, str] = {}  # Fields with an address that leads where no backend may be, and why.

    # Not the model's own fields, so that address, way and credential reach the instance only together, by `readdress`.
    address = forms.CharField(
        max_length=backends.ADDRESS_LENGTH,
        widget=forms.TextInput(attrs={"class": "vURLField"}),
        help_text="Up to and with /v1, as an OpenAI client would be given it, such as https://api.deepseek.com/v1. If "
        "it changes, enter the API key again.",
    )
    proxy = forms.CharField(
        required=False,
        max_length=backends.ADDRESS_LENGTH,
        widget=forms.TextInput(attrs={"class": "vURLField"}),
        help_text="Such as http://proxy:3128, without a password. Empty: directly. It looks the backend's name up by "
        "itself. If it changes, enter the API key again.",
    )
    certificate = forms.CharField(
        required=False,
        label="CA certificate",
        widget=forms.Textarea(attrs={"class": "vLargeTextField", "rows": 6}),
        help_text="PEM. Only what it has signed is believed to be the backend. Empty: public CAs are believed. If it "
        "changes, enter the API key again.",
    )
    api_key = forms.CharField(
        required=False,
        label="API key",
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "off"}),
        help_text="Stored encrypted and never shown. Empty keeps the stored one.",
    )
    without_api_key = forms.BooleanField(
        required=False, label="No API key", help_text="The backend needs none; a stored one is dropped."
    )

    renamed_parameters = JsonObjectField("renamed_parameters")
    added_parameters = JsonObjectField("added_parameters")

    class Meta:
        model = Backend
        fields = ["name", "enabled", *LIMITS, *DIALECT]
        help_texts = {"enabled": "Takes calls. Without it the backend is drained: what it began may finish."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        backend = self.instance
        self.initial = {
            "address": backend.base_url,
            "proxy": backend.proxy_url,
            "certificate": backend.ca_certificate,
            **self.initial,
        }
        if backend.pk is None:
            self.fields["api_key"].help_text = "Stored encrypted and never shown. Empty: the backend needs none."

    def clean_address(self) -> str:
        return self._checked("address", backends.checked_address)

    def clean_proxy(self) -> str:
        return self._checked("proxy", backends.checked_proxy)

    def clean_certificate(self) -> str:
        return self._checked("certificate", backends.checked_certificate)

    def clean_api_key(self) -> str:
        return self._checked("api_key", backends.checked_credential) if self.cleaned_data["api_key"] else ""

    def _checked(self, field: str, check: Callable[[str], str]) -> str:
        if field in self.refused:
            raise forms.ValidationError(self.refused[field])
        try:
            return check(self.cleaned_data[field])
        except backends.InvalidBackend as refusal:
            raise forms.ValidationError(str(refusal)) from refusal

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if given.get("api_key") and given.get("without_api_key"):
            self.add_error("without_api_key", "Enter an API key or say that there is none, not both.")
        elif {"address", "proxy", "certificate", "api_key"} <= given.keys():
            self._readdress(given)
        self._check_dialect(given)
        return given

    def _readdress(self, given: dict[str, Any]) -> None:
        try:
            backends.readdress(
                self.instance,
                base_url=given["address"],
                credential="" if given.get("without_api_key") else given["api_key"] or None,
                ca_certificate=given["certificate"],
                proxy_url=given["proxy"],
            )
        except backends.CredentialNeeded as refusal:
            self.add_error("api_key", str(refusal))

    def _check_dialect(self, given: dict[str, Any]) -> None:
        renamed, added = given.get("renamed_parameters", {}), given.get("added_parameters", {})
        try:
            dialects.check_renames(renamed)
        except dialects.InvalidDialect as refusal:
            self.add_error("renamed_parameters", str(refusal))
            return
        try:
            dialects.check_additions(added, renamed=renamed)
        except dialects.InvalidDialect as refusal:
            self.add_error("added_parameters", str(refusal))


class ServedInline(admin.TabularInline):
    """The routes that are there. Their models stay: a field to choose one would run a query for every row."""

    model = Route
    fields = ["model", "backend_model", "priority", "weight", "enabled", costs]
    readonly_fields = ["model", costs]
    ordering = ["model__public_id"]
    verbose_name_plural = "models that it serves"
    classes = ["served"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        return with_costs(super().get_queryset(request).select_related("model", "backend"))

    def has_add_permission(self, request: HttpRequest, obj: Backend | None = None) -> bool:
        return False


class NewRouteForm(forms.ModelForm):
    backend_model = forms.CharField(
        required=False,
        max_length=backends.BACKEND_MODEL_LENGTH,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text="The backend's own name of the model. Empty: the same as ours.",
    )

    class Meta:
        model = Route
        fields = ["model", "backend_model", "priority", "weight"]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if "model" in given:
            given["backend_model"] = given.get("backend_model") or given["model"].public_id
            # Django checks this constraint only among the new rows.
            if Route.objects.filter(backend=self.instance.backend_id, model=given["model"]).exists():
                self.add_error("model", "The backend serves it already.")
        return given


class NewRouteInline(admin.TabularInline):
    model = Route
    form = NewRouteForm
    autocomplete_fields = ["model"]
    extra = 3
    can_delete = False
    verbose_name, verbose_name_plural = "model", "models to add"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        return super().get_queryset(request).none()

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Without the buttons that lead away from the form."""
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget = field.widget.widget
        return field

    def has_change_permission(self, request: HttpRequest, obj: Backend | None = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_view_permission(self, request: HttpRequest, obj: Backend | None = None) -> bool:
        return self.has_add_permission(request, obj)


@admin.register(Backend)
class BackendAdmin(admin.ModelAdmin):
    form = BackendForm
    list_display = ["name", "enabled", "base_url", "has_api_key", "serves"]
    list_filter = ["enabled"]
    search_fields = ["name", "base_url"]
    ordering = ["name"]
    readonly_fields = ["has_api_key"]
    actions = [DRAIN, RESUME]

    def get_urls(self) -> list[URLPattern]:
        return [*operator_pages.URLS, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Backend]:
        return super().get_queryset(request).prefetch_related("routes")

    def get_fieldsets(self, request: HttpRequest, obj: Backend | None = None) -> Any:
        place = ["address", "has_api_key", "api_key", "without_api_key", "proxy", "certificate"]
        if obj is None:
            place = [field for field in place if field not in ("has_api_key", "without_api_key")]
        elif not self.has_change_permission(request, obj):
            place = ["base_url", "has_api_key", "proxy_url", "ca_certificate"]
        return [
            (None, {"fields": ["name", "enabled"]}),
            ("Where it is", {"fields": place}),
            ("Its limits", {"fields": LIMITS, "classes": _closed(obj, LIMITS)}),
            ("Its dialect: what it takes, and in which words", {"fields": DIALECT, "classes": _closed(obj, DIALECT)}),
        ]

    def get_inlines(self, request: HttpRequest, obj: Backend | None) -> list[Any]:
        return [NewRouteInline] if obj is None else [ServedInline, NewRouteInline]

    def get_form(self, request: HttpRequest, obj: Backend | None = None, change: bool = False, **options: Any) -> Any:
        form: Any = super().get_form(request, obj, change=change, **options)
        form.refused = getattr(request, "flint_refused", {})
        return form

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Django saves in a transaction, in which nobody must wait for a name server: names are looked up before."""
        if request.method == "POST":
            request.flint_refused = self._refused(request, object_id)  # type: ignore[attr-defined]
        return super().changeform_view(request, object_id, form_url, extra_context)

    def _refused(self, request: HttpRequest, object_id: str | None) -> dict[str, str]:
        """The fields with a new address that leads where no backend may be, and why."""
        backend = self.get_object(request, unquote(object_id)) if object_id else Backend()
        may = self.has_change_permission(request, backend) if object_id else self.has_add_permission(request)
        refused: dict[str, str] = {}
        if backend is None or not may:
            return refused
        for field, before in (("address", backend.base_url), ("proxy", backend.proxy_url)):
            given = request.POST.get(field, "")
            try:
                if given.strip().rstrip("/") != before:
                    backends.check_place(given)
            except backends.InvalidBackend as refusal:
                refused[field] = str(refusal)
        return refused

    @admin.display(boolean=True, description="API key stored")
    def has_api_key(self, backend: Backend) -> bool:
        return bool(backend.credential)

    @admin.display(description="models")
    def serves(self, backend: Backend) -> SafeString:
        routes = backend.routes.all()
        told = f"{sum(route.enabled for route in routes)} of {len(routes)}" if routes else "none"
        address = f"{reverse('admin:gateway_route_changelist')}?backend__id__exact={backend.pk}"
        return format_html('<a href="{}">{}</a>', address, told)


def _closed(backend: Backend | None, fields: list[str]) -> list[str]:
    """A group of fields in which nothing is set is folded away."""
    usual = Backend()
    return [] if backend and any(getattr(backend, name) != getattr(usual, name) for name in fields) else ["collapse"]
