"""The documentation page: whatever /v1 does is on it, and whatever is on it, /v1 does."""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import Any

import msgspec
import openai
import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from gateway import documentation, errors, urls
from gateway.chat import ChatCompletionRequest
from gateway.completions import CompletionRequest
from gateway.embeddings import EmbeddingRequest
from gateway.errors import GatewayError
from gateway.requests import Request
from tests import factories, people
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.stack import Stack

ADDRESS = "/docs/"
FORMS: dict[str, type[Request]] = {
    "chat": ChatCompletionRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
}
STANDARD_LIMITS = ["60", "100,000", "5"]


def page(client: Client | None = None) -> str:
    return (client or Client()).get(ADDRESS).content.decode()


def section(anchor: str) -> str:
    found = re.search(rf'<section id="{anchor}">.*?</section>', page(), re.DOTALL)
    assert found is not None
    return found[0]


def code(of: str) -> str:
    """The text of an example."""
    found = re.search(rf'<code id="{of}">(.*?)</code>', page(), re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def cells(content: str, row: str) -> list[str]:
    """The cells of the row of a table that begins like this."""
    found = re.search(rf'<tr[^>]*><th scope="row">{row}.*?</tr>', content, re.DOTALL)
    assert found is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", found[0])


@pytest.mark.django_db
class TestReaders:
    def test_everybody_may_read_and_nothing_else(self) -> None:
        assert Client().get(ADDRESS).status_code == 200
        assert Client().head(ADDRESS).status_code == 200
        assert Client().post(ADDRESS).status_code == 405

    def test_strangers_and_customers_find_it(self) -> None:
        link = f'href="{ADDRESS}"'
        alice = people.owner_of(people.customer("alice")[0])

        assert link in Client().get("/").content.decode()
        assert link in alice.get("/keys/").content.decode()

    def test_who_asks_the_api_for_nothing_is_told_where_it_is(self) -> None:
        assert errors.documentation_url() == f"http://127.0.0.1:8000{reverse('gateway:docs')}"

    def test_a_customer_sees_its_own_limits_and_prices(self) -> None:
        account, _ = people.customer("alice")
        model = factories.language_model()
        factories.price(model, account=account)

        hers = page(people.owner_of(account))

        assert model.public_id in hers
        assert cells(hers, "Yours: Standard") == STANDARD_LIMITS
        assert model.public_id not in page()
        assert "Yours:" not in page()

    def test_it_needs_at_most_twelve_queries(self, django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
        alice = people.owner_of(people.customer("alice")[0])
        with django_assert_max_num_queries(12):
            alice.get(ADDRESS)


@pytest.mark.django_db
class TestWhatIsOnIt:
    def test_every_link_within_the_page_has_a_place(self) -> None:
        content = page()
        anchors = Counter(re.findall(r' id="([^"]+)"', content))

        assert set(re.findall(r'href="#([^"]+)"', content)) <= set(anchors)
        assert [anchor for anchor, times in anchors.items() if times > 1] == []

    def test_every_refusal_is_explained(self) -> None:
        every = {GatewayError, *errors.kinds()}
        content = section("errors")

        assert set(documentation.OCCASIONS) == every - documentation.UNSEEN
        for refusal in documentation.refusals():
            assert f">{refusal.status}</td>" in content
            assert [code for code in refusal.codes if f"<code>{code}</code>" not in content] == []

    def test_the_client_raises_what_the_table_says(self) -> None:
        named = [kind for kind in openai.APIStatusError.__subclasses__() if hasattr(kind, "status_code")]
        names = {kind.status_code: kind.__name__ for kind in named}
        assert names[429] == "RateLimitError"

        for refusal in documentation.refusals():
            otherwise = "InternalServerError" if refusal.status >= 500 else "APIStatusError"
            assert refusal.raised == names.get(refusal.status, otherwise)

    @pytest.mark.parametrize("anchor", FORMS)
    def test_every_parameter_is_explained(self, anchor: str) -> None:
        shown = re.findall(r'<th scope="row"><code>(\w+)</code>', section(anchor))

        assert sorted(shown) == sorted(FORMS[anchor].__struct_fields__)

    @pytest.mark.parametrize(
        ("parameter", "type", "bounds", "default"),
        [
            ("model", "string", "", ""),
            ("messages", "array", "not empty", ""),
            ("max_tokens", "integer", "at least 1", "1024"),
            ("temperature", "number", "0 to 2", "0.7"),
            ("top_p", "number", "0 to 1", "1"),
            ("stream", "boolean", "", "false"),
            ("stop", "string or array", "at most 4", "null"),
            ("tool_choice", "string or object", "auto, none, required", "null"),
            ("seed", "integer", "", "null"),
            ("presence_penalty", "number", "-2 to 2", "0"),
            ("n", "integer", "1 to 16", "1"),
        ],
    )
    def test_bounds_and_defaults_are_those_of_the_request(
        self, parameter: str, type: str, bounds: str, default: str
    ) -> None:
        (found,) = [one for one in documentation.parameters(ChatCompletionRequest) if one.name == parameter]

        assert (found.type, found.bounds, found.default) == (type, bounds, default)

    def test_every_address_of_the_api_is_on_it(self) -> None:
        content = page()
        addresses = [re.sub(r"<.*>", "{id}", str(pattern.pattern)) for pattern in urls.urlpatterns]

        assert [address for address in addresses if f"/{address}</code>" not in content] == []

    def test_the_limits_are_those_of_the_standard_tier(self) -> None:
        assert cells(page(), "Standard") == STANDARD_LIMITS
        assert cells(page(), "Enterprise") == ["custom"] * 3

    def test_the_examples_have_this_sites_address_and_a_model_for_sale(self) -> None:
        for example in ("snippet-curl-code", "snippet-python-code", "snippet-javascript-code", "snippet-go-code"):
            assert "http://127.0.0.1:8000/v1" in code(example)
            assert "deepseek-v4-flash" in code(example)


@pytest.mark.usefixtures("committed")
class TestWhatIsTrue:
    def test_an_answer_has_the_form_that_is_shown(self, stack: Stack) -> None:
        answer = wire.ask(stack.webs[0], customer().secret, chat())

        assert form(answer.json) == form(msgspec.json.decode(code("example-answer")))

    def test_what_is_told_of_a_call_has_the_form_that_is_shown(self, stack: Stack) -> None:
        alice = customer()
        wire.whole(stack.webs[0], alice.secret, chat(stream=True))
        record = alice.only_record()
        answer = wire.ask(stack.webs[0], alice.secret, method="GET", path=f"/v1/generations/{record.id}")

        assert form(answer.json) == form(msgspec.json.decode(code("example-generation")))

    def test_an_error_is_the_one_that_is_shown(self, stack: Stack) -> None:
        answer = wire.ask(stack.webs[0], customer().secret, chat(temperature=3))

        assert answer.json == msgspec.json.decode(code("example-error"))

    def test_every_header_of_ours_is_explained(self, stack: Stack) -> None:
        answer = wire.ask(stack.webs[0], customer().secret, chat())
        ours = {name.lower() for name in answer.headers if name.lower().startswith("x-")}

        content = page()
        assert ours
        assert [name for name in ours if name not in content] == []

    @pytest.mark.parametrize("example", ["example-stream", "example-tools", "example-schema", "example-idempotency"])
    def test_the_examples_run(self, stack: Stack, example: str) -> None:
        alice = customer()
        with alice.openai(stack.api_base) as client:
            exec(code(example), {"client": client})  # noqa: S102  # It is ours.

        assert alice.only_record().outcome == "completed"

    def test_the_first_call_in_python_runs(self, stack: Stack) -> None:
        alice = customer()
        source = code("snippet-python-code").replace("http://127.0.0.1:8000/v1", stack.api_base)
        exec(source.replace("tk-...", alice.secret), names := {})  # type: ignore[var-annotated]  # noqa: S102
        names["client"].close()

        assert alice.only_record().outcome == "completed"


def form(of: Any) -> Any:
    """Names, and the kinds of values."""
    match of:
        case dict():
            return {name: form(value) for name, value in of.items()}
        case list():
            return [form(item) for item in of]
        case _:
            return type(of).__name__
