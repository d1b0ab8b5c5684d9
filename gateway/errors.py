"""Every refusal of /v1, and the one shape in which it leaves: OpenAI's envelope.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Status, type and code are decided here. An error that is not one of these is a defect of ours: it is logged once, with
the id of the request, and leaves as a plain 500. No message ever repeats a key, a prompt or a backend's own words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

import msgspec
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from apikeys.models import SpendPeriod
from billing import money

logger = logging.getLogger(__name__)

BACKEND_SECONDS = 2  # After which a model that is unavailable may be there again.
RETRY_SECONDS_AT_MOST = 60  # Clients do not wait longer.


class GatewayError(exceptions.APIException):
    """`retry_after` is in seconds; `retryable` False tells clients that a repeat cannot help, or would cost again."""

    status_code = 500
    type = "server_error"
    default_code = "internal_error"
    param: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.retryable = retryable
        self.headers: dict[str, str] = {}

    @property
    def code(self) -> str:
        return self.default_code

    @classmethod
    def codes(cls) -> list[str]:
        """Every code that a refusal of this kind can have."""
        return [cls.default_code]


class InvalidKey(GatewayError):
    status_code = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__(
            "Missing or invalid API key. Send it as `Authorization: Bearer tk-...`; keys are made on the dashboard."
        )


class KeyDisabled(GatewayError):
    status_code = 403
    type = "permission_error"
    default_code = "key_disabled"

    def __init__(self) -> None:
        super().__init__(f"This API key has been disabled. Write to {settings.SUPPORT_EMAIL} if you do not know why.")


class AccountDisabled(GatewayError):
    status_code = 403
    type = "permission_error"
    default_code = "account_disabled"

    def __init__(self) -> None:
        super().__init__(f"This account has been disabled. Please write to {settings.SUPPORT_EMAIL}.")


class BodyTooLarge(GatewayError):
    status_code = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedEncoding(GatewayError):
    status_code = 415
    type = "invalid_request_error"
    default_code = "unsupported_content_encoding"

    def __init__(self) -> None:
        super().__init__("This Content-Encoding is not known here. Send the body as it is, or with gzip or deflate.")
        self.headers["Accept-Encoding"] = "gzip, deflate"


class InvalidRequest(GatewayError):
    status_code = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class RequestNeverFits(InvalidRequest):
    default_code = "request_exceeds_limit"


class ContextLengthExceeded(InvalidRequest):
    """LangChain and LiteLLM know it by its code and by the words "This model's maximum context length is"."""

    default_code = "context_length_exceeded"

    def __init__(self, *, context_tokens: int, param: str | None = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens, and this prompt is longer. "
            "Nothing was charged; please shorten it.",
            param=param,
        )


class ClientGone(InvalidRequest):
    """Nobody reads this: the customer hung up before the request was whole."""

    default_code = "client_closed"


class WrongModel(InvalidRequest):
    default_code = "unsupported_model"


class BackendRefusedPrompt(InvalidRequest):
    default_code = "invalid_prompt"


class ModelNotFound(GatewayError):
    status_code = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class GenerationNotFound(GatewayError):
    """Also that of another account."""

    status_code = 404
    type = "invalid_request_error"
    default_code = "generation_not_found"


class UnknownUrl(GatewayError):
    status_code = 404
    type = "invalid_request_error"
    default_code = "unknown_url"


class MethodNotAllowed(GatewayError):
    status_code = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class IdempotencyKeyReused(GatewayError):
    status_code = 422
    type = "invalid_request_error"
    default_code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used with another request body within the last 24 hours. Use a new key.",
            param="Idempotency-Key",
        )


class IdempotencyKeyInUse(GatewayError):
    status_code = 409
    type = "conflict_error"
    default_code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__(
            "The first call with this Idempotency-Key is still running. Its answer will be here when it has ended.",
            param="Idempotency-Key",
            retry_after=2,
        )


class AnswerNotKept(GatewayError):
    status_code = 409
    type = "conflict_error"
    default_code = "idempotent_answer_not_kept"

    def __init__(self, *, generation_id: str) -> None:
        super().__init__(
            f"The call with this Idempotency-Key was made and charged ({generation_id}), but its answer was too large "
            "to keep, or could not be stored. Use a new key to make the call again.",
            param="Idempotency-Key",
            retryable=False,
        )


class RateLimited(GatewayError):
    status_code = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, limit: str, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.limit = limit

    @property
    def code(self) -> str:
        return f"rate_limit_exceeded_{self.limit}"

    @classmethod
    def codes(cls) -> list[str]:
        return [f"rate_limit_exceeded_{limit}" for limit in ("requests", "tokens", "concurrency")]


class InsufficientBalance(GatewayError):
    status_code = 402
    type = "insufficient_quota"
    default_code = "insufficient_balance"

    def __init__(self, *, needed: int, available: int, affordable: int = 0) -> None:
        """`affordable` is the largest max_tokens that would fit; 0 if none does."""
        advice = f"Top up, or ask for max_tokens of at most {affordable}." if affordable else "Please top up."
        super().__init__(
            f"This request can cost up to {money.usd(needed)} USD, but the balance has "
            f"{money.usd(max(available, 0))} USD to spend. {advice}"
        )
        self.available = available


class KeyBudgetExceeded(GatewayError):
    status_code = 402
    type = "insufficient_quota"
    default_code = "key_budget_exceeded"

    def __init__(self, *, needed: int, left: int, cap: int, period: SpendPeriod, resets_at: datetime | None) -> None:
        until = f" until {resets_at:%Y-%m-%d %H:%M} UTC" if resets_at else ""
        super().__init__(
            f"This request can cost up to {money.usd(needed)} USD, but this API key has {money.usd(max(left, 0))} USD"
            f" left{until} of its spend cap of {money.usd(cap)} USD {period.label}. Raise the cap on the key's page of"
            " the dashboard, or ask for fewer max_tokens.",
            retryable=False,
        )


class Unavailable(GatewayError):
    """Nothing was charged; try again."""

    status_code = 503
    type = "server_error"
    default_code = "service_unavailable"

    def __init__(self, message: str, *, retry_after: int = 2, retryable: bool | None = None) -> None:
        super().__init__(message, retry_after=retry_after, retryable=retryable)


class BackendUnavailable(Unavailable):
    """`asked` is after how many seconds the backend wants to be asked again, if it said so.

    `timed_out`: a repeat would make it work as long again, so clients are told not to make it by themselves.
    """

    default_code = "model_unavailable"

    def __init__(self, asked: int | None = None, *, timed_out: bool = False) -> None:
        super().__init__(
            "The model took too long to answer. Nothing was charged; please ask for less, or for a stream."
            if timed_out
            else "The model is temporarily unavailable. Nothing was charged; please try again.",
            retryable=False if timed_out else None,
            retry_after=BACKEND_SECONDS if asked is None else min(max(asked, 1), RETRY_SECONDS_AT_MOST),
        )


def kinds(of: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Every kind of refusal that there is."""
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def envelope(error: GatewayError) -> bytes:
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": body})


def response_to(error: GatewayError) -> HttpResponse:
    response = HttpResponse(
        envelope(error), status=error.status_code, content_type="application/json", headers=error.headers
    )
    if error.status_code == 401:
        response["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    if error.retryable is False:
        response["X-Should-Retry"] = "false"
    return response


def documentation_url() -> str:
    """Of the page; this road does not know the URLs of the site."""
    return f"{settings.SITE_URL.rstrip('/')}/docs/"


def translate(error: BaseException, *, request_id: str) -> GatewayError:
    """The refusal that an exception means; an unexpected one is logged here, once."""
    match error:
        case GatewayError():
            return error
        case Http404():
            return UnknownUrl(
                f"There is nothing at this URL. The API is at /v1, its documentation at {documentation_url()}"
            )
        case DisallowedHost():
            return InvalidRequest("This host name is not served here.")
        case _:
            logger.error("request %s failed", request_id, exc_info=error)
            return GatewayError(f"Something went wrong on our side. Quote request {request_id} when you write to us.")
