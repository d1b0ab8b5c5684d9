"""What backends charge us: superseded, never edited, and on the record of each call."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, transaction
from django.urls import reverse

from billing.models import UsageRecord
from gateway import backends, route_prices
from gateway.models import Attempt, Route, RoutePrice
from gateway.route_prices import RoutePriceRefused
from tests import factories, people
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import chat, customer
from tests.gateway.scripted import DONE, chunk, usage
from tests.stack import Stack, until

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def route(db: None) -> Route:
    name = factories.unique("gpu")
    backend = backends.save(name=name, base_url="http://gpu.example.test/v1", credential="", models={"glm-5": "glm-5"})
    return backend.routes.get()


def set_price(route: Route, **changes: Any) -> RoutePrice:
    return route_prices.set_price(**{"route": route, "input": 2, "output": 5, "now": NOW, **changes})


def test_a_price_ends_where_the_next_one_starts(route: Route) -> None:
    first = set_price(route, cached_input=1)
    second = set_price(route, input=3, starts_at=NOW + timedelta(days=1))

    first.refresh_from_db()
    assert (first.starts_at, first.ends_at) == (NOW + timedelta(seconds=5), second.starts_at)
    assert (first.cached_input, second.cached_input, second.ends_at) == (1, 3, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": -1},
        {"output": 10**10 + 1},
        {"starts_at": NOW + timedelta(seconds=4)},
        {"starts_at": NOW + timedelta(days=367)},
    ],
)
def test_what_cannot_be_a_price_is_refused(route: Route, changes: dict[str, Any]) -> None:
    with pytest.raises(RoutePriceRefused):
        set_price(route, **changes)


def test_a_scheduled_price_stays(route: Route) -> None:
    set_price(route, starts_at=NOW + timedelta(days=2))

    with pytest.raises(RoutePriceRefused, match="a scheduled price stays"):
        set_price(route, starts_at=NOW + timedelta(days=1))


def test_the_database_lets_nobody_edit_a_price_or_have_two_at_once(route: Route) -> None:
    price = set_price(route)

    with pytest.raises(DatabaseError, match="superseded, never edited"), transaction.atomic():
        RoutePrice.objects.filter(pk=price.pk).update(input=1)
    with pytest.raises(IntegrityError, match="route_price_no_overlap"), transaction.atomic():
        RoutePrice.objects.create(route=route, starts_at=NOW + timedelta(days=1), input=1, cached_input=1, output=1)


def test_a_route_goes_with_its_prices(route: Route) -> None:
    set_price(route)

    route.delete()

    assert not RoutePrice.objects.filter(route_id=route.pk).exists()


class TestCommand:
    def test_it_sets_a_price(self, route: Route) -> None:
        out = io.StringIO()
        call_command("set_route_price", route.backend.name, "glm-5", "--input", "0.07", "--output", "1.1", stdout=out)

        price = RoutePrice.objects.get(route=route)
        assert (price.input, price.cached_input, price.output) == (70_000, 70_000, 1_100_000)
        assert f"glm-5 costs us this at {route.backend.name} from" in out.getvalue()

    @pytest.mark.parametrize(
        ("backend", "options", "sentence"),
        [
            ("nowhere", ["--input", "1", "--output", "1"], "does not serve glm-5"),
            (None, ["--input", "x", "--output", "1"], "x"),
            (None, ["--input", "1", "--output", "1", "--from", "soon"], "is not a time"),
        ],
    )
    def test_what_is_wrong_is_told(self, route: Route, backend: str | None, options: list[str], sentence: str) -> None:
        with pytest.raises(CommandError, match=sentence):
            call_command("set_route_price", backend or route.backend.name, "glm-5", *options)


class TestAdmin:
    def test_staff_add_a_price_and_see_it(self, route: Route) -> None:
        client = people.superuser()
        given = {"route": route.pk, "input": "0.07", "output": "1.1", "cached_input": ""}

        page = client.post(reverse("admin:gateway_routeprice_add"), given, follow=True).content.decode()

        price = RoutePrice.objects.get(route=route)
        assert (price.input, price.output) == (70_000, 1_100_000)
        assert price.created_by is not None
        assert "$0.07" in page

    def test_a_refusal_is_told(self, route: Route) -> None:
        given = {"route": route.pk, "input": "1", "output": "1", "starts_at_0": "2020-01-01", "starts_at_1": "00:00"}

        page = people.superuser().post(reverse("admin:gateway_routeprice_add"), given).content.decode()

        assert "A price starts at least 5 s" in page

    def test_others_may_not(self, route: Route) -> None:
        staff = factories.user()
        staff.is_staff = True
        staff.save()

        assert people.signed_in(staff).get(reverse("admin:gateway_routeprice_add")).status_code == 403


@pytest.mark.usefixtures("committed")
def test_a_record_and_its_attempt_have_the_cost_at_the_price_in_force(stack: Stack, lab: Lab) -> None:
    alice = customer()
    route = Route.objects.get(backend__base_url=lab.scripted.base_url)

    def cost() -> int | None:
        lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
        answer, _ = wire.whole(stack.webs[0], alice.secret, chat(stream=True) | {"model": lab.of_script})
        of_attempt = until(lambda: Attempt.objects.filter(call_id=answer.call_id).first()).upstream_cost
        assert of_attempt == UsageRecord.objects.get(pk=answer.call_id).upstream_cost
        return of_attempt

    assert cost() is None
    price = route_prices.set_price(route=route, input=2, output=4, now=datetime.now(UTC) - timedelta(seconds=5))
    try:
        until(lambda: cost() == 5 * 2 + 2 * 4, 2.0)
    finally:
        price.delete()
