"""Where calls go.

A **Backend** is an OpenAI-compatible inference server. A **Route** says that a backend serves a model, under which
name, and in which order of preference; a **RoutePrice**, what the backend charges us for it. An **Attempt** is what
became of asking one backend for one call. An **IdempotentCall** is what a customer's Idempotency-Key stands for.
"""

from __future__ import annotations

import re

import pghistory
from django.conf import settings
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeBoundary, RangeOperators
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Length, Now
from django.db.models.lookups import Exact

from billing.models import LanguageModel
from gateway.faults import Fault

# What a call says for itself, and words that some backend takes for it or prefers to it: a backend's settings must not
# say it in its place. The length of the prompt and of the answer, and their number, are what the hold is made for.
SAID_BY_THE_CALL = [
    "background", "best_of", "chat_template", "echo", "functions", "generation_config", "input",
    "max_completion_tokens", "max_new_tokens", "max_tokens", "messages", "model", "models", "n", "n_cmpl", "n_predict",
    "num_beams", "num_predict", "num_return_sequences", "options", "plugins", "prompt", "prompt_embeds", "stream",
    "stream_options", "suffix", "tools", "use_beam_search", "web_search_options",
]  # fmt: skip

# What an attempt may come to without a fault of the backend. Everything else is a failure.
NO_FAILURES = ("ok", "prompt_refused", "left")


def parameter_names(names: list[str]) -> None:
    """Raises ValidationError."""
    if not all(re.fullmatch("[A-Za-z0-9_]+", name) for name in names):
        raise ValidationError("A parameter's name has letters, digits and underscores, such as tool_choice.")


def _at_least_one(*names: str) -> models.Q:
    """What may be missing, but not zero."""
    return models.Q(*(models.Q(**{name: None}) | models.Q(**{f"{name}__gte": 1}) for name in names))


class _JsonType(models.Func):
    function = "JSONB_TYPEOF"
    output_field = models.TextField()


