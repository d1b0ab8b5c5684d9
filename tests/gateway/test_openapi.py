"""The OpenAPI document says what the gateway does: schemathesis asks all that it allows, and much that it forbids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, settings
from pytest_django import DjangoDbBlocker
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway import openapi
from gateway.chat import ChatCompletionRequest
from gateway.urls import urlpatterns
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, customer
from tests.stack import Stack

DOCUMENT: dict[str, Any] = json.loads(openapi.document())
# Some parameters are right one by one and not together, which no schema says.
EXCEPT: list[Any] = [positive_data_acceptance]

# A query may have parameters that nobody knows.
CONFIG = schemathesis.Config.from_dict({"generation": {"allow-extra-parameters": False}})

schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


@pytest.fixture(scope="module")
def alice(stack: Stack, django_db_blocker: DjangoDbBlocker) -> Iterator[Customer]:
    with django_db_blocker.unblock():
        yield customer()


@schema.parametrize()
@settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_a_fault_and_every_one_is_documented(case: Any, stack: Stack, lab: Lab, alice: Customer) -> None:
    models = {"/v1/chat/completions": lab.of_two, "/v1/completions": lab.completion, "/v1/embeddings": lab.embedding}
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    # Else no model would ever be found, or every one.
    if positive and case.path in models and len(json.dumps(case.body)) % 2:
        case.body["model"] = models[case.path]
    headers = {"Authorization": f"Bearer {alice.secret}"}
    case.call_and_validate(base_url=stack.webs[0].url, headers=headers, excluded_checks=EXCEPT)


def test_it_is_valid_and_public(stack: Stack) -> None:
    answer = wire.ask(stack.webs[0], None, method="GET", path="/v1/openapi.json")
    assert answer.status == 200
    assert answer.json == DOCUMENT
    validate_schema(answer.json)


def test_every_url_is_in_it_with_every_method() -> None:
    served = {
        "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern)): {"get", "post"} & set(dir(pattern.callback.cls))  # type: ignore[attr-defined]
        for pattern in urlpatterns
    }
    assert {path: set(methods) for path, methods in DOCUMENT["paths"].items()} == served


def test_it_has_the_bounds_and_the_defaults_of_the_types() -> None:
    form = DOCUMENT["components"]["schemas"]["ChatCompletionRequest"]
    assert set(form["properties"]) == set(ChatCompletionRequest.__struct_fields__)
    defaults = {name: field["default"] for name, field in form["properties"].items() if "default" in field}
    assert defaults == {"n": 1, "stream": False, **ChatCompletionRequest.DEFAULTS}
    assert form["properties"]["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert form["required"] == ["model", "messages"]


def test_every_parameter_is_explained() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            assert all(parameter["description"] for parameter in operation.get("parameters", []))
    for form in ("ChatCompletionRequest", "CompletionRequest", "EmbeddingRequest"):
        assert [name for name, field in schemas[form]["properties"].items() if not field.get("description")] == []


def test_a_call_can_be_refused_for_every_reason_that_there_is() -> None:
    answers = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers) == {str(s) for s in (200, 400, 401, 402, 403, 404, 409, 413, 415, 422, 429, 500, 503)}
    assert "`rate_limit_exceeded_tokens`" in answers["429"]["description"]
    assert {status for status in answers if "Retry-After" in answers[status]["headers"]} == {"409", "429", "503"}
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert DOCUMENT["paths"]["/v1/models"]["get"]["responses"].keys() == {"200", "400", "500", "503"}
