"""The database writes the history of rows that matter, whoever changes them and how, and refuses to rewrite it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pghistory
import pytest
from django.apps import apps
from django.db import IntegrityError, ProgrammingError, connection, models, transaction

from accounts.models import Account, Membership, Tier, User
from apikeys import keys
from apikeys.models import ApiKey
from billing.models import AutoRecharge, LanguageModel, Payment, StripeCustomer
from gateway import backends
from gateway.models import Backend, Route
from tests import factories, people
from tests.billing import stage

TRACKED = [
    *(Account, Membership, Tier, User, ApiKey, LanguageModel, Backend, Route),
    *(AutoRecharge, Payment, StripeCustomer),
]


def history(model: type[models.Model]) -> Any:
    return apps.get_model(model._meta.app_label, f"{model.__name__}History").objects.order_by("pgh_id")


def labels(row: models.Model) -> list[str]:
    return list(history(type(row)).filter(pgh_obj_id=row.pk).values_list("pgh_label", flat=True))


@pytest.mark.django_db
def test_a_change_is_kept_with_who_made_it_and_where() -> None:
    account, _ = people.customer("alice")
    user = account.users.get()

    people.owner_of(account).post("/team/account/", {"name": "ACME"})

    kept = history(Account).filter(pgh_obj=account).last()
    assert (kept.name, kept.pgh_label, kept.pgh_context) == (
        "ACME",
        "update",
        {"user": user.pk, "url": "/team/account/"},
    )


@pytest.mark.django_db
def test_a_change_by_hand_is_kept_too() -> None:
    account = factories.account()

    with connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_account SET disabled_at = now() WHERE id = %s", [account.pk])

    assert labels(account) == ["insert", "update"]


@pytest.mark.django_db
def test_who_is_removed_stays_in_the_history() -> None:
    account = factories.account()
    user = people.member_of(account, "admin")
    membership = Membership.objects.get(user=user)
    key = membership.pk

    membership.delete()

    kept = history(Membership).filter(pgh_obj_id=key)
    assert [(one.pgh_label, one.user_id, one.role) for one in kept] == [
        ("insert", user.pk, "admin"),
        ("delete", user.pk, "admin"),
    ]


@pytest.mark.django_db
def test_secrets_are_not_kept() -> None:
    fields = {field.name for model in TRACKED for field in history(model).model._meta.fields}
    assert not fields & {"digest", "credential", "password"}


@pytest.mark.django_db
def test_staff_who_make_themselves_more_are_kept_and_signing_in_is_not() -> None:
    user = factories.user()
    people.signed_in(user)  # Writes last_login.
    User.objects.filter(pk=user.pk).update(is_superuser=True)

    assert labels(user) == ["insert", "update"]


@pytest.mark.django_db
def test_who_agreed_to_have_which_card_saved_is_kept_when_both_are_gone() -> None:
    account, _ = people.customer("alice")
    row = StripeCustomer.objects.create(account=account, livemode=False)
    agreed = {"consented_at": datetime.now(UTC), "consented_by": account.users.get()}
    StripeCustomer.objects.filter(pk=row.pk).update(payment_method="pm_1", card_last4="4242", **agreed)
    StripeCustomer.objects.filter(pk=row.pk).delete()

    kept = history(StripeCustomer).filter(pgh_obj_id=account.pk)
    assert [one.pgh_label for one in kept] == ["insert", "update", "delete"]
    assert (kept.last().card_last4, kept.last().consented_by_id) == ("4242", account.users.get().pk)


@pytest.mark.django_db
def test_each_state_of_a_payment_is_kept_and_being_looked_at_is_none() -> None:
    account, _ = people.customer("alice")
    payment = Payment.objects.create(account=account, kind="topup", livemode=False, amount_cents=1000)
    for state in (Payment.State.OPEN, Payment.State.PROCESSING, Payment.State.PROCESSING, Payment.State.FAILED):
        payment.state = state
        payment.save()  # Writes when, too.

    kept = history(Payment).filter(pgh_obj_id=payment.pk)
    assert [one.state for one in kept] == ["open", "processing", "failed"]


@pytest.mark.django_db
def test_a_backend_and_its_routes_are_kept() -> None:
    model = factories.language_model()
    backend = backends.save(
        name=factories.unique("b"), base_url="http://x/v1", credential="s", models={model.public_id: "m"}
    )
    Route.objects.filter(backend=backend).update(weight=7)

    assert labels(backend) == ["insert"]
    assert labels(backend.routes.get()) == ["insert", "update"]
    assert labels(model) == ["insert"]


@pytest.mark.django_db
@pytest.mark.parametrize("model", TRACKED)
@pytest.mark.parametrize("statement", ["UPDATE {} SET pgh_label = 'x'", "DELETE FROM {}"])
def test_the_history_itself_cannot_be_rewritten(model: type[models.Model], statement: str) -> None:
    account, _ = people.customer("alice")
    model_row = factories.language_model()
    backends.save(
        name=factories.unique("b"), base_url="http://x/v1", credential=None, models={model_row.public_id: "m"}
    )
    Tier.objects.create(name="T", requests_per_minute=1, tokens_per_minute=1, concurrent_requests=1)
    keys.create(account=account, name="k", now=datetime.now(UTC))
    factories.auto_recharge(account)
    StripeCustomer.objects.create(account=account, livemode=False)
    Payment.objects.create(account=account, kind="topup", livemode=False, amount_cents=1000)
    table = history(model).model._meta.db_table

    with pytest.raises(ProgrammingError, match="Cannot update or delete rows"), transaction.atomic():
        connection.cursor().execute(statement.format(table))


@pytest.mark.django_db
@pytest.mark.parametrize("model", TRACKED)
def test_the_history_cannot_be_emptied(model: type[models.Model]) -> None:
    table = history(model).model._meta.db_table
    with connection.cursor() as cursor, pytest.raises(IntegrityError, match="refused"), transaction.atomic():
        cursor.execute(f"TRUNCATE {table}")


@pytest.mark.usefixtures("committed")
def test_the_context_ends_with_the_request() -> None:
    account, _ = people.customer("alice")
    people.owner_of(account).post("/team/account/", {"name": "ACME"})

    Account.objects.filter(pk=account.pk).update(name="by a command")

    assert history(Account).filter(pgh_obj=account).last().pgh_context is None
    assert not hasattr(pghistory.runtime._tracker, "value")


@pytest.mark.usefixtures("committed")
def test_the_gateways_notes_of_use_write_no_history() -> None:
    key = factories.account().api_keys.get()

    stage.as_gateway(lambda database: keys.note_uses(database, {key.pk: 0.0}))

    key.refresh_from_db()
    assert key.last_used_at
    assert labels(key) == ["insert"]
