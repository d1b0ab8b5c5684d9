from __future__ import annotations

import html
from typing import Any

import pytest
from django.urls import reverse

from gateway import backends, credentials
from gateway.models import Backend
from tests import factories, people

pytestmark = pytest.mark.django_db

HERE = "https://inference.example.test/v1"
ELSEWHERE = "https://elsewhere.example.test/v1"


def stored() -> Backend:
    return backends.save(name=factories.unique("gpu"), base_url=HERE, credential="sk-secret", models={"glm-5": "glm-5"})


def post(backend: Backend, **changes: Any) -> str:
    given = {
        "name": backend.name,
        "address": HERE,
        "api_key": "",
        "enabled": "on",
        "usage_in_streams": "last",
    } | changes
    response = people.superuser().post(reverse("admin:gateway_backend_change", args=[backend.pk]), given)
    backend.refresh_from_db()
    return response.content.decode()


def credential_of(backend: Backend) -> str | None:
    return credentials.decrypt(bytes(backend.credential)) if backend.credential else None


def test_the_credential_is_never_shown() -> None:
    backend = stored()

    content = people.superuser().get(reverse("admin:gateway_backend_change", args=[backend.pk])).content.decode()

    assert HERE in content
    assert "sk-secret" not in content
    assert bytes(backend.credential or b"").decode() not in content


def test_a_wrong_form_does_not_show_the_credential_that_was_typed() -> None:
    assert "sk-typed" not in post(stored(), name="", api_key="sk-typed")


def test_saving_without_it_keeps_it() -> None:
    backend = stored()

    post(backend, enabled="")

    assert backend.enabled is False
    assert credential_of(backend) == "sk-secret"


def test_another_address_needs_it_again() -> None:
    backend = stored()

    content = post(backend, address=ELSEWHERE)

    assert "never sent to another address" in content
    assert (backend.base_url, credential_of(backend)) == (HERE, "sk-secret")


def test_another_address_with_its_own_credential() -> None:
    backend = stored()

    post(backend, address=ELSEWHERE, api_key="sk-other")

    assert (backend.base_url, credential_of(backend)) == (ELSEWHERE, "sk-other")


def test_a_backend_may_need_none() -> None:
    backend = stored()

    post(backend, address=ELSEWHERE, without_api_key="on")

    assert (backend.base_url, backend.credential) == (ELSEWHERE, None)


def test_a_credential_and_none_is_a_contradiction() -> None:
    backend = stored()

    assert "not both" in post(backend, api_key="sk-other", without_api_key="on")
    assert credential_of(backend) == "sk-secret"


def test_what_is_no_address_is_told() -> None:
    assert "must look like https://host:port/v1" in post(stored(), address="nowhere")


def test_a_backend_is_added() -> None:
    name = factories.unique("gpu")

    people.superuser().post(
        reverse("admin:gateway_backend_add"),
        {"name": name, "address": HERE, "api_key": "sk-new", "enabled": "on", "usage_in_streams": "last"},
    )

    backend = Backend.objects.get(name=name)
    assert (backend.base_url, credential_of(backend)) == (HERE, "sk-new")


def test_what_a_backend_takes_is_said_in_names() -> None:
    backend = stored()

    post(backend, allowed_parameters="seed, tools", denied_parameters="top_k", developer_role="on")

    assert (backend.allowed_parameters, backend.denied_parameters) == (["seed", "tools"], ["top_k"])
    assert backend.developer_role


def test_a_dialect_is_written_as_json_and_shown_again() -> None:
    backend = stored()

    post(
        backend,
        renamed_parameters='{"max_tokens": "max_completion_tokens"}',
        added_parameters='{"provider": {"sort": "price"}}',
        usage_in_streams="running",
    )

    assert backend.renamed_parameters == {"max_tokens": "max_completion_tokens"}
    assert backend.added_parameters == {"provider": {"sort": "price"}}
    assert backend.usage_in_streams == Backend.StreamUsage.RUNNING
    page = people.superuser().get(reverse("admin:gateway_backend_change", args=[backend.pk])).content.decode()
    assert '"max_tokens": "max_completion_tokens"' in html.unescape(page)


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("renamed_parameters", "max_tokens: x", "Write a JSON object"),
        ("renamed_parameters", '{"seed": "max_tokens"}', "cannot become"),
        ("added_parameters", '{"max_tokens": 9}', "each call's own"),
    ],
)
def test_a_dialect_that_cannot_be_is_told_at_its_field(field: str, text: str, why: str) -> None:
    backend = stored()

    page = html.unescape(post(backend, **{field: text}))

    assert why in page
    assert text in page
    assert (backend.renamed_parameters, backend.added_parameters) == ({}, {})


def test_limits_and_the_way_there_are_entered_and_shown() -> None:
    backend = stored()
    limits = {"max_concurrent": "4", "connect_seconds": "2", "first_token_seconds": "30", "idle_seconds": "20"}

    post(backend, **limits, proxy="http://proxy:3128", certificate="", api_key="sk-again")

    assert (backend.max_concurrent, backend.connect_seconds) == (4, 2)
    assert (backend.first_token_seconds, backend.idle_seconds) == (30, 20)
    assert backend.proxy_url == "http://proxy:3128"
    page = people.superuser().get(reverse("admin:gateway_backend_change", args=[backend.pk])).content.decode()
    assert 'value="http://proxy:3128"' in page


def test_a_limit_of_nothing_is_refused() -> None:
    backend = stored()

    assert "greater than or equal to 1" in post(backend, idle_seconds="0")
    assert "greater than or equal to 1" in post(backend, max_concurrent="0")
    assert (backend.idle_seconds, backend.max_concurrent) == (None, None)


def test_another_proxy_needs_the_credential_again() -> None:
    backend = stored()

    assert "never goes another way" in post(backend, proxy="http://proxy:3128")
    assert backend.proxy_url == ""


def test_a_list_may_be_empty_again() -> None:
    backend = stored()
    post(backend, allowed_parameters="seed")

    post(backend, allowed_parameters="")

    assert backend.allowed_parameters == []


def test_what_is_no_name_of_a_parameter_is_told() -> None:
    backend = stored()

    assert "has letters, digits and underscores" in html.unescape(post(backend, denied_parameters="top k"))
    assert backend.denied_parameters == []
