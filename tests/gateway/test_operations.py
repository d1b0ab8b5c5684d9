"""What operators see of backends: exact figures of known rows, who may look and act, and what the buttons do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis
from django.conf import settings as configured
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from accounts.models import Account, User
from billing import partitions
from billing.models import LanguageModel, UsageRecord
from gateway import backends, breaker, operations, operations_sql, probes
from gateway.models import Attempt, Backend, Route
from gateway.operations import PERIODS, Figures, Selection, View
from tests import factories, people
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.scripted import DONE, JSON_HEAD, REFUSAL, ScriptedBackend, chunk, usage
from tests.stack import Stack, WebProcess, until

Result = Attempt.Result
SETTINGS_AND_SAVEPOINT = 4  # Statements that read nothing.
PAGE = "/admin/gateway/backend/operations/"


@pytest.fixture
def account(db: None) -> Account:
    return factories.funded(10**9)


def served(name: str | None = None, base_url: str = "https://gpu.example.test/v1") -> tuple[str, LanguageModel]:
    """A backend with a model of its own."""
    model, name = factories.language_model(), name or factories.unique("gpu")
    backends.save(name=name, base_url=base_url, credential=None, models={model.public_id: "x"})
    return name, model


def attempt(name: str, model: LanguageModel, call: UUID | None = None, **fields: Any) -> Attempt:
    call = call or factories.call_id(datetime.now(UTC) - timedelta(seconds=30))
    return factories.attempt(model, call_id=call, backend=name, **fields)


def paid(account: Account, name: str, model: LanguageModel, *, charge: int, cost: int | None, **fields: Any) -> UUID:
    """A call with its record and the attempt that it is for."""
    number = fields.pop("number", 1)
    ask = factories.ask(account, charge, admitted_at=datetime.now(UTC) - timedelta(seconds=30))
    record = factories.record(ask, backend=name, model_id=model.pk, attempt=number, upstream_cost=cost)
    UsageRecord.objects.create(**{field: getattr(record, field) for field in record.__struct_fields__})
    attempt(name, model, ask.id, number=number, upstream_cost=cost, **fields)
    return ask.id


def looked_at(name: str | None = None, *, model: LanguageModel | None = None, period: str = "5m") -> View:
    selection = Selection(PERIODS[period], name, model.pk if model else None)
    return operations.read(selection, now=datetime.now(UTC))


def figures_of(name: str) -> Figures:
    (place,) = looked_at(name).places
    return place.figures


def test_figures_are_exactly_those_of_the_rows(account: Account) -> None:
    name, model = served()
    for first, whole in ((100, 1000), (200, 2000), (300, 3000)):
        paid(account, name, model, charge=1000, cost=400, first_event_ms=first, duration_ms=whole, output_tokens=100)
    attempt(name, model, result=Result.STATUS, status=500, duration_ms=9999, input_tokens=0, output_tokens=0)
    attempt(name, model, result=Result.LEFT, input_tokens=0, output_tokens=0)
    attempt(name, model, result=Result.PROMPT_REFUSED, status=400, input_tokens=0, output_tokens=0)

    seen = figures_of(name)

    assert (seen.attempts, seen.failed, seen.success_percent) == (6, 1, Decimal("83.3"))
    assert (seen.first_token_ms, seen.duration_ms) == ((200, 290), (2000, 2900))
    assert (seen.input_tokens, seen.output_tokens) == (9, 300)
    assert (seen.per_minute, seen.tokens_per_second) == (Decimal("1.2"), Decimal(1))
    assert (seen.calls, seen.revenue, seen.cost, seen.abandoned_cost) == (3, 3000, 1200, 0)
    assert (seen.margin, seen.margin_percent) == (1800, Decimal("60.0"))


def test_what_abandoned_attempts_cost_is_taken_from_the_margin_of_who_caused_it(account: Account) -> None:
    (slow, model), spare = served(), factories.unique("spare")
    call = paid(account, spare, model, charge=1000, cost=400, number=2)
    attempt(slow, model, call, number=1, result=Result.SILENT, upstream_cost=70)
    paid(account, slow, model, charge=100, cost=10)

    seen = looked_at(model=model)

    by_name = {place.name: place.figures for place in seen.places}
    assert (by_name[slow].abandoned_cost, by_name[slow].margin) == (70, 20)
    assert (by_name[spare].abandoned_cost, by_name[spare].margin) == (0, 600)
    assert (seen.total.abandoned_cost, seen.total.margin) == (70, 620)
    assert [(each, sums.margin) for each, sums in seen.models] == [(model.public_id, 620)]


def test_a_margin_of_unknown_cost_is_unknown(account: Account) -> None:
    name, model = served()
    paid(account, name, model, charge=1000, cost=None)

    seen = figures_of(name)

    assert (seen.revenue, seen.unpriced_calls, seen.is_cost_known) == (1000, 1, False)
    page = people.superuser().get(f"{PAGE}?backend={name}").content.decode()
    assert set(re.findall(r'data-label="Margin">(.{7})', page)) == {"unknown"}


def test_calls_of_unknown_cost_are_no_part_of_the_margin_of_the_others(account: Account) -> None:
    name, model = served()
    paid(account, name, model, charge=1000, cost=400)
    paid(account, name, model, charge=5000, cost=None)
    attempt(name, model, result=Result.SILENT, upstream_cost=None, input_tokens=3)

    seen = figures_of(name)

    assert (seen.revenue, seen.priced_revenue, seen.margin) == (6000, 1000, 600)
    assert (seen.unpriced_calls, seen.unpriced_attempts) == (1, 1)
    assert "without 1 call of unknown cost" in people.superuser().get(f"{PAGE}?backend={name}").content.decode()


def test_a_record_whose_attempt_was_lost_still_brings_its_revenue(account: Account) -> None:
    name, model = served()
    call = paid(account, name, model, charge=1000, cost=400)
    Attempt.objects.filter(call_id=call).delete()

    assert (figures_of(name).attempts, figures_of(name).revenue, figures_of(name).margin) == (0, 1000, 600)


def test_only_the_period_counts(account: Account) -> None:
    name, model = served()
    attempt(name, model, factories.call_id(datetime.now(UTC) - timedelta(minutes=50)))
    attempt(name, model, factories.call_id(datetime.now(UTC) - timedelta(minutes=70)), result=Result.BROKEN)

    assert [looked_at(name, period=period).total.attempts for period in PERIODS] == [0, 1, 2, 2]
    assert [len(looked_at(name, period=period).failures) for period in PERIODS] == [0, 0, 1, 1]


def test_the_last_failures_come_first_and_lead_to_their_calls(account: Account) -> None:
    name, model = served()
    earlier = factories.call_id(datetime.now(UTC) - timedelta(seconds=40))
    free = attempt(name, model, earlier, result=Result.GARBAGE, status=200)
    call = paid(account, name, model, charge=1, cost=1, result=Result.BROKEN)

    seen = looked_at(name).failures
    page = people.superuser().get(f"{PAGE}?backend={name}").content.decode()

    assert [(each.attempt.call_id, each.is_paid) for each in seen] == [(call, True), (free.call_id, False)]
    assert "not an answer" in page
    for address in (
        reverse("admin:gateway_attempt_change", args=[free.pk]),
        f"{reverse('admin:gateway_attempt_changelist')}?q={free.call_id}",
        reverse("admin:billing_usagerecord_change", args=[call]),
    ):
        assert f'href="{address}"' in page
        assert people.superuser().get(address).status_code == 200


def test_a_filter_shows_one_backend_or_model_alone(account: Account) -> None:
    (one, model), (other, their_model) = served(), served()
    attempt(one, model)
    attempt(other, their_model)

    assert [place.name for place in looked_at(one).places] == [one]
    assert [place.name for place in looked_at(model=model).places] == [one]
    assert looked_at(model=model).total.attempts == 1


@pytest.mark.django_db
def test_breakers_are_told_and_without_redis_nobody_knows(settings: Settings) -> None:
    name, model = served()
    client = people.superuser()
    with redis.Redis.from_url(configured.REDIS_URL) as known:
        until_ms = (datetime.now(UTC).timestamp() + 20) * 1000
        told = {"open": "failing", "until_": until_ms, "openings": 3, "seen": until_ms, "prober": "", "doubted_at": 0}
        state = told | {"probed_at": until_ms, "probed": Result.STATUS, "words": "status 500"}
        known.hset(breaker.REDIS_KEY, f"{model.pk} {name}", json.dumps(state))
        try:
            page = client.get(f"{PAGE}?backend={name}").content.decode()
        finally:
            known.hdel(breaker.REDIS_KEY, f"{model.pk} {name}")
    assert re.search(r"left alone, it fails; asked again in (19|20) s, opened 3 times", page)
    assert re.search(r"probed at [0-9:]{8}: status 500", page)

    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    response = client.get(f"{PAGE}?backend={name}")
    assert response.status_code == 200
    assert 'class="health unknown">unknown' in response.content.decode()


def test_more_calls_than_can_be_added_up_in_time_are_told(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = served()
    monkeypatch.setattr(operations_sql, "FIGURES", "SELECT pg_sleep(3)")
    monkeypatch.setitem(PERIODS, "1h", replace(PERIODS["1h"], patience_seconds=0.05))

    response = people.superuser().get(PAGE)

    assert response.status_code == 200
    assert "choose a shorter period" in response.content.decode()
    assert name in response.content.decode()


def test_the_page_asks_as_much_for_many_as_for_few(account: Account) -> None:
    client = people.superuser()
    attempt(*served(), result=Result.BROKEN)
    client.get(PAGE)
    with CaptureQueriesContext(connection) as few:
        client.get(PAGE)
    for _ in range(5):
        name, model = served()
        paid(account, name, model, charge=3, cost=1)
        attempt(name, model, result=Result.BROKEN)
    with CaptureQueriesContext(connection) as many:
        client.get(PAGE)

    assert len(many) == len(few) <= 12 + SETTINGS_AND_SAVEPOINT


@pytest.mark.parametrize("query", ["", "?period=never&backend=nobody&model=none", "?period=7d"])
@pytest.mark.django_db
def test_the_page_answers_whatever_is_asked(query: str) -> None:
    assert people.superuser().get(PAGE + query).status_code == 200


@pytest.mark.django_db
def test_without_backends_it_says_what_to_do() -> None:
    Backend.objects.all().delete()

    page = people.superuser().get(PAGE).content.decode()

    assert "There is no backend yet" in page
    assert reverse("admin:gateway_backend_add") in page


@pytest.mark.django_db
def test_who_asks_again_gets_the_part_that_changes() -> None:
    page = people.superuser().get(PAGE, headers={"HX-Request": "true"}).content.decode()

    assert page.lstrip().startswith('<div id="operations"')
    assert "<html" not in page


@pytest.mark.django_db
def test_the_admin_leads_there() -> None:
    client = people.superuser()

    for address in ("/admin/", reverse("admin:gateway_backend_changelist")):
        assert f'href="{PAGE}"' in client.get(address).content.decode()


def staff(*permissions: str) -> Client:
    user = User.objects.create_user(f"{factories.unique('operator')}@example.test", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return people.signed_in(user)


@pytest.mark.django_db
def test_who_may_look_and_who_may_act() -> None:
    name, _ = served()
    backend = Backend.objects.get(name=name)
    drain, resume = (reverse(f"admin:gateway_backend_{word}", args=[backend.pk]) for word in ("drain", "resume"))
    acts = [drain, resume, f"{PAGE}try/"]

    assert Client().get(PAGE).status_code == 302
    assert staff().get(PAGE).status_code == 403
    viewer = staff("view_backend")
    assert viewer.get(PAGE).status_code == 200
    assert "Try it</button>" not in viewer.get(PAGE).content.decode()
    assert [viewer.post(act).status_code for act in acts] == [403, 403, 403]
    assert [Client().post(act).status_code for act in acts] == [302, 302, 302]
    backend.refresh_from_db()
    assert backend.enabled
    changer = staff("change_backend")
    assert "Try it</button>" in changer.get(PAGE).content.decode()
    assert changer.get(drain).status_code == 200
    assert changer.get(f"{PAGE}try/").status_code == 405


@pytest.mark.django_db
def test_draining_and_resuming_happen_once_however_often_they_are_clicked() -> None:
    name, model = served()
    backend, client = Backend.objects.get(name=name), people.superuser()
    drain, resume = (reverse(f"admin:gateway_backend_{word}", args=[backend.pk]) for word in ("drain", "resume"))

    asked = client.get(drain).content.decode()
    assert f"No other backend serves {model.public_id}" in asked
    backend.refresh_from_db()
    assert backend.enabled

    for address, enabled in ((drain, False), (resume, True)):
        for _ in range(2):
            response = client.post(address, {"filters": "period=5m&next=https://elsewhere.test"}, follow=True)
            assert response.redirect_chain == [(f"{PAGE}?period=5m", 302)]
        assert "already" in response.content.decode()
        backend.refresh_from_db()
        assert backend.enabled is enabled
    entries = LogEntry.objects.filter(object_id=str(backend.pk)).order_by("pk")
    assert [entry.change_message for entry in entries] == ["Drained.", "Taken into service again."]


@pytest.mark.django_db
def test_a_drained_backend_whose_calls_still_run_is_draining() -> None:
    name, _ = served()
    call = factories.held(factories.ask(factories.funded(100), 10))
    call.backend = name
    call.save(update_fields=["backend"])
    place = looked_at(name).places[0]
    assert (place.running, place.state) == (1, "in service")

    backends.drain(Backend.objects.filter(name=name))

    assert looked_at(name).places[0].state == "draining"
    call.delete()
    assert looked_at(name).places[0].state == "drained"


@pytest.fixture
def scripted() -> Iterator[ScriptedBackend]:
    """Of the test's own: other tests find theirs by its address."""
    backend = ScriptedBackend()
    yield backend
    backend.stop()


