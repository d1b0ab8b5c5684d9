"""Deleting rows whose time is over, a few at a time, so that no lock is long and no memory fills."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet


def delete(old: QuerySet[Any], *, at_once: int) -> int:
    """Delete all of them; returns how many."""
    total = 0
    while ids := list(old.values_list("pk", flat=True)[:at_once]):
        total += old.model.objects.filter(pk__in=ids).delete()[0]
    return total
