"""The calls.

A **Hold** is the most a running call can cost, taken from what the wallet can spend. A **KeyBudget** is what a line of
keys has spent and holds in one period; it is compared with the spend cap of the key. A **UsageRecord** is what the
call used and was charged; its id is the id of the call and of the hold. Calls that failed free leave no record: they
count in **ReleasedHolds** (admitted, then free) or **RefusedCalls** (never admitted). **UsageHour** is the roll-up that
pages read. A **GatewayProcess** is a heartbeat: whose holds are alive. A **LateUsageRecord** came after the sweeper had
already closed its call; it moves no money and waits for a person. All amounts are pico-USD.

Rows of the hot path carry no foreign keys to keys, models and prices: each would lock a shared row on every call. Those
rows are never deleted, and `check_books` proves what matters.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account
from apikeys.models import ApiKey, SpendPeriod
from billing.models.catalogue import LanguageModel, PriceVersion
from billing.models.wallets import Transfer, Wallet


class GatewayProcess(models.Model):
    boot = models.UUIDField(primary_key=True, help_text="Made anew at each start.")
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(db_default=Now())
    beat = models.BigIntegerField(default=0)
    beat_at = models.DateTimeField(db_default=Now())
    # Written by the sweeper: the beat it saw, since when it has been unchanged, and when it looked last. Only the
    # database's clock counts.
    seen_beat = models.BigIntegerField(default=-1)
    seen_at = models.DateTimeField(db_default=Now())
    swept_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "gateway processes"

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class KeyBudget(models.Model):
    """Opened by the first call of a line of keys in a period, and kept: what was spent in a period stays true.

    `spent` is the sum of all that the line's keys were charged for calls of the period, whether they had a cap or not.
    `held` is the sum of the open holds that were admitted under a cap. It moves only behind the lock of its wallet.
    """

    line = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+", help_text="The first key of the line.")
    period = models.CharField(max_length=10, choices=SpendPeriod.choices)
    starts_at = models.DateTimeField(help_text="Midnight UTC; of a budget in total, the year 1970.")
    spent = models.BigIntegerField()
    held = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["line", "period", "starts_at"], name="keybudget_unique"),
            models.CheckConstraint(condition=Q(spent__gte=0), name="keybudget_spent_not_negative"),
            models.CheckConstraint(condition=Q(held__gte=0), name="keybudget_held_not_negative"),
            models.CheckConstraint(condition=Q(period__in=SpendPeriod.values), name="keybudget_period_known"),
        ]

    def __str__(self) -> str:
        return f"{self.line_id} {self.period} from {self.starts_at:%Y-%m-%d}"


class Hold(models.Model):
    """Deleted when it ends: at settlement, or by a release with a reason."""

    id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="holds", db_column="account_id")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False)
    model = models.ForeignKey(
        LanguageModel, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    amount = models.BigIntegerField()
    available_after = models.BigIntegerField(help_text="What the wallet could still spend after this admission.")
    budget = models.ForeignKey(
        KeyBudget, null=True, on_delete=models.PROTECT, related_name="holds", db_constraint=False, db_index=False
    )
    budget_left_after = models.BigIntegerField(
        null=True, help_text="What the key could still spend in its period after this admission. Empty: it had no cap."
    )
    streamed = models.BooleanField()
    owner = models.UUIDField(help_text="The boot of the process that runs the call.")
    admitted_at = models.DateTimeField(help_text="The moment in its id.")
    expires_at = models.DateTimeField(help_text="Ended by the sweeper after this moment, whoever owns it.")
    # What the call had produced at the last checkpoint; empty until the backend has accepted it.
    backend = models.CharField(max_length=100, blank=True, default="")
    attempt = models.PositiveSmallIntegerField(default=1)
    checkpoint_input_tokens = models.BigIntegerField(null=True)
    checkpoint_output_tokens = models.BigIntegerField(null=True)
    # Set together with the sweeper's record, so that nobody releases a hold that has one.
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="hold_amount_not_negative"),
            models.CheckConstraint(condition=Q(available_after__gte=0), name="hold_available_after_not_negative"),
            models.CheckConstraint(
                condition=Q(budget=None, budget_left_after=None)
                | Q(budget__isnull=False, budget_left_after__isnull=False, budget_left_after__gte=0),
                name="hold_budget_left_after_not_negative",
            ),
        ]
        indexes = [
            models.Index(fields=["owner"], name="hold_owner"),
            models.Index(fields=["expires_at"], name="hold_expires"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class UsageRecord(models.Model):
    """Partitioned by month of its id (a UUIDv7, so by admission), see `billing.partitions`."""

    class Outcome(models.TextChoices):
        COMPLETED = "completed", "completed"
        CLIENT_CLOSED = "client_closed", "the customer hung up"
        BACKEND_FAILED = "backend_failed", "backend failed after it had accepted"
        SERVER_STOPPED = "server_stopped", "stopped by a shutdown of ours"
        KEY_DISABLED = "key_disabled", "stopped because its key or account was disabled"
        UNRESOLVED = "unresolved", "its process died before a checkpoint"
        SWEPT = "swept", "its process died; charged by the last checkpoint"

    class Source(models.TextChoices):
        BACKEND = "backend", "counted by the backend"
        ESTIMATED = "estimated", "counted by us from what was relayed"
        CHECKPOINT = "checkpoint", "counted by us at the last checkpoint"
        NONE = "none", "nothing known"

    id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False)
    model = models.ForeignKey(
        LanguageModel, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    backend = models.CharField(max_length=100)
    attempt = models.PositiveSmallIntegerField()
    streamed = models.BooleanField()
    outcome = models.CharField(max_length=20, choices=Outcome.choices)
    source = models.CharField(max_length=20, choices=Source.choices)
    finish_reason = models.CharField(max_length=30, blank=True)
    admitted_at = models.DateTimeField(help_text="The moment in its id; its UTC day and hour are those of the bill.")
    recorded_at = models.DateTimeField(db_default=Now())
    first_token_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField(null=True)
    input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    held = models.BigIntegerField(help_text="The amount of its hold.")
    charge = models.BigIntegerField()
    clamped = models.BooleanField(help_text="The usage cost more than the hold, which is all that was charged.")
    upstream_cost = models.BigIntegerField(null=True, help_text="What the backend charges us, where known.")
    settled_at = models.DateTimeField(null=True)
    transfer = models.ForeignKey(
        Transfer,
        null=True,
        on_delete=models.PROTECT,
        related_name="records",
        db_constraint=False,
        db_index=False,
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(charge__gte=0, charge__lte=F("held")), name="usage_charge_within_hold"),
            models.CheckConstraint(
                condition=Q(
                    input_tokens__gte=F("cached_input_tokens"),
                    cached_input_tokens__gte=0,
                    output_tokens__gte=F("reasoning_tokens"),
                    reasoning_tokens__gte=0,
                ),
                name="usage_tokens_sane",
            ),
            models.CheckConstraint(
                condition=Q(settled_at=None, transfer=None)
                | Q(settled_at__isnull=False) & (Q(charge=0) | Q(transfer__isnull=False)),
                name="usage_settled_has_transfer",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "id"], name="usage_pending", condition=Q(settled_at=None)),
            models.Index(fields=["account", "-id"], name="usage_of_account"),
            models.Index(fields=["transfer"], name="usage_of_transfer"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class LateUsageRecord(models.Model):
    id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    record = models.JSONField(help_text="The record as the gateway sent it, after another had closed the call.")
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return str(self.id)


class UsageHour(models.Model):
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+")
    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="+")
    hour = models.DateTimeField()
    calls = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    charge = models.BigIntegerField()
    upstream_cost = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "hour", "api_key", "model"], name="usagehour_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} {self.hour:%Y-%m-%d %H}h"


class ReleasedHolds(models.Model):
    """Holds of one account that ended free within an hour, by reason."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    hour = models.DateTimeField()
    reason = models.CharField(max_length=40)
    calls = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "released holds"
        constraints = [models.UniqueConstraint(fields=["account", "hour", "reason"], name="releasedholds_unique")]

    def __str__(self) -> str:
        return f"{self.calls} x {self.reason}"


class RefusedCalls(models.Model):
    """Calls that were refused within an hour. Counted in memory and added every few seconds: no money hangs on them."""

    account = models.ForeignKey(Account, null=True, on_delete=models.PROTECT, related_name="+")
    hour = models.DateTimeField()
    status = models.PositiveSmallIntegerField()
    code = models.CharField(max_length=60)
    calls = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "refused calls"
        constraints = [
            models.UniqueConstraint(
                fields=["account", "hour", "status", "code"], name="refusedcalls_unique", nulls_distinct=False
            )
        ]

    def __str__(self) -> str:
        return f"{self.calls} x {self.status} {self.code}"
