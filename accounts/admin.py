"""Staff's view of people and accounts. Accounts are made by `registration`, never here, and never deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

# Their models are taken from where they are registered, so that they are there to be unregistered below.
from allauth.account.admin import EmailAddress
from allauth.mfa.admin import Authenticator
from allauth.socialaccount.admin import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.admin import UserSession
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.forms import Field, ModelForm
from django.http import HttpRequest

from accounts import registration, sign_ins
from accounts.models import Account, AuditEvent, Membership, Tier, User

# Providers are set by the environment and their tokens are not stored. The others have pages of ours below: allauth's
# show the secrets of authenticators, and let staff take over each other.
admin.site.unregister([EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken, UserSession, Group])


class LookOnlyAdmin(admin.ModelAdmin):
    show_full_result_count = False
    ordering = ["-id"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class NewUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ["email"]
        field_classes: dict[str, type[Field]] = {}


class UserForm(UserChangeForm):
    class Meta:
        model = User
        fields = "__all__"
        field_classes: dict[str, type[Field]] = {}


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    form = UserForm
    add_form = NewUserForm
    fieldsets = [
        (None, {"fields": ["email", "password"]}),
        ("Name", {"fields": ["first_name", "last_name"]}),
        ("Permissions", {"fields": ["is_active", "is_staff", "is_superuser", "groups", "user_permissions"]}),
        ("Dates", {"fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [(None, {"classes": ["wide"], "fields": ["email", "usable_password", "password1", "password2"]})]
    readonly_fields = ["last_login", "date_joined"]
    list_display = ["email", "first_name", "last_name", "is_active", "is_staff", "last_login"]
    search_fields = ["email", "first_name", "last_name"]
    ordering = ["email"]
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        # Who may change users must not be able to make a superuser, or a user of more rights than their own.
        ranks = [] if request.user.is_superuser else ["is_staff", "is_superuser", "groups", "user_permissions"]
        return ["last_login", "date_joined", *ranks]

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        may_change = super().has_change_permission(request, obj)
        return may_change and (obj is None or sign_ins.may_touch(_staff(request), obj))

    def save_model(self, request: HttpRequest, obj: User, form: ModelForm[User], change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and "email" in form.changed_data:
            # The old one must not sign in any longer; the new one is confirmed by a code at the next sign-in.
            obj.emailaddress_set.all().delete()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        # Their name stays on what they did; take away `active` instead.
        return False


@admin.register(Tier)
class TierAdmin(admin.ModelAdmin):
    list_display = ["name", "requests_per_minute", "tokens_per_minute", "concurrent_requests"]
    search_fields = ["name"]
    ordering = ["name"]


@admin.register(Membership)
class MembershipAdmin(admin.ModelAdmin):
    list_display = ["user", "account", "role"]
    list_filter = ["role"]
    list_select_related = ["user", "account"]
    search_fields = ["user__email", "account__name"]
    autocomplete_fields = ["user", "account"]
    ordering = ["-id"]
    show_full_result_count = False


class MembershipInline(admin.TabularInline):
    """To look at only: a field to choose a user would run a query for every row."""

    model = Membership
    fields = ["user", "role"]
    readonly_fields = ["user", "role"]
    can_delete = False
    show_change_link = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("user", "account")

    def has_add_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        return False


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    list_display = ["name", "id", "tier", "created_at", "disabled_at"]
    list_filter = ["tier", ("disabled_at", admin.EmptyFieldListFilter)]
    list_select_related = ["tier"]
    search_fields = ["name", "memberships__user__email"]
    search_help_text = "Name of the account, or the e-mail address of a member."
    ordering = ["-id"]
    show_full_result_count = False
    fields = ["name", "tier", "created_at", "disabled_at"]
    readonly_fields = ["created_at", "disabled_at"]
    inlines = [MembershipInline]
    actions = ["disable", "enable"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        return False

    @admin.action(description="Disable: refuse their calls with 403", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        self._tell(
            request, registration.disable(chosen=queryset, now=datetime.now(UTC), by=_staff(request)), "Disabled"
        )

    @admin.action(description="Enable again", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        self._tell(request, registration.enable(chosen=queryset, by=_staff(request)), "Enabled")

    def _tell(self, request: HttpRequest, chosen: list[Account], word: str) -> None:
        LogEntry.objects.log_actions(_staff(request).pk, chosen, CHANGE, f"{word}.")
        messages.success(request, f"{word}: {len(chosen)}.")


@admin.register(AuditEvent)
class AuditEventAdmin(LookOnlyAdmin):
    """The database refuses every change, so there is nothing to do here but to look."""

    list_display = ["created_at", "actor", "action", "object", "account", "ip"]
    list_select_related = ["actor", "account"]
    list_filter = [("actor", admin.EmptyFieldListFilter)]
    search_fields = ["action", "object", "actor__email", "account__name", "ip"]
    search_help_text = "Action, what it was done to, who did it, name of the account, or address."


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    """For superusers: who may change a group could give themselves every right through one of their own."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _staff(request).is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return _staff(request).is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return _staff(request).is_superuser