@pytest.fixture
def scripted_route(committed: None, lab: Lab) -> Iterator[Route]:
    route = Route.objects.select_related("backend", "model").get(model__public_id=lab.of_script)
    yield route
    Backend.objects.filter(pk=route.backend_id).update(enabled=True)


def answer(text: str = "hi") -> bytes:
    return (
        b'{"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "%s"}, '
        b'"finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}' % text.encode()
    )


def tried(route: Route) -> str:
    """What the page says after the button."""
    response = people.superuser().post(f"{PAGE}try/", {"route": route.pk, "filters": "period=5m"}, follow=True)
    assert response.redirect_chain == [(f"{PAGE}?period=5m", 302)]
    (message,) = [str(message) for message in response.context["messages"]]
    assert message.startswith(f"Asked {route.backend} for {route.model}: ")
    return message


def test_trying_tells_good_from_bad(lab: Lab, scripted_route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.scripted.play(answer(), head=JSON_HEAD)
    assert "answered" in tried(scripted_route)
    assert "answered" in tried(scripted_route)
    assert lab.scripted.calls == 2
    lab.scripted.play(b'{"error": {"message": "secret words"}}', head=REFUSAL)
    assert "secret words" not in (refused := tried(scripted_route))
    assert "the probe was refused" in refused
    lab.scripted.play(b"{}", head=JSON_HEAD.replace(b"200 OK", b"401 Unauthorized"))
    assert "status 401" in tried(scripted_route)
    lab.scripted.play(b"<html>", head=JSON_HEAD)
    assert "a web page" in tried(scripted_route)
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.2)
    lab.scripted.play(threading.Event(), head=JSON_HEAD)
    assert "no answer within 0.2 s" in tried(scripted_route)


