from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from accounts import audit
from accounts.audit import Action
from accounts.models import AuditEvent
from flint import urls
from tests import factories

pytestmark = pytest.mark.django_db


def act(request: HttpRequest) -> HttpResponse:
    audit.record(Action.KEY_CREATED, account=None, by=None, object=request.GET["object"])
    return HttpResponse()


urlpatterns = [*urls.urlpatterns, path("act/", act)]


def recorded(name: str) -> AuditEvent:
    return AuditEvent.objects.get(object=name)


def test_an_event_says_who_did_what_to_what_and_when() -> None:
    account, user = factories.account(), factories.user()

    audit.record(Action.KEY_RENAMED, account=account, by=user, object="new", details={"before": "old"})

    event = recorded("new")
    assert (event.account, event.actor, event.action, event.ip) == (account, user, "key.renamed", None)
    assert event.details == {"before": "old"}
    assert abs(datetime.now(UTC) - event.created_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditevent SET actor_id = NULL",
        "DELETE FROM accounts_auditevent",
        "TRUNCATE accounts_auditevent",
    ],
)
def test_the_database_refuses_to_rewrite_what_was_done(statement: str) -> None:
    audit.record(Action.KEY_CREATED, account=None, by=None)
    connection.check_constraints()  # They are deferred, and PostgreSQL truncates no table with checks to come.

    with pytest.raises(IntegrityError, match="what was done stays written"), transaction.atomic():
        connection.cursor().execute(statement)


def test_what_is_rolled_back_was_not_done() -> None:
    with transaction.atomic():
        audit.record(Action.KEY_CREATED, account=None, by=None, object="undone")
        transaction.set_rollback(True)

    assert not AuditEvent.objects.filter(object="undone").exists()


def test_a_long_name_is_cut() -> None:
    audit.record(Action.KEY_CREATED, account=None, by=None, object="x" * 1000)

    assert recorded("x" * audit.OBJECT_LENGTH)


@pytest.mark.urls(__name__)
class TestAddress:
    def test_is_that_of_the_request(self) -> None:
        Client().get("/act/?object=there", REMOTE_ADDR="2001:db8::7")

        assert recorded("there").ip == "2001:db8::7"

    def test_is_none_outside_of_requests_even_after_one(self) -> None:
        Client().get("/act/?object=inside", REMOTE_ADDR="192.0.2.1")

        audit.record(Action.KEY_CREATED, account=None, by=None, object="outside")

        assert recorded("outside").ip is None

    def test_a_forwarded_one_is_not_believed_without_a_proxy(self) -> None:
        Client().get("/act/?object=forged", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="198.51.100.9")

        assert recorded("forged").ip == "192.0.2.1"

    @override_settings(ALLAUTH_TRUSTED_PROXY_COUNT=1)
    def test_behind_a_proxy_the_last_one_is(self) -> None:
        Client().get("/act/?object=proxied", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="198.51.100.9, 192.0.2.5")

        assert recorded("proxied").ip == "192.0.2.5"

    def test_a_server_on_a_unix_socket_knows_none(self) -> None:
        assert Client().get("/act/?object=socket", REMOTE_ADDR="").status_code == 200

        assert recorded("socket").ip is None


class TestSentence:
    def test_tells_what_was_done(self) -> None:
        event = AuditEvent(action="team.role_changed", object="bob", details={"before": "member", "role": "admin"})

        assert audit.sentence(event) == "changed the role of bob from member to admin"

    def test_of_an_unknown_action_is_its_key(self) -> None:
        assert audit.sentence(AuditEvent(action="moon.landed", object="Eagle")) == "moon.landed Eagle"

    @pytest.mark.parametrize("action", list(Action))
    def test_can_be_made_of_every_action_even_without_details(self, action: Action) -> None:
        assert "{" not in audit.sentence(AuditEvent(action=action, object="x"))

    def test_a_name_with_braces_is_only_a_name(self) -> None:
        assert audit.sentence(AuditEvent(action="key.created", object="{object.__class__}")) == (
            "created the key {object.__class__}"
        )
