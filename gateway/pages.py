"""The pages of the gateway, which are the site's: they come with its middleware, never on the road of /v1."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import access, registration
from accounts.models import Tier
from billing import price_list
from gateway import bodies, documentation, endings, idempotency, requests
from gateway.chat import ChatCompletionRequest
from gateway.completions import CompletionRequest
from gateway.embeddings import EmbeddingRequest


@require_safe
@never_cache
def docs(request: HttpRequest) -> HttpResponse:
    """Public. A customer sees the prices and limits of the account beside those for everybody."""
    membership = access.current(request)
    account = membership.account if membership else None
    offers = price_list.offers(now=datetime.now(UTC), account=account)
    facts = {
        "sections": documentation.SECTIONS,
        "offers": offers,
        "model": offers[0].model.public_id if offers else "MODEL",
        "chat": documentation.parameters(ChatCompletionRequest),
        "completions": documentation.parameters(CompletionRequest),
        "embeddings": documentation.parameters(EmbeddingRequest),
        "withheld": sorted(requests.WITHHELD),
        "refusals": documentation.refusals(),
        "standard": Tier.objects.get(name=registration.STANDARD_TIER),
        "tier": account.tier if account else None,
        "body_megabytes": bodies.BODY_LIMIT // 2**20,
        "longest_minutes": settings.GATEWAY_LONGEST_CALL_SECONDS // 60,
        "answer_seconds": settings.GATEWAY_ANSWER_SECONDS,
        "keepalive_seconds": settings.GATEWAY_KEEPALIVE_SECONDS,
        "slow_reader_seconds": settings.GATEWAY_SLOW_READER_SECONDS,
        "kept_hours": idempotency.KEPT_HOURS,
        "kept_megabytes": idempotency.ANSWER_LIMIT // 2**20,
        "key_length": idempotency.KEY_LENGTH,
        "cost_header": endings.COST_HEADER,
    }
    return render(request, "gateway/docs.html", facts)