def test_a_dead_backend_is_told_and_so_is_one_that_is_drained(lab: Lab, scripted_route: Route) -> None:
    dead = Route.objects.select_related("backend", "model").get(model__public_id=lab.of_closed_port)
    assert "Connect" in tried(dead)
    backends.drain(Backend.objects.filter(pk=scripted_route.backend_id))
    lab.scripted.play(answer(), head=JSON_HEAD)
    assert "answered" in tried(scripted_route)


def test_trying_charges_nobody_and_leaves_no_rows(committed: None, scripted: ScriptedBackend) -> None:
    _, model = served(base_url=scripted.base_url)
    scripted.play(answer(), head=JSON_HEAD)

    assert "answered" in tried(Route.objects.select_related("backend", "model").get(model=model))

    assert not Attempt.objects.filter(model=model).exists()
    assert not UsageRecord.objects.filter(model=model).exists()


@pytest.mark.django_db
def test_a_route_that_is_not_there_cannot_be_tried() -> None:
    client = people.superuser()

    assert [client.post(f"{PAGE}try/", {"route": route}).status_code for route in ("", "x", "0", "9" * 30)] == [404] * 4


def test_the_button_drains_and_streams_finish(stack: Stack, lab: Lab, scripted_route: Route) -> None:
    alice, gate, client = customer(), threading.Event(), people.superuser()
    drain, resume = (
        reverse(f"admin:gateway_backend_{word}", args=[scripted_route.backend_id]) for word in ("drain", "resume")
    )
    lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
    until(lambda: not _refused(stack.webs[0], alice, lab))  # Another test may have drained it a moment ago.
    lab.scripted.play(chunk("one"), gate, chunk("two"), chunk(finish="stop"), usage(5, 2), DONE)
    with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
        opened.read(1)
        lab.scripted.play(chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
        until(lambda: operations.running_at(scripted_route.backend))
        assert "The 1 call that it answers now finishes" in client.get(drain).content.decode()
        client.post(drain)
        until(lambda: _refused(stack.webs[0], alice, lab), 2)
        gate.set()
        assert opened.rest()[-1] is None
    client.post(resume)
    until(lambda: not _refused(stack.webs[0], alice, lab), 2)


def _refused(web: WebProcess, alice: Customer, lab: Lab) -> bool:
    return wire.ask(web, alice.secret, chat(model=lab.of_script, stream=True)).status == 503


@pytest.mark.django_db
def test_the_past_is_found_by_index_and_only_in_its_month() -> None:
    last_year = datetime.now(UTC) - timedelta(days=365)
    partitions.ensure(now=last_year, months_ahead=1)
    name, model = served()
    attempt(name, model)
    with CaptureQueriesContext(connection) as queries:
        looked_at(name, period="1h")
    asked = [query["sql"] for query in queries if "gateway_attempt" in query["sql"]]
    assert len(asked) == 2
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        for query in asked:
            cursor.execute(f"EXPLAIN {query}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Seq Scan" not in plan
            assert re.search(r"Index Scan.* using attempt_(unique|failed) on gateway_attempt", plan), plan
            assert f"billing_usagerecord_{last_year:%Y_%m}" not in plan
