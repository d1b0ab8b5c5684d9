"""An **ApiKey** proves that a program acts for an account. Its secret is stored as a digest only."""

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


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def of_account(self, account: Account) -> Self:
        return self.filter(account=account)

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
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.display})"
