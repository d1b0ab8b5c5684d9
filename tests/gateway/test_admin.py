from __future__ import annotations

import html
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.urls import reverse

from accounts.models import User
from billing.models import LanguageModel
from gateway import backends, credentials, route_prices
from gateway.models import Backend
from tests import factories, people

pytestmark = pytest.mark.django_db

# The page of a new backend has no routes yet, so those that are to be added are its first.
NEW = {"routes-INITIAL_FORMS": 0}
HERE = "https://inference.example.test/v1"
ELSEWHERE = "https://elsewhere.example.test/v1"


def stored() -> Backend:
    return backends.save(name=factories.unique("gpu"), base_url=HERE, credential="sk-secret", models={"glm-5": "glm-5"})


def form(routes: Any = (), more: Any = (), **fields: Any) -> dict[str, Any]:
    """What a browser sends of the page of a backend: its fields, its routes, and routes that are to be added."""
    given = {"address": HERE, "api_key": "", "enabled": "on", "usage_in_streams": "last", **fields}
    for prefix, rows, initial in (("routes", routes, len(routes)), ("routes-2", more, 0)):
        given |= {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": initial}
        for at, row in enumerate(rows):
            given |= {f"{prefix}-{at}-{name}": value for name, value in row.items()}
    return given


def post(backend: Backend, **changes: Any) -> str:
    kept = [
        {"id": route.pk, "backend_model": route.backend_model, "priority": route.priority, "weight": 1, "enabled": "on"}
        for route in backend.routes.order_by("model__public_id")
    ]
    given = form(**{"name": backend.name, "routes": kept, **changes})
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

    people.superuser().post(reverse("admin:gateway_backend_add"), form(name=name, api_key="sk-new"))

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


def routes_of(backend: Backend) -> list[tuple[str, str, int]]:
    return list(backend.routes.order_by("pk").values_list("model__public_id", "backend_model", "priority"))


def test_a_backend_with_three_models_is_one_form() -> None:
    name = factories.unique("gpu")
    ids = [factories.language_model().pk for _ in range(3)]
    rows = [
        {"model": pk, "backend_model": said, "priority": 1, "weight": 1}
        for pk, said in zip(ids, ("a", "", "c"), strict=True)
    ]

    people.superuser().post(
        reverse("admin:gateway_backend_add"), form(name=name, routes=[*rows, {"priority": 0, "weight": 1}]) | NEW
    )

    backend = Backend.objects.get(name=name)
    public_ids = list(LanguageModel.objects.filter(pk__in=ids).order_by("pk").values_list("public_id", flat=True))
    assert routes_of(backend) == [(public_ids[0], "a", 1), (public_ids[1], public_ids[1], 1), (public_ids[2], "c", 1)]


def test_routes_are_changed_added_and_taken_away_on_the_page_of_their_backend() -> None:
    backend = stored()
    (route,) = backend.routes.all()
    kept = {"id": route.pk, "backend_model": "theirs", "priority": 5, "weight": 1, "enabled": "on"}
    other = factories.language_model()

    post(backend, routes=[kept], more=[{"model": other.pk, "backend_model": "x", "priority": 0, "weight": 1}])
    assert routes_of(backend) == [("glm-5", "theirs", 5), (other.public_id, "x", 0)]

    post(backend, routes=[kept | {"DELETE": "on"}])
    assert routes_of(backend) == [(other.public_id, "x", 0)]


def test_a_model_that_a_backend_serves_already_is_not_added_again() -> None:
    backend = stored()
    model = backend.routes.get().model

    page = post(backend, more=[{"model": model.pk, "backend_model": "x", "priority": 0, "weight": 1}])

    assert "The backend serves it already." in page
    assert routes_of(backend) == [("glm-5", "glm-5", 0)]


def test_what_a_route_costs_us_is_shown_where_it_is() -> None:
    backend = stored()
    staff = people.superuser()
    page = reverse("admin:gateway_backend_change", args=[backend.pk])
    assert f'unknown &middot; <a href="/admin/gateway/routeprice/add/?route={backend.routes.get().pk}"' in str(
        staff.get(page).content.decode()
    )

    route_prices.set_price(route=backend.routes.get(), input=70_000, output=280_000, now=datetime.now(UTC))

    for address in (page, reverse("admin:gateway_route_changelist")):
        assert "in $0.07, cached $0.07, out $0.28, from " in staff.get(address).content.decode()


@pytest.mark.parametrize(
    ("field", "value"), [("address", "http://169.254.169.254/v1"), ("proxy", "http://127.0.0.1:1")]
)
def test_where_no_backend_may_be_is_told_at_its_field(field: str, value: str, settings: Any) -> None:
    settings.BACKEND_NETWORKS = []
    backend = stored()

    page = post(backend, **{field: value, "api_key": "sk-again"})

    assert f'<ul class="errorlist" id="id_{field}_error">' in page
    assert (backend.base_url, backend.proxy_url) == (HERE, "")


def test_a_name_that_leads_elsewhere_by_now_stops_no_other_change(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stored()
    settings.BACKEND_NETWORKS = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.0.1", 0))])

    post(backend, enabled="")

    assert backend.enabled is False


@pytest.mark.parametrize("add", [False, True])
def test_a_name_is_looked_up_before_the_transaction(add: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, database = stored(), connections["default"]
    depth = len(database.atomic_blocks)  # The test itself runs in one.
    seen: list[tuple[str, int]] = []

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        seen.append((host, len(database.atomic_blocks)))
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    changes = {"address": ELSEWHERE, "proxy": "http://proxy:3128", "api_key": "sk-other"}
    if add:
        people.superuser().post(reverse("admin:gateway_backend_add"), form(name=factories.unique("gpu"), **changes))
    else:
        post(backend, **changes)

    assert seen == [("elsewhere.example.test", depth), ("proxy", depth)]
    assert Backend.objects.filter(base_url=ELSEWHERE, proxy_url="http://proxy:3128").count() == 1


def test_nothing_is_looked_up_for_staff_who_may_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stored()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    auditor = User.objects.create_user(f"{factories.unique('auditor')}@example.test", is_staff=True)

    page = reverse("admin:gateway_backend_change", args=[backend.pk])
    assert people.signed_in(auditor).post(page, form(name="x", address=ELSEWHERE)).status_code == 403


@pytest.mark.parametrize("kind", ["backend", "route"])
def test_draining_and_resuming_are_actions_of_both_lists_and_written_down(kind: str) -> None:
    backend = stored()
    place: Any = backend if kind == "backend" else backend.routes.get()
    staff = people.superuser()

    def act(action: str) -> str:
        given = {"action": action, ACTION_CHECKBOX_NAME: place.pk}
        answer = staff.post(reverse(f"admin:gateway_{kind}_changelist"), given, follow=True)
        place.refresh_from_db()
        return answer.content.decode()

    assert f"Drained: {place}." in act("drained")
    assert place.enabled is False
    assert "Drained: nothing, all of them were so already." in act("drained")
    assert f"Resumed: {place}." in act("resumed")
    assert place.enabled is True
    told = LogEntry.objects.filter(object_id=str(place.pk), content_type__model=kind).order_by("pk")
    assert list(told.values_list("change_message", flat=True)) == ["Drained.", "Resumed."]


def test_the_page_of_an_attempt_leads_to_the_others_of_its_call_and_says_where_a_cost_is_unknown() -> None:
    attempt = factories.attempt(factories.language_model())

    page = people.superuser().get(reverse("admin:gateway_attempt_change", args=[attempt.pk])).content.decode()

    assert f"/admin/gateway/attempt/?q={attempt.call_id}" in page
    assert "None" not in page