@pghistory.track(exclude=["credential"], model_name="BackendHistory")
class Backend(models.Model):
    class StreamUsage(models.TextChoices):
        LAST = "last", "asked for once, at the end (all servers that know stream_options)"
        RUNNING = "running", "asked for with every piece (vLLM, SGLang): who hangs up pays the exact count"
        UNASKED = "unasked", "not asked for (servers that refuse stream_options): as they send it, else by our count"

    name = models.CharField(max_length=100, unique=True)
    base_url = models.CharField(max_length=500, help_text="Up to and with /v1, as an OpenAI client would be given it.")
    credential = models.BinaryField(null=True, editable=False, help_text="Encrypted; see gateway.credentials.")
    enabled = models.BooleanField(default=True)
    max_concurrent = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="The most calls at the same time, of all our processes together. Empty: no such limit.",
    )
    connect_seconds = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(60)],
        help_text="To connect, with the name looked up and TLS. Empty: 5.",
    )
    first_token_seconds = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="From the call to the first event of a stream; later, another backend is asked. Comments do not "
        "count. Empty: only silences are bounded.",
    )
    idle_seconds = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="The longest silence in a stream. Empty: GATEWAY_IDLE_SECONDS.",
    )
    ca_certificate = models.TextField(
        "CA certificate", blank=True, help_text="PEM. The only ones that may sign its certificate. Empty: public ones."
    )
    proxy_url = models.CharField(
        "proxy", max_length=500, blank=True, help_text="The way there, such as http://proxy:3128. Empty: directly."
    )
    allowed_parameters = ArrayField(
        models.CharField(max_length=100),
        validators=[parameter_names],
        default=list,
        blank=True,
        help_text="Names with commas between them, such as seed, tools, tool_choice. The backend gets no other "
        "parameters than these, the prompt, max_tokens and stream. Empty: it gets all.",
    )
    denied_parameters = ArrayField(
        models.CharField(max_length=100),
        validators=[parameter_names],
        default=list,
        blank=True,
        help_text="What the backend never gets, because it would refuse or misread it; also where it is a default of "
        "ours. A customer who sends it is answered as without it.",
    )
    developer_role = models.BooleanField(
        default=False, help_text="The backend knows the role developer. Else its messages go out as those of system."
    )
    renamed_parameters = models.JSONField(
        default=dict,
        blank=True,
        help_text='What the backend calls a parameter, such as {"max_tokens": "max_completion_tokens"}; also where it '
        "is a default of ours. Allow and deny it by the name that customers use.",
    )
    added_parameters = models.JSONField(
        default=dict,
        blank=True,
        help_text='What goes with every call, such as {"provider": {"sort": "price"}}, in place of what a customer '
        "sends under that name. Not the model, the prompt, and what bounds the answer.",
    )
    usage_in_streams = models.CharField(
        max_length=10,
        choices=StreamUsage.choices,
        default=StreamUsage.LAST,
        help_text="Read wherever known servers put it: at the end, with the last piece, in choices[0], in x_groq.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Exact(_JsonType("renamed_parameters"), "object"), name="backend_renamed_is_object"
            ),
            models.CheckConstraint(
                condition=Exact(_JsonType("added_parameters"), "object")
                & ~models.Q(added_parameters__has_any_keys=SAID_BY_THE_CALL),
                name="backend_added_leaves_the_call",
            ),
            models.CheckConstraint(
                condition=_at_least_one("max_concurrent", "connect_seconds", "first_token_seconds", "idle_seconds"),
                name="backend_limits_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name


@pghistory.track(model_name="RouteHistory")
class Route(models.Model):
    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="routes")
    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="routes")
    backend_model = models.CharField(max_length=200, help_text="The backend's own name of the model.")
    priority = models.PositiveSmallIntegerField(default=0, help_text="Lower is tried first.")
    weight = models.PositiveSmallIntegerField(default=1, help_text="Share among equal priorities.")
    enabled = models.BooleanField(default=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "backend"], name="route_unique"),
            models.CheckConstraint(condition=models.Q(weight__gte=1), name="route_weight_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.backend}"


class Attempt(models.Model):
    """One request to one backend. A call has several where backends failed; free calls have theirs too.

    No constraint on the model: what was done is written whatever became of the row since.
    """

    class Result(models.TextChoices):
        OK = "ok", "answered"
        NO_CONNECTION = "no_connection", "no connection"
        STATUS = "status", "refused by status"
        PROMPT_REFUSED = "prompt_refused", "prompt refused"
        SILENT = "silent", "nothing came in time"
        BROKEN = "broken", "answer broke off"
        GARBAGE = "garbage", "not an answer"
        LEFT = "left", "left by us"  # The customer hung up, the call was stopped, or it took too long.

    call_id = models.UUIDField()
    number = models.PositiveSmallIntegerField()
    model = models.ForeignKey(LanguageModel, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    backend = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    result = models.CharField(max_length=20, choices=Result.choices)
    fault = models.CharField(
        max_length=20,
        choices=Fault.choices,
        blank=True,
        db_default="",  # Processes of the version before this column still write their attempts.
        help_text="What was wrong with what came, if anything was.",
    )
    status = models.PositiveSmallIntegerField(null=True, help_text="Of the backend's HTTP answer, if there was one.")
    first_event_ms = models.PositiveIntegerField(null=True, help_text="Of streams, since the attempt began.")
    duration_ms = models.PositiveIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    estimated = models.BooleanField(help_text="The tokens are our own count: what the backend may have worked on.")
    upstream_cost = models.BigIntegerField(null=True, help_text="What the backend charges us, where known.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["call_id", "number"], name="attempt_unique")]
        indexes = [
            # For who looks at the last ones of one kind.
            models.Index(fields=["fault", "-id"], name="attempt_faults", condition=~models.Q(fault="")),
            # Failures are few, and asked for by who looks at how backends do.
            models.Index(fields=["call_id"], condition=~models.Q(result__in=NO_FAILURES), name="attempt_failed"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of call {self.call_id}"


class _Period(models.Func):
    """The half-open period [starts_at, ends_at), as PostgreSQL's range."""

    function = "TSTZRANGE"
    output_field = DateTimeRangeField()


class RoutePrice(models.Model):
    """What the backend charges us, in pico-USD per token. A trigger refuses every change but an end of what is open."""

    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="prices")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    input = models.BigIntegerField()
    cached_input = models.BigIntegerField()
    output = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="route_price_ends_after_start",
            ),
            models.CheckConstraint(
                condition=models.Q(input__gte=0, cached_input__gte=0, output__gte=0), name="route_price_not_negative"
            ),
            ExclusionConstraint(
                name="route_price_no_overlap",
                expressions=[
                    ("route", RangeOperators.EQUAL),
                    (_Period("starts_at", "ends_at", RangeBoundary()), RangeOperators.OVERLAPS),
                ],
            ),
        ]

    def __str__(self) -> str:
        return f"{self.route} from {self.starts_at:%Y-%m-%d %H:%M:%S}"


class IdempotentCall(models.Model):
    """One key of one account and endpoint: the call that has it, and for a day the answer that the call gave.

    No foreign keys: the row is written in the middle of a call, and forgotten after a day.
    """

    account_id = models.BigIntegerField()
    endpoint = models.CharField(max_length=50)
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32, help_text="SHA-256 of the request's body, its keys in order.")
    call_id = models.UUIDField()
    claimed_at = models.DateTimeField(db_index=True)
    answered_at = models.DateTimeField(null=True)
    streamed = models.BooleanField(default=False)
    answer = models.BinaryField(null=True, help_text="Null while the call runs, and where it was too large to keep.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "endpoint", "key"], name="idempotent_call_unique"),
            models.CheckConstraint(condition=Exact(Length("fingerprint"), 32), name="idempotent_call_sha256"),
        ]

    def __str__(self) -> str:
        return f"call {self.call_id}"
