"""An **ApiKey** proves that a program acts for an account. Its secret is stored as a digest only.

A key and those that replaced it, one after another, are a **line**, which goes by the id of its first key. What they
may spend in a **SpendPeriod** they spend together: a rotation does not start it anew. The cap is stored here, on every
key of the line; billing counts and enforces it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self

import pghistory
from django.conf import settings
from django.db import models
from django.db.models import Case, Q, Value, When
from django.db.models.functions import Length
from django.db.models.lookups import Exact

from accounts.models import Account


class State(models.TextChoices):
    """What the gateway says to a key: `active` and `expiring` are let in."""

    ACTIVE = "active"
    EXPIRING = "expiring"
    DISABLED = "disabled"
    EXPIRED = "expired"
    REVOKED = "revoked"


class SpendPeriod(models.TextChoices):
    """How long a spend cap is counted before it starts again. Days and months are those of UTC."""

    DAY = "day", "per day"
    MONTH = "month", "per month"
    TOTAL = "total", "in total"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def of_account(self, account: Account) -> Self:
        return self.filter(account=account)

    def of_line(self, line_id: int) -> Self:
        return self.filter(Q(pk=line_id) | Q(first=line_id))

    def usable(self, now: datetime) -> Self:
        """Neither revoked, disabled nor expired."""
        return self.filter(revoked_at=None, disabled_at=None).exclude(expires_at__lte=now)

    def standing(self, now: datetime) -> Self:
        """Neither revoked nor expired; may be disabled."""
        return self.filter(revoked_at=None).exclude(expires_at__lte=now)

    def ended(self, now: datetime) -> Self:
        """Revoked or expired: they never work again."""
        return self.filter(Q(revoked_at__isnull=False) | Q(expires_at__lte=now))

    def with_state(self, now: datetime) -> Self:
        return self.annotate(
            state=Case(
                When(revoked_at__isnull=False, then=Value(State.REVOKED)),
                When(expires_at__lte=now, then=Value(State.EXPIRED)),
                When(disabled_at__isnull=False, then=Value(State.DISABLED)),
                When(expires_at__isnull=False, then=Value(State.EXPIRING)),
                default=Value(State.ACTIVE),
            )
        )


@pghistory.track(exclude=["digest", "last_used_at"], model_name="ApiKeyHistory")
class ApiKey(models.Model):
    state: str  # Of rows that came by `with_state`.

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    display = models.CharField(max_length=20, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Refused with 401 from this moment.")
    disabled_at = models.DateTimeField(null=True, blank=True, help_text="Refused with 403; can be taken back.")
    revoked_at = models.DateTimeField(null=True, blank=True, help_text="Refused with 401, for ever.")
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="Some seconds late; written by the gateway.")
    creation_id = models.UUIDField(null=True, editable=False, help_text="Of the form; a form makes one key at most.")
    replaces = models.OneToOneField(
        "self", null=True, editable=False, on_delete=models.PROTECT, related_name="successor"
    )
    # Limits of its own, beside those of the account, which count for every key. None: the account's alone.
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_requests = models.PositiveIntegerField(null=True, blank=True)
    first = models.ForeignKey(
        "self",
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Of its line. Empty: itself.",
    )
    spend_cap = models.BigIntegerField(null=True, blank=True, help_text="Pico-USD for each period. Empty: no cap.")
    spend_period = models.CharField(max_length=10, blank=True, db_default="", choices=SpendPeriod.choices)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        constraints = [
            models.CheckConstraint(condition=Exact(Length("digest"), 32), name="apikey_digest_is_sha256"),
            models.UniqueConstraint(fields=["account", "creation_id"], name="apikey_created_once"),
            models.CheckConstraint(
                condition=Q(requests_per_minute__gte=1, tokens_per_minute__gte=1, concurrent_requests__gte=1),
                name="apikey_limits_positive",  # One that is null is no limit, and passes.
            ),
            models.CheckConstraint(
                condition=Q(spend_cap=None, spend_period="")
                | Q(spend_cap__isnull=False, spend_cap__gt=0, spend_period__in=SpendPeriod.values),
                name="apikey_spend_cap_has_period",
            ),
        ]
        # Admission asks of every call whether its key has a cap.
        indexes = [models.Index(fields=["id"], name="apikey_capped", condition=Q(spend_cap__isnull=False))]

    def __str__(self) -> str:
        return f"{self.name} ({self.display})"

    @property
    def line_id(self) -> int:
        return self.first_id or self.pk
