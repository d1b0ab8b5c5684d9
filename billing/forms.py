"""What people say on the pages of billing: how much they add, who is named on receipts, and what a list is narrowed to.
A filter is a GET form, so its address can be shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import F, Q
from django_countries import countries

from accounts.models import Account
from apikeys.models import ApiKey
from billing import money, periods
from billing.models import AutoRecharge, LanguageModel, UsageHour
from billing.payments.auto_recharge import Terms
from billing.periods import Period
from billing.templatetags.figures import OUTCOMES

OFFERED_KEYS = 500
MOST_DAYS = 366
FIRST_DAY = date(2020, 1, 1)
LAST_DAYS = {"today": 1, "7d": 7, "30d": 30}
PERIODS = [
    ("today", "Today"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("month", "This month"),
    ("custom", "From … to …"),
]
_COMMA_IN_A_NUMBER = re.compile(r"\d+,\d[\d,.]*")
_TAX_ID = re.compile(r"[\w./ -]{4,}")


class _DateInput(forms.DateInput):
    input_type = "date"


class FundsForm(forms.Form):
    """How much to add. Its id makes a form that is sent twice one payment."""

    OTHER = "other"

    amount = forms.ChoiceField(widget=forms.RadioSelect, required=False)
    other = forms.DecimalField(
        label="Another amount in USD",
        required=False,
        max_digits=12,
        decimal_places=2,
        widget=forms.NumberInput(attrs={"step": "0.01"}),
    )
    save_card = forms.BooleanField(
        label="Save the card",
        required=False,
        help_text="Stripe keeps it: it need not be typed again, and auto-recharge charges it where you turn that on. "
        "Leave this empty to pay once.",
    )
    form_id = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        offered = [(str(cents), money.display_cents(cents)) for cents in settings.TOPUP_AMOUNTS]
        self.fields["amount"].choices = [*offered, (self.OTHER, "Another amount")]  # type: ignore[attr-defined]
        self.fields["other"].help_text = f"{self._bounds}, before tax."

    @property
    def _bounds(self) -> str:
        least, most = (money.display_cents(c) for c in (settings.TOPUP_MIN_CENTS, settings.TOPUP_MAX_CENTS))
        return f"From {least} to {most}"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        other = cleaned.get("other")
        if not cleaned.get("amount") and not self.has_error("amount"):
            if self.data.get("other"):  # Who types another amount has chosen it.
                cleaned["amount"] = self.OTHER
            else:
                self.add_error("amount", "Choose an amount.")
        chosen = cleaned.get("amount")
        if chosen == self.OTHER and not self.has_error("other"):
            if other is None:
                self.add_error("other", "Say how much.")
            elif not settings.TOPUP_MIN_CENTS <= other * 100 <= settings.TOPUP_MAX_CENTS:
                self.add_error("other", f"One payment cannot be of this amount. {self._bounds}, please.")
        elif chosen and other is not None:
            self.add_error("other", "Choose «Another amount» to pay this, or leave it empty.")
        return cleaned

    @property
    def amount_cents(self) -> int:
        chosen = self.cleaned_data["amount"]
        return int(self.cleaned_data["other"] * 100) if chosen == self.OTHER else int(chosen)


def _dollars(label: str, help_text: str) -> forms.DecimalField:
    # As large as TOPUP_MAX_CENTS can be, times the hundred payments that a month may have.
    widget = forms.NumberInput(attrs={"step": "0.01"})
    return forms.DecimalField(
        label=label, min_value=0, max_digits=12, decimal_places=2, widget=widget, help_text=help_text
    )


class RechargeForm(forms.Form):
    """What a customer agrees to when auto-recharge is turned on, or changed."""

    DEFAULTS: Mapping[str, str] = {"threshold": "10", "amount": "25", "monthly_cap": "100", "interval": "60"}
    INTERVALS = [("10", "10 minutes"), ("60", "an hour"), ("360", "6 hours"), ("1440", "a day")]

    threshold = _dollars("When less than this can be spent, in USD", "The balance without what running calls hold.")
    amount = _dollars("Charge and add, in USD", "")
    monthly_cap = _dollars(
        "At most in a month, in USD", "A calendar month of UTC. Funds you add yourself do not count."
    )
    interval = forms.ChoiceField(label="From one charge to the next, at least", choices=INTERVALS)
    consent = forms.BooleanField(
        label="I agree that the saved card is charged like this while I am away, until I turn it off",
        error_messages={"required": "Nothing is charged without your consent."},
    )

    def __init__(self, data: Mapping[str, Any] | None, *, recharge: AutoRecharge | None) -> None:
        initial = dict(self.DEFAULTS) if recharge is None else _terms_of(recharge)
        super().__init__(data, initial=initial)
        least, most = (money.display_cents(c) for c in (settings.TOPUP_MIN_CENTS, settings.TOPUP_MAX_CENTS))
        self.fields["amount"].help_text = f"From {least} to {most}."

    @property
    def terms(self) -> Terms:
        cents = {name: int(self.cleaned_data[name] * 100) for name in ("threshold", "amount", "monthly_cap")}
        return Terms(
            threshold_cents=cents["threshold"],
            amount_cents=cents["amount"],
            monthly_cap_cents=cents["monthly_cap"],
            interval_minutes=int(self.cleaned_data["interval"]),
        )


def _terms_of(recharge: AutoRecharge) -> dict[str, str]:
    amounts = {
        "threshold": recharge.threshold_cents,
        "amount": recharge.amount_cents,
        "monthly_cap": recharge.monthly_cap_cents,
    }
    shown = {name: money.usd(money.from_cents(cents)) for name, cents in amounts.items()}
    return {**shown, "interval": str(recharge.interval_minutes)}


class PeriodFilter(forms.Form):
    """Which days, which key, which model. Days are those of UTC."""

    defaults: Mapping[str, str] = {"period": "7d"}

    period = forms.ChoiceField(label="Time", choices=PERIODS)
    since = forms.DateField(label="From", required=False, widget=_DateInput)
    until = forms.DateField(label="To", required=False, widget=_DateInput)
    key = forms.TypedChoiceField(coerce=int, empty_value=None, required=False)
    model = forms.TypedChoiceField(empty_value=None, required=False)

    def __init__(self, query: Mapping[str, str], *, account: Account, now: datetime) -> None:
        given = {name: value for name, value in query.items() if value}
        super().__init__({**self.defaults, **given}, auto_id="filter_%s")
        self.account = account
        self.today = now.astimezone(UTC).date()
        self.fields["key"].choices = [("", "All keys"), *_keys(account)]  # type: ignore[attr-defined]
        self._models = _models(account, asked=given.get("model", ""))
        names = [("", "All models"), *((name, name) for name in self._models)]
        self.fields["model"].choices = names  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("period") == "custom" and not self.errors:
            since, until = cleaned.get("since"), cleaned.get("until") or self.today
            if since is None:
                self.add_error("since", "Say from which day.")
            elif not FIRST_DAY <= since <= self.today:
                self.add_error("since", f"This is a day from {FIRST_DAY} to today, {self.today}.")
            elif until < since:
                self.add_error("until", "This is before the first day.")
            elif (min(until, self.today) - since).days >= MOST_DAYS:
                self.add_error("since", f"At most {MOST_DAYS} days can be looked at together.")
        return cleaned

    def chosen_period(self) -> Period:
        chosen = self.cleaned_data["period"]
        if chosen == "custom":
            until = self.cleaned_data["until"] or self.today
            return periods.of_days(self.cleaned_data["since"], min(until, self.today))
        if chosen == "month":
            return periods.of_days(self.today.replace(day=1), self.today)
        return periods.last_days(LAST_DAYS[chosen], now=periods.start_of(self.today))

    @property
    def model_id(self) -> int | None:
        name = self.cleaned_data["model"]
        return self._models[name] if name else None


class RedeemForm(forms.Form):
    code = forms.CharField(
        max_length=60,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "characters", "spellcheck": "false"}),
        help_text="Capital or small letters and hyphens make no difference.",
    )
    form_id = forms.UUIDField(widget=forms.HiddenInput)


class AlertsForm(forms.Form):
    amounts = forms.CharField(
        label="Amounts in USD",
        max_length=200,
        required=False,
        help_text="Such as 5, 50, 1500. Leave it empty to get none about the balance.",
    )
    statements = forms.BooleanField(
        label="A statement at the start of each month",
        required=False,
        help_text="When something moved in the month before.",
    )

    def clean_amounts(self) -> list[int]:
        text = self.cleaned_data["amounts"].replace("$", "")
        # 1,500 may mean $1,500 or $1 and $500, and 5,50 may mean $5.50.
        if unclear := _COMMA_IN_A_NUMBER.search(text):
            raise forms.ValidationError(
                f"{unclear[0]} can be one amount or several. Write one without a comma: 1500 or 2.50. Write a blank "
                "after the comma between two: 5, 50."
            )
        texts = text.replace(";", ",").split(",")
        try:
            return [money.from_usd(text) for text in texts if text.strip()]
        except money.InvalidAmount as fault:
            raise forms.ValidationError(str(fault)) from fault


class UsageFilter(PeriodFilter):
    defaults = {"period": "7d", "group": "model"}

    group = forms.ChoiceField(label="Split by", choices=[("model", "Model"), ("key", "Key"), ("none", "Nothing")])


class CallFilter(PeriodFilter):
    """`before` and `after` are the ids between which the page lies."""

    defaults = {"period": "any"}

    outcome = forms.TypedChoiceField(
        choices=[("", "All outcomes"), *OUTCOMES.items()],
        empty_value=None,
        required=False,
    )
    before = forms.UUIDField(required=False, widget=forms.HiddenInput)
    after = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, query: Mapping[str, str], *, account: Account, now: datetime) -> None:
        super().__init__(query, account=account, now=now)
        self.fields["period"].choices = [("any", "Any time"), *PERIODS]  # type: ignore[attr-defined]

    @property
    def any_time(self) -> bool:
        return bool(self.cleaned_data["period"] == "any")


def _keys(account: Account) -> list[tuple[int, str]]:
    keys = ApiKey.objects.of_account(account).order_by(F("revoked_at").desc(nulls_first=True), "-id")
    return [
        (key.pk, f"{key.name} ({key.display}{', revoked' if key.revoked_at else ''})") for key in keys[:OFFERED_KEYS]
    ]


def _models(account: Account, *, asked: str) -> dict[str, int]:
    """Public id -> id of what is shown for sale to the account. Any other is known to who has used it."""
    sold = Q(price_versions__account=None) | Q(price_versions__account=account)
    known = LanguageModel.objects.filter(sold, listed=True, hidden=False, price_versions__isnull=False).distinct()
    models = dict(known.order_by("public_id").values_list("public_id", "pk"))
    if asked and asked not in models and "\0" not in asked:
        other = LanguageModel.objects.filter(public_id=asked).first()
        if other is not None and UsageHour.objects.filter(account=account, model=other).exists():
            models[other.public_id] = other.pk
    return models


def _autofill(what: str) -> forms.TextInput:
    return forms.TextInput(attrs={"autocomplete": what})


class DetailsForm(forms.Form):
    """Who is named on receipts. Fields are those of `billing.details`; blanks around and between words are tidied."""

    company = forms.CharField(max_length=200, required=False, widget=_autofill("organization"))
    name = forms.CharField(label="Name of a person", max_length=200, required=False, widget=_autofill("name"))
    address = forms.CharField(label="Street and number", max_length=200, widget=_autofill("address-line1"))
    address_more = forms.CharField(
        label="Building, floor", max_length=200, required=False, widget=_autofill("address-line2")
    )
    postal_code = forms.CharField(max_length=20, required=False, widget=_autofill("postal-code"))
    city = forms.CharField(max_length=100, widget=_autofill("address-level2"))
    region = forms.CharField(
        label="State or region", max_length=100, required=False, widget=_autofill("address-level1")
    )
    country = forms.ChoiceField(
        choices=lambda: [("", "Choose"), *countries], widget=forms.Select(attrs={"autocomplete": "country"})
    )
    tax_id = forms.CharField(
        label="Tax id",
        max_length=40,
        required=False,
        help_text="VAT, GST or EIN number, as you want it printed. It is not looked up anywhere.",
    )
    email = forms.EmailField(
        label="E-mail for receipts",
        max_length=254,
        required=False,
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
        help_text="For example of your bookkeeping. Empty: everybody who may add funds.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        tidied = {name: " ".join(value.split()) for name, value in cleaned.items()}
        if not tidied.get("company") and not tidied.get("name") and not {"company", "name"} & self.errors.keys():
            self.add_error("company", "Say for whom receipts are: a company, a person, or both.")
        if (tax_id := tidied.get("tax_id")) and not _TAX_ID.fullmatch(tax_id):
            self.add_error("tax_id", "A tax id has letters, digits, blanks and . - / only, and at least four of them.")
        return tidied
