from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import audit, registration
from accounts.audit import Action
from accounts.models import Account, AuditEvent
from apikeys import keys
from apikeys.models import ApiKey
from tests import people

pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


def page(client: Client, query: str = "") -> str:
    response = client.get(f"/activity/{query}")
    assert response.status_code == 200
    return response.content.decode()


def keys_made(account: Account, count: int, **fields: Any) -> None:
    for number in range(count):
        audit.record(Action.KEY_CREATED, account=account, object=f"key-{number:03}", **{"by": None, **fields})


def test_tells_who_did_what_when_and_from_where(account: Account) -> None:
    alice = people.owner_of(account)
    alice.post("/team/account/", {"name": "ACME"}, REMOTE_ADDR="192.0.2.7")

    content = page(alice)

    event = AuditEvent.objects.get(action="account.renamed", account=account)
    told = [
        f"{event.created_at:%Y-%m-%d %H:%M:%S}",
        str(event.actor),
        "renamed the account from alice to ACME",
        "192.0.2.7",
    ]
    assert [text in content for text in told] == [True] * 4


def test_every_change_on_the_pages_is_told_with_its_address(account: Account) -> None:
    alice = people.owner_of(account)
    key, _ = keys.create(account=account, name="laptop", now=datetime.now(UTC), by=account.users.get())
    for view, fields in {"rename": {"name": "desk"}, "disable": {}, "enable": {}, "revoke": {"name": "desk"}}.items():
        alice.post(reverse(f"apikeys:{view}", args=[key.pk]), fields, REMOTE_ADDR="192.0.2.7")

    events = AuditEvent.objects.filter(account=account, ip="192.0.2.7", actor=account.users.get()).order_by("id")

    assert [event.action for event in events] == ["key.renamed", "key.disabled", "key.enabled", "key.revoked"]


def test_turns_pages_and_keeps_the_filter(account: Account) -> None:
    keys_made(account, 120)
    alice, query, seen = people.owner_of(account), "?group=key", []
    while query:
        content = page(alice, query)
        seen += re.findall(r"key-\d+", content)
        assert "opened the account" not in content
        found = re.search(r'href="(\?group=key&amp;before=\d+)"', content)
        query = found[1].replace("&amp;", "&") if found else ""

    assert seen == [f"key-{number:03}" for number in reversed(range(120))]


def test_shows_one_persons_acts(account: Account) -> None:
    bob = people.member_of(account, "admin")
    keys_made(account, 1, by=bob)
    keys_made(account, 2, by=account.users.exclude(pk=bob.pk).get())

    content = page(people.owner_of(account), f"?person={bob.pk}")

    assert "key-000" in content
    assert "key-001" not in content


def test_what_a_person_did_who_was_removed_can_still_be_chosen(account: Account) -> None:
    bob = people.member_of(account, "admin")
    keys_made(account, 1, by=bob)
    keys_made(account, 2, by=account.users.exclude(pk=bob.pk).get())
    account.memberships.get(user=bob).delete()
    alice = people.owner_of(account)

    content = page(alice, f"?person={bob.pk}")

    assert re.search(rf'"No longer here">\s*<option value="{bob.pk}" selected>{bob.email}</option>', content)
    assert "key-000" in content
    assert "key-001" not in content
    assert "No longer here" not in page(people.owner_of(people.customer("charlie")[0]))


@pytest.mark.parametrize(
    "query", ["?group=x", "?person=x", "?person=1", "?before=x", "?before=" + "9" * 40, "?group=%00"]
)
def test_any_address_is_answered(account: Account, query: str) -> None:
    page(people.owner_of(account), query)


def test_a_filter_that_finds_nothing_offers_a_way_back(account: Account) -> None:
    assert "Show everything" in page(people.owner_of(account), "?group=key")


def test_nothing_of_another_account_is_seen(account: Account) -> None:
    keys_made(account, 1)
    assert "key-000" not in page(people.owner_of(people.customer("charlie")[0]))


