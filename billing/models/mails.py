"""What every mail has that must be sent once, and again where the mail server failed (`billing.outbox`)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class OutboxMail(models.Model):
    """`next_attempt_at` is set while it waits: a worker that takes it moves it, so that no other takes it, too."""

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        DROPPED = "dropped", "not needed any more"
        FAILED = "failed", "given up"

    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    error = models.CharField(max_length=100, blank=True, db_default="", help_text="The kind of the last fault.")
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True
        constraints: ClassVar[tuple[models.BaseConstraint, ...]] = (
            models.CheckConstraint(
                condition=Q(state="sent", sent_at__isnull=False) | (~Q(state="sent") & Q(sent_at=None)),
                name="%(class)s_sent_at",
            ),
        )
        indexes: ClassVar[tuple[models.Index, ...]] = (
            models.Index(fields=["next_attempt_at"], name="%(class)s_waiting", condition=Q(state="waiting")),
        )

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"
