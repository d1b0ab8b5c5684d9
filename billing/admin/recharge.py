"""Auto-recharge as staff see it: read-only but for turning it off. Turning it on is the customer's act."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from billing.admin.base import CustomerRowsAdmin, MailAdmin, dollars_of_cents
from billing.models import AutoRecharge, RechargeMail
from billing.payments import auto_recharge


@admin.register(AutoRecharge)
class AutoRechargeAdmin(CustomerRowsAdmin):
    list_display = [
        "account", "enabled", dollars_of_cents("threshold_cents"), dollars_of_cents("amount_cents"),
        dollars_of_cents("monthly_cap_cents"), "last_attempt_at", "failures", "stopped_reason", "stopped_at",
    ]  # fmt: skip
    list_filter = ["enabled", "stopped_reason"]
    list_select_related = ["account"]
    fields = [
        "account", "enabled", dollars_of_cents("threshold_cents"), dollars_of_cents("amount_cents"),
        dollars_of_cents("monthly_cap_cents"), "interval_minutes", "consented_by", "consented_at", "attempt",
        "attempt_due_at", "last_attempt_at", "not_before", "failures", "stopped_reason", "stopped_at",
    ]  # fmt: skip
    actions = ["turn_off"]

    def has_off_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_autorecharge")

    @admin.action(description="Turn off; only the customer can turn it on again", permissions=["off"])
    def turn_off(self, request: HttpRequest, chosen: QuerySet[AutoRecharge]) -> None:
        on = chosen.filter(enabled=True).select_related("account")
        for found in on:
            auto_recharge.turn_off(account=found.account, by=request.user, reason=AutoRecharge.Stop.STAFF)  # type: ignore[arg-type]
        self.message_user(request, "It is off, and whoever may add funds is told.", messages.SUCCESS)


@admin.register(RechargeMail)
class RechargeMailAdmin(MailAdmin):
    subject = ["account", "recipient", "about", "reason", "payment"]
    list_filter = ["about", "state"]
    list_select_related = ["account", "recipient", "payment"]
