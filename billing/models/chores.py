"""What the background work says of itself. A **PeriodicTask** is a task of the schedule, and when it last did its work;
a **PromiseCheck** is what the last proof of the books found of one promise."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class PeriodicTask(models.Model):
    name = models.CharField(max_length=200, primary_key=True)
    every_seconds = models.PositiveIntegerField()
    sent_at = models.DateTimeField(help_text="When the message was sent that a worker worked on last.")
    done_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class PromiseCheck(models.Model):
    promise = models.CharField(max_length=10, primary_key=True)
    broken = models.PositiveIntegerField(help_text="Rows that break it.")
    checked_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.promise
