"""What people say when they make and change keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django import forms

from apikeys.keys import NAME_LENGTH
from apikeys.models import ApiKey

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
