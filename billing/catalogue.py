"""The catalogue of models, and what a new installation starts with: `catalogue.json`, 16 models in 6 families.

Prices there are USD per million tokens as decimal strings; `cached_input` null means that cached tokens cost the
input price. Loading adds what is missing and changes nothing that is there: from then on operators own it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from django.db import transaction

from billing import money, pricing
from billing.models import LanguageModel

_FILE = Path(__file__).with_name("catalogue.json")


class UnknownModels(Exception):
    """The catalogue lacks a model of this id."""


def find(public_ids: Iterable[str]) -> list[LanguageModel]:
    """The models of these ids, in no order. Raises UnknownModels, which names all that are missing."""
    wanted = set(public_ids)
    models = list(LanguageModel.objects.filter(public_id__in=wanted))
    unknown = wanted - {model.public_id for model in models}
    if unknown:
        known = LanguageModel.objects.order_by("public_id").values_list("public_id", flat=True)
        raise UnknownModels(f"Unknown models: {', '.join(sorted(unknown))}. The catalogue has: {', '.join(known)}.")
    return models


def load(*, now: datetime) -> int:
    """Add the models of the file that are not there yet, each with its list price; returns how many were added."""
    added = 0
    for entry in json.loads(_FILE.read_text(encoding="utf-8")):
        with transaction.atomic():
            model, new = LanguageModel.objects.get_or_create(
                public_id=entry["id"],
                defaults={
                    "family": entry["family"],
                    "name": entry["name"],
                    "type": entry["type"],
                    "context_tokens": entry["context"],
                    "max_output_tokens": entry["max_output"],
                },
            )
            if new:
                rates = {meter: entry[meter] for meter in ("input", "cached_input", "output") if entry[meter]}
                rates = {meter: money.rate_from_usd_per_million(text) for meter, text in rates.items()}
                pricing.set_price(model=model, rates=rates, now=now)
                added += 1
    return added
