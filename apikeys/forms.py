"""What people say when they make and change keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.core.validators import MaxValueValidator

from accounts.models import Tier
from apikeys import keys
from apikeys.keys import NAME_LENGTH, PICO_PER_USD, SpendCap
from apikeys.models import ApiKey, SpendPeriod

DAY = 24 * 3600


class NewKeyForm(forms.Form):
    LIFETIMES: ClassVar = [("", "Never"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")]

    name = forms.CharField(max_length=NAME_LENGTH, help_text="What will use it, such as “staging” or “Ana's laptop”.")
    lifetime_days = forms.TypedChoiceField(
        label="Expires",
        choices=LIFETIMES,
        coerce=int,
        empty_value=None,
        required=False,
        widget=forms.RadioSelect,
        help_text="An expired key is refused with 401. You can rotate it before.",
    )
    creation_id = forms.UUIDField(widget=forms.HiddenInput)

    @property
    def lifetime(self) -> timedelta | None:
        days = self.cleaned_data["lifetime_days"]
        return timedelta(days=days) if days else None


class LimitsForm(forms.Form):
    """What a key may do, beside the limits of its account: those are for all of its keys together, and never looser."""

    RATES: ClassVar = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")

    spend_cap = forms.DecimalField(
        label="Spend cap in USD",
        required=False,
        min_value=Decimal("0.000001"),
        max_value=1_000_000,
        decimal_places=6,
        widget=forms.NumberInput(attrs={"step": "any"}),
        help_text="A call that could cost more than is left is refused with 402. What was spent in the period counts.",
    )
    spend_period = forms.TypedChoiceField(
        label="The cap counts",
        choices=SpendPeriod.choices,
        coerce=SpendPeriod,
        initial=SpendPeriod.MONTH,
        empty_value=SpendPeriod.MONTH,
        required=False,
        widget=forms.RadioSelect,
        help_text="Days and months are those of UTC.",
    )
    requests_per_minute = forms.IntegerField(label="Requests per minute", required=False, min_value=1)
    tokens_per_minute = forms.IntegerField(label="Tokens per minute", required=False, min_value=1)
    concurrent_requests = forms.IntegerField(label="Requests at the same time", required=False, min_value=1)

    def __init__(self, data: Mapping[str, str] | None, *, tier: Tier, key: ApiKey | None = None) -> None:
        super().__init__(data, initial=_limits_of(key) if key else None)
        for name in self.RATES:
            most = getattr(tier, name)
            self.fields[name].help_text = f"At most {most:,}, which is the limit of your account."
            self.fields[name].validators.append(MaxValueValidator(most, f"Your account has a limit of {most:,}."))

    @property
    def limits(self) -> dict[str, int | None]:
        return {name: self.cleaned_data[name] for name in self.RATES}

    @property
    def cap(self) -> SpendCap | None:
        usd = self.cleaned_data["spend_cap"]
        return SpendCap(int(usd * PICO_PER_USD), self.cleaned_data["spend_period"]) if usd else None


def _limits_of(key: ApiKey) -> dict[str, Any]:
    cap = keys.cap_of(key)
    money = {"spend_cap": f"{Decimal(cap.amount) / PICO_PER_USD:f}", "spend_period": cap.period} if cap else {}
    return {**{name: getattr(key, name) for name in LimitsForm.RATES}, **money}


class RenameForm(forms.Form):
    name = forms.CharField(max_length=NAME_LENGTH)


class RotateForm(forms.Form):
    OVERLAPS: ClassVar = [
        (0, "Now: it has leaked"),
        (3600, "In an hour"),
        (DAY, "In 24 hours"),
        (7 * DAY, "In 7 days"),
    ]

    overlap_seconds = forms.TypedChoiceField(
        label="The old key stops working",
        choices=OVERLAPS,
        coerce=int,
        initial=DAY,
        widget=forms.RadioSelect,
        help_text="Until then both keys work, so that you can put the new one in place without an outage.",
    )
    creation_id = forms.UUIDField(widget=forms.HiddenInput)

    @property
    def overlap(self) -> timedelta:
        return timedelta(seconds=self.cleaned_data["overlap_seconds"])


class RevokeForm(forms.Form):
    name = forms.CharField(label="Name of the key", widget=forms.TextInput(attrs={"autocomplete": "off"}))

    def __init__(self, *args: Any, key: ApiKey, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._key = key

    def clean_name(self) -> str:
        if self.cleaned_data["name"] != self._key.name:
            raise forms.ValidationError("That is not the name of this key, letter for letter. Nothing was revoked.")
        return self._key.name
