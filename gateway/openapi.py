"""The OpenAPI document of /v1, from the very types that the views read and answer.

drf-spectacular walks the URLs and puts the document together. What each of them does is in `gateway/reference.py`;
bounds, names and refusals come from the code, so that the document cannot promise what the gateway does not do. The
tests ask a running gateway all that it allows and forbids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from django.db.models import TextChoices
from django.http import HttpResponse
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from msgspec import Struct

from gateway import errors, meanings, views
from gateway.endings import COST_HEADER
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.idempotency import KEPT_HOURS, KEY_LENGTH
from gateway.reference import MEANINGS, OPERATIONS, ErrorAnswer, Operation
from gateway.requests import Request
from gateway.views import GatewayView

Schema = dict[str, Any]

# Refused before any view is asked for, or never seen by who asked.
_NOT_OF_CALLS = {errors.UnknownUrl, errors.MethodNotAllowed, errors.GenerationNotFound, errors.ClientGone}
_ANYWHERE = (errors.InvalidRequest, GatewayError, errors.Unavailable)
_WITH_KEY = (errors.InvalidKey, errors.KeyDisabled, errors.AccountDisabled)
_EVENTS: Schema = {
    "type": "string",
    "description": "Events `data: {...}`, each with a chunk of the answer or, where it broke, an ErrorAnswer; the last "
    "one is `data: [DONE]`.",
}
_RATE_HEADERS = [
    f"x-ratelimit-{figure}-{kind}" for kind in ("requests", "tokens") for figure in ("limit", "remaining", "reset")
]
_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH, "pattern": "^[!-~]+$"},
    OpenApiParameter.HEADER,
    description=f"A repeat with the same key and body within {KEPT_HOURS} hours gets the first answer, free of charge.",
)


class GatewaySchema(AutoSchema):
    """What drf-spectacular asks about a view."""

    view: GatewayView  # type: ignore[override]  # DRF cannot know that there are no others.

    @property
    def operation(self) -> Operation:
        return OPERATIONS[type(self.view)]

    @property
    def form(self) -> type[Request] | None:
        return self.view.form if isinstance(self.view, views.CallView) else None

    def get_operation_id(self) -> str:
        return self.operation.id

    def get_summary(self) -> str:
        return self.operation.summary

    def get_description(self) -> str:  # type: ignore[override]
        return ""

    def get_tags(self) -> list[str]:
        return [self.operation.tag]

    def get_auth(self) -> list[Schema]:
        return [] if self.view.public else [{"key": []}]

    def get_request_serializer(self) -> Any:
        return {"application/json": self.form}

    def get_response_serializers(self) -> Any:
        answer = self.operation.answer or {"type": "object"}
        answers: dict[Any, OpenApiResponse] = {
            (200, "application/json"): OpenApiResponse(answer, description="The answer.")
        }
        if self.form is not None and "stream" in self.form.__struct_fields__:
            answers[200, "text/event-stream"] = OpenApiResponse(_EVENTS, description="The answer.")
        for status, codes in _codes(self._refusals()).items():
            description = f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}"
            answers[status, "application/json"] = OpenApiResponse(ErrorAnswer, description=description)
        return answers

    def get_override_parameters(self) -> list[Any]:
        parameters: list[Any] = [*self._path_parameters(), *self._response_headers()]
        if self.operation.query is not None:
            parameters.append(self.operation.query)
        if self.form is not None:
            parameters.append(_IDEMPOTENCY_KEY)
        return parameters

    def map_renderers(self, attribute: str) -> list[str]:
        return ["application/json"]

    def _path_parameters(self) -> Iterator[OpenApiParameter]:
        for name in MEANINGS:
            if f"{{{name}}}" in self.path:
                yield OpenApiParameter(name, str, OpenApiParameter.PATH, description=MEANINGS[name])

    def _response_headers(self) -> Iterator[OpenApiParameter]:
        yield _header("x-request-id", "Quote it when you write to us.", required=True)
        statuses = _codes(self._refusals())
        if 401 in statuses:
            yield _header("WWW-Authenticate", "Bearer", statuses=[401], required=True)
        yield _header("Retry-After", "Seconds after which to try again.", statuses=[409, 429, 503])
        if self.form is not None:
            for name in _RATE_HEADERS:
                yield _header(name, "Of the account, or of the key if tighter.", statuses=[200, 429])
            yield _header("Idempotency-Replayed", "`true`, if this is the answer of an earlier call.", statuses=[200])
            yield _header(COST_HEADER, "What the call cost; of a stream the last event says it.", statuses=[200])

    def _refusals(self) -> set[type[GatewayError]]:
        refusals = {*_ANYWHERE, *self.operation.refusals}
        if not self.view.public:
            refusals |= set(_WITH_KEY)
        if self.form is not None:
            refusals |= set(errors.kinds()) - _NOT_OF_CALLS
        return refusals


class StructExtension(OpenApiSerializerExtension):
    """msgspec knows the JSON schema of its types."""

    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: AutoSchema, direction: str) -> str:
        return str(self.target.__name__)

    def get_identity(self, auto_schema: AutoSchema, direction: str) -> str:
        return str(self.target.__name__)

    def map_serializer(self, auto_schema: AutoSchema, direction: str) -> Schema:
        _, components = msgspec.json.schema_components(
            [self.target], schema_hook=_choices, ref_template="#/components/schemas/{name}"
        )
        schema = components.pop(self.target.__name__)
        for name, inner in components.items():
            component = ResolvedComponent(name, ResolvedComponent.SCHEMA, inner, name)
            auto_schema.registry.register_on_missing(component)
        return _explained(schema, self.target) if direction == "request" else schema


class OpenApiView(GatewayView):
    public = True

    async def get(self, request: Exchange) -> HttpResponse:
        return HttpResponse(await asyncio.to_thread(document), content_type="application/json")


OPERATIONS[OpenApiView] = Operation("retrieveDocument", "Document", "This document", None)


@cache
def document() -> bytes:
    """The same for everybody, so it is made once."""
    generator = SchemaGenerator(urlconf="gateway.urls")
    return msgspec.json.encode(generator.get_schema(public=True))


def _choices(kind: type) -> Schema:
    """msgspec does not see that Django's choices are an enumeration."""
    if issubclass(kind, TextChoices):
        return {"type": "string", "enum": kind.values}
    raise NotImplementedError


def _explained(schema: Schema, asked: type[Struct]) -> Schema:
    """With what parameters mean and default to. Null is allowed, but is no default."""
    defaults = meanings.DEFAULTS | asked.DEFAULTS if issubclass(asked, Request) else {}
    for name, parameter in schema["properties"].items():
        if parameter.get("default", "") is None:
            del parameter["default"]
        if name in defaults:
            parameter["default"] = defaults[name]
        if name in MEANINGS:
            parameter["description"] = MEANINGS[name]
    return schema


def _codes(refusals: Iterable[type[GatewayError]]) -> dict[int, list[str]]:
    """The codes of each status."""
    codes: dict[int, set[str]] = {}
    for refusal in refusals:
        codes.setdefault(refusal.status_code, set()).update(refusal.codes())
    return {status: sorted(codes[status]) for status in sorted(codes)}


def _header(
    name: str, description: str, *, statuses: list[int] | None = None, required: bool = False
) -> OpenApiParameter:
    return OpenApiParameter(
        name, str, OpenApiParameter.HEADER, description=description, required=required, response=statuses or True
    )
