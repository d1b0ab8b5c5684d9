"""The URLs of /v1. DRF's view, without its synchronous middle: a view authenticates, reads, calls the domain once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from django.http import HttpResponse
from msgspec import Struct
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from billing import money
from billing.pricing import Price
from gateway import calls, errors, metrics, requests
from gateway.chat import ChatCompletionRequest
from gateway.completions import CompletionRequest
from gateway.directory import Model
from gateway.embeddings import EmbeddingRequest
from gateway.errors import MethodNotAllowed, ModelNotFound
from gateway.exchange import Exchange
from gateway.process import GatewayProcess
from gateway.requests import Request

ALLOWED_HEADERS = "Authorization, Content-Type, *"  # `*` does not stand for Authorization.
PREFLIGHT_SECONDS = 86400  # How long a browser need not ask again.


class Prices(Struct):
    """For so many tokens."""

    currency: Literal["USD"]
    per_tokens: int
    input: str
    cached_input: str
    output: str


class ModelAnswer(Struct):
    """OpenAI's model object, and what a buyer wants to know."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str
    family: str
    type: str
    context: int
    max_output: int
    prices: Prices


class ModelListAnswer(Struct):
    object: Literal["list"]
    data: list[ModelAnswer]


class GatewayView(APIView):
    """Every view wants a key unless it says that it is public. Returns None where all was sent already."""

    public = False
    counted = True  # What it refuses is counted with the calls that were refused.
    request: Exchange  # type: ignore[assignment]  # DRF wraps Django's request; the lean path has no need to.

    process: GatewayProcess

    async def dispatch(  # type: ignore[override]  # DRF dispatches synchronously.
        self, request: Exchange, *, process: GatewayProcess, **kwargs: Any
    ) -> HttpResponse | None:
        self.process = process
        try:
            handler = getattr(self, (request.method or "").lower(), None)
            if handler is None or request.method not in self.allowed_methods:
                raise MethodNotAllowed("This URL does not know that method.")
            if not self.public and request.method != "OPTIONS":  # Browsers ask without a key what they may ask.
                request.key = await self.process.keys.authenticate(request.META.get("HTTP_AUTHORIZATION", ""))
                bind_contextvars(account_id=request.key.account_id)
            response: HttpResponse | None = await handler(request, **kwargs)
        except Exception as error:
            return self.handle_exception(error)
        return response

    # DRF answers with a response of its own, which would be rendered by negotiation; ours is ready to go.
    def handle_exception(self, error: Exception) -> HttpResponse:  # type: ignore[override]
        refusal = errors.translate(error, request_id=self.request.id)
        if isinstance(refusal, MethodNotAllowed):
            refusal.headers["Allow"] = ", ".join(self.allowed_methods)
        if self.counted and not self.request.admitted:
            account = self.request.key.account_id if self.request.key else None
            self.process.refusals[account, refusal.status_code, refusal.code] += 1
            metrics.count_refusal(status=refusal.status_code, code=refusal.code)
        return errors.response_to(refusal)

    # DRF describes the view to strangers here. Browsers ask what a page of another site may send.
    async def options(self, request: Exchange, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        methods = ", ".join(self.allowed_methods)
        headers = {
            "Allow": methods,
            "Access-Control-Allow-Methods": methods,
            # Clients add headers of their own with every version, so whatever is asked for may be sent.
            "Access-Control-Allow-Headers": request.META.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS") or ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        response = HttpResponse(status=204, headers=headers)
        del response["Content-Type"]  # Django's would be of a page.
        return response


class ModelListView(GatewayView):
    public = True

    async def get(self, request: Exchange) -> HttpResponse:
        models = [_entry(*sold) for sold in self.process.directory.on_sale(datetime.now(UTC)) if not sold[0].hidden]
        return json_response(ModelListAnswer("list", models))


class ModelView(GatewayView):
    public = True

    async def get(self, request: Exchange, model_id: str) -> HttpResponse:
        for model, price in self.process.directory.on_sale(datetime.now(UTC)):
            if model.public_id == model_id:
                return json_response(_entry(model, price))
        raise ModelNotFound(f"The model `{model_id[:100]}` does not exist. GET /v1/models lists those that do.")


class CallView(GatewayView):
    """A call that is paid for. `form` is what its body must be."""

    form: type[Request]

    async def post(self, request: Exchange) -> HttpResponse | None:
        assert request.key is not None  # noqa: S101  # dispatch authenticated.
        parsed = await requests.parse(await request.read_body(), self.form)
        return await calls.serve(self.process, request, request.key, parsed)


class ChatCompletionsView(CallView):
    form = ChatCompletionRequest


class CompletionsView(CallView):
    form = CompletionRequest


class EmbeddingsView(CallView):
    form = EmbeddingRequest


def _entry(model: Model, price: Price) -> ModelAnswer:
    rates = price.rates(0)
    return ModelAnswer(
        id=model.public_id,
        object="model",
        created=int(model.created_at.timestamp()),
        owned_by=model.family,
        name=model.name,
        family=model.family,
        type=model.type,
        context=model.context_tokens,
        max_output=model.max_output_tokens,
        prices=Prices(
            currency="USD",
            per_tokens=1_000_000,
            input=money.usd_per_million(rates.input),
            cached_input=money.usd_per_million(rates.cached_input),
            output=money.usd_per_million(rates.output),
        ),
    )


def json_response(body: object) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json")