def test_staff_and_commands_are_told_as_flint(account: Account) -> None:
    key, _ = keys.create(account=account, name="laptop", now=datetime.now(UTC))
    staff = people.superuser()
    changelist = reverse("admin:apikeys_apikey_changelist")
    staff.post(changelist, {"action": "revoke", "_selected_action": [key.pk]}, REMOTE_ADDR="192.0.2.99")

    content = page(people.owner_of(account))

    event = AuditEvent.objects.get(action="key.revoked", account=account)
    assert event.actor
    assert (event.actor.is_staff, event.ip) == (True, "192.0.2.99")
    assert "Flint&#x27;s staff" in content or "Flint's staff" in content
    assert not [text for text in (event.actor.email, "192.0.2.99") if text in content]


def test_needs_few_queries_whatever_there_is(account: Account) -> None:
    for _ in range(20):
        keys_made(account, 3, by=people.member_of(account, "member"))
    alice = people.owner_of(account)
    with CaptureQueriesContext(connection) as done:
        page(alice)
    assert len(done) <= 8


@pytest.mark.parametrize(("role", "status"), [("owner", 200), ("admin", 200), ("member", 403), ("billing", 403)])
def test_owners_and_admins_see_it(account: Account, role: str, status: int) -> None:
    assert people.signed_in(people.member_of(account, role)).get("/activity/").status_code == status


def test_who_may_not_is_told_why_and_who_can_change_it(account: Account) -> None:
    response = people.signed_in(people.member_of(account, "billing")).get("/activity/")

    told = f"Your role in {account}, billing, may not see what was done in the account."
    assert told in response.content.decode()
    assert "An owner or admin of the account can change that." in response.content.decode()


def test_a_name_is_only_a_name(account: Account) -> None:
    registration.rename(account=account, name="<img src=x onerror=alert(1)>{{7*7}}{object}")
    content = page(people.owner_of(account))
    assert "<img src=x" not in content
    assert "{{7*7}}{object}" in content


class TestAdmin:
    def test_events_can_be_found_and_not_touched(self, account: Account) -> None:
        keys_made(account, 1)
        staff = people.superuser()
        changelist = reverse("admin:accounts_auditevent_changelist")
        event = AuditEvent.objects.get(object="key-000")

        assert "key-000" in staff.get(changelist, {"q": "key-000"}).content.decode()
        assert "key-000" in staff.get(reverse("admin:accounts_auditevent_change", args=[event.pk])).content.decode()
        assert staff.post(reverse("admin:accounts_auditevent_delete", args=[event.pk])).status_code == 403
        assert staff.get(reverse("admin:accounts_auditevent_add")).status_code == 403

    def test_actions_on_accounts_are_recorded(self, account: Account) -> None:
        staff = people.superuser()
        for action in ("disable", "disable", "enable"):
            staff.post(
                reverse("admin:accounts_account_changelist"), {"action": action, "_selected_action": [account.pk]}
            )

        events = AuditEvent.objects.filter(account=account, actor__is_staff=True).order_by("id")
        assert [event.action for event in events] == ["account.disabled", "account.enabled"]

    def test_a_new_expiry_is_recorded_and_nothing_else_written_back(self, account: Account) -> None:
        key, _ = keys.create(account=account, name="laptop", now=datetime.now(UTC))
        address = reverse("admin:apikeys_apikey_change", args=[key.pk])
        form = {"expires_at_0": "2030-01-01", "expires_at_1": "00:00:00", "revoked_at": "2020-01-01", "name": "x"}

        people.superuser().post(address, form)

        after = ApiKey.objects.get(pk=key.pk)
        assert (after.expires_at, after.revoked_at, after.name) == (datetime(2030, 1, 1, tzinfo=UTC), None, "laptop")
        event = AuditEvent.objects.get(account=account, action="key.expiry_set")
        assert event.details == {"ends": "2030-01-01 00:00:00 UTC"}