@admin.register(EmailAddress)
class EmailAddressAdmin(LookOnlyAdmin):
    """To change one, change the user: the new address is confirmed by a code at the next sign-in."""

    list_display = ["email", "user", "verified", "primary"]
    list_filter = ["verified"]
    list_select_related = ["user"]
    search_fields = ["email", "user__email"]
    fields = ["user", "email", "verified", "primary"]


@admin.register(SocialAccount)
class SocialAccountAdmin(LookOnlyAdmin):
    list_display = ["user", "provider", "last_login", "date_joined"]
    list_filter = ["provider"]
    list_select_related = ["user"]
    search_fields = ["user__email"]
    fields = ["user", "provider", "uid", "last_login", "date_joined"]


@admin.register(UserSession)
class UserSessionAdmin(LookOnlyAdmin):
    list_display = ["user", "ip", "created_at", "last_seen_at", "user_agent"]
    list_select_related = ["user"]
    search_fields = ["user__email", "ip"]
    search_help_text = "E-mail address of the person, or IP address."
    fields = [
        "user",
        "ip",
        "created_at",
        "last_seen_at",
        "user_agent",
    ]  # Never the key, which is as good as a password.
    actions = ["end"]

    def has_end_permission(self, request: HttpRequest) -> bool:
        return _staff(request).has_perm("usersessions.delete_usersession")

    @admin.action(description="End: they have to sign in again", permissions=["end"])
    def end(self, request: HttpRequest, queryset: QuerySet[UserSession]) -> None:
        chosen = list(queryset.select_related("user"))
        if _may_touch_all(request, chosen):
            LogEntry.objects.log_actions(_staff(request).pk, chosen, DELETION, "Ended.")
            sign_ins.end_sessions(chosen=chosen, by=_staff(request))
            messages.success(request, f"Ended: {len(chosen)}.")


@admin.register(Authenticator)
class AuthenticatorAdmin(LookOnlyAdmin):
    list_display = ["user", "type", "created_at", "last_used_at"]
    list_filter = ["type"]
    list_select_related = ["user"]
    search_fields = ["user__email"]
    fields = ["user", "type", "created_at", "last_used_at"]  # Never the data: it holds the secrets.
    actions = ["remove"]

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return _staff(request).has_perm("mfa.delete_authenticator")

    @admin.action(description="Remove: the person has lost it, and proved who they are", permissions=["remove"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Authenticator]) -> None:
        chosen = list(queryset.select_related("user"))
        if _may_touch_all(request, chosen):
            LogEntry.objects.log_actions(_staff(request).pk, chosen, DELETION, "Removed.")
            sign_ins.remove_authenticators(chosen=chosen, by=_staff(request))
            messages.success(request, f"Removed: {len(chosen)}.")


def _may_touch_all(request: HttpRequest, chosen: list[UserSession] | list[Authenticator]) -> bool:
    if all(sign_ins.may_touch(_staff(request), row.user) for row in chosen):
        return True
    messages.error(request, "Nothing was done: some of these belong to staff, and only a superuser may touch them.")
    return False


def _staff(request: HttpRequest) -> User:
    return cast(User, request.user)
