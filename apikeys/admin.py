"""Staff's view of keys: find, disable, revoke. Keys are made where their owner can see the secret, never here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.forms import ModelForm
from django.http import HttpRequest

from accounts.models import User
from apikeys import keys
from apikeys.models import ApiKey, ApiKeyQuerySet


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    list_display = [
        "display", "name", "account", "created_at", "last_used_at", "expires_at", "disabled_at", "revoked_at",
    ]  # fmt: skip
    list_filter = [("disabled_at", admin.EmptyFieldListFilter), ("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["account"]
    search_fields = ["display", "name", "account__name", "account__memberships__user__email"]
    search_help_text = "Shown form of the key, its name, its account, or the e-mail address of a member."
    ordering = ["-id"]
    show_full_result_count = False
    readonly_fields = [
        "display", "name", "account", "created_at", "created_by", "last_used_at", "disabled_at", "revoked_at",
        "replaces", "successor", "cap", "requests_per_minute", "tokens_per_minute", "concurrent_requests",
    ]  # fmt: skip
    fields = [*readonly_fields, "expires_at"]
    actions = ["disable", "enable", "revoke"]

    @admin.display(description="spend cap")
    def cap(self, key: ApiKey) -> str:
        return str(keys.cap_of(key) or "none")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: ModelForm[ApiKey], change: bool) -> None:
        # Not `obj.save`: it would write the whole row as it was when the form was read.
        keys.set_expiry(key=obj, expires_at=obj.expires_at, by=_staff(request))

    @admin.action(description="Disable: refuse with 403 until enabled again", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: ApiKeyQuerySet) -> None:
        self._tell(request, keys.disable(chosen=queryset, now=datetime.now(UTC), by=_staff(request)), "Disabled")

    @admin.action(description="Enable again", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: ApiKeyQuerySet) -> None:
        self._tell(request, keys.enable(chosen=queryset, by=_staff(request)), "Enabled")

    @admin.action(description="Revoke for ever: refuse with 401", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: ApiKeyQuerySet) -> None:
        now = datetime.now(UTC)
        chosen = list(queryset.filter(revoked_at=None))
        for key in chosen:
            keys.revoke(key=key, now=now, by=_staff(request))
        self._tell(request, chosen, "Revoked")

    def _tell(self, request: HttpRequest, chosen: list[ApiKey], word: str) -> None:
        LogEntry.objects.log_actions(_staff(request).pk, chosen, CHANGE, f"{word}.")
        messages.success(request, f"{word}: {len(chosen)}.")


def _staff(request: HttpRequest) -> User:
    return cast(User, request.user)
