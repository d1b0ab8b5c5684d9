"""What is sold.

A **LanguageModel** is an entry of the public list. A **PriceVersion** is its price from one moment to another: the
list price, or one customer's contract price, which replaces it. A **PriceRate** is one meter of a version, in
pico-USD per token, from a prompt length (context band) upwards. Prices are superseded, never edited.
"""

from __future__ import annotations

import pghistory
from django.conf import settings
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.db import models
from django.db.models.functions import Now

from accounts.models import Account


@pghistory.track(model_name="LanguageModelHistory")
class LanguageModel(models.Model):
    class Type(models.TextChoices):
        CHAT = "chat"
        REASONING = "reasoning"
        COMPLETION = "completion"
        EMBEDDING = "embedding"

    public_id = models.CharField(max_length=100, unique=True, help_text="What customers write in `model`.")
    family = models.CharField(max_length=50)
    name = models.CharField(max_length=100)
    type = models.CharField(max_length=20, choices=Type.choices)
    context_tokens = models.PositiveIntegerField(help_text="Prompt and answer together.")
    max_output_tokens = models.PositiveIntegerField()
    listed = models.BooleanField(default=True, help_text="Unlisted models are neither shown nor sold.")
    hidden = models.BooleanField(
        default=False, help_text="Hidden models are sold to who knows their id, but not shown."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "model"
        constraints = [
            models.CheckConstraint(
                # The upper bound keeps the dearest hold far below what a BIGINT holds.
                condition=models.Q(
                    max_output_tokens__gte=1,
                    context_tokens__gte=models.F("max_output_tokens"),
                    context_tokens__lte=10_000_000,
                ),
                name="model_limits_sane",
            )
        ]

    def __str__(self) -> str:
        return self.public_id


class _Period(models.Func):
    """The half-open period [starts_at, ends_at) of a price, as PostgreSQL's range."""

    function = "TSTZRANGE"
    output_field = DateTimeRangeField()


class PriceVersion(models.Model):
    """A trigger refuses every change but one: the end may move from open to a moment not yet past."""

    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="price_versions")
    account = models.ForeignKey(
        Account,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Empty: the list price.",
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="price_ends_after_start",
            ),
            ExclusionConstraint(
                name="price_list_no_overlap",
                condition=models.Q(account=None),
                expressions=[
                    ("model", RangeOperators.EQUAL),
                    (_Period("starts_at", "ends_at", RangeBoundary()), RangeOperators.OVERLAPS),
                ],
            ),
            ExclusionConstraint(
                name="price_contract_no_overlap",
                condition=models.Q(account__isnull=False),
                expressions=[
                    ("account", RangeOperators.EQUAL),
                    ("model", RangeOperators.EQUAL),
                    (_Period("starts_at", "ends_at", RangeBoundary()), RangeOperators.OVERLAPS),
                ],
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.starts_at:%Y-%m-%d %H:%M:%S}"


class PriceRate(models.Model):
    """Immutable, and so is the set of rates of a version once its transaction is over (a trigger)."""

    class Meter(models.TextChoices):
        INPUT = "input"
        CACHED_INPUT = "cached_input"
        OUTPUT = "output"

    version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, related_name="rates")
    meter = models.CharField(max_length=20, choices=Meter.choices)
    context_from = models.PositiveIntegerField(
        default=0, help_text="Prompt tokens from which this rate holds for the whole call."
    )
    pico_per_token = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "meter", "context_from"], name="rate_unique"),
            models.CheckConstraint(condition=models.Q(pico_per_token__gte=1), name="rate_positive"),
            models.CheckConstraint(
                condition=models.Q(meter__in=["input", "cached_input", "output"]), name="rate_meter_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.meter} {self.pico_per_token}"
