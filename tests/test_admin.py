"""Every page of the admin: it answers for staff alone, runs no query per row, and money cannot be changed there."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Account, AuditEvent, Membership, Tier, User
from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import ApiKey, SpendPeriod
from billing import ledger, vouchers
from billing.models import (
    AccountClosing,
    AutoRecharge,
    BalanceTransaction,
    BooksCheck,
    ClearingCheck,
    CreditLot,
    Dispute,
    DisputeMail,
    DocumentMail,
    GatewayProcess,
    Hold,
    KeyBudget,
    LanguageModel,
    LateUsageRecord,
    LowBalanceMail,
    Payment,
    PaymentFlag,
    PeriodicTask,
    PriceVersion,
    PromiseCheck,
    RechargeMail,
    Refund,
    RefundMail,
    RefusedCalls,
    ReleasedHolds,
    StripeCursor,
    StripeCustomer,
    StripeEvent,
    Transfer,
    UsageHour,
    UsageRecord,
    Voucher,
    VoucherRedemption,
    Wallet,
)
from billing.payments import clearing
from gateway import backends, route_prices
from gateway.models import Attempt, Backend, Route, RoutePrice
from tests import factories, people
from tests.billing import papers

pytestmark = pytest.mark.django_db

MONEY = [
    Wallet, Transfer, CreditLot, BooksCheck, KeyBudget,
    UsageRecord, Hold, LateUsageRecord, UsageHour, ReleasedHolds, RefusedCalls, GatewayProcess,
    PeriodicTask, PromiseCheck, Payment, StripeCustomer, StripeEvent, LowBalanceMail, DocumentMail,
    Dispute, DisputeMail, PaymentFlag, BalanceTransaction, StripeCursor, ClearingCheck, Attempt,
    AutoRecharge, RechargeMail, Refund, RefundMail,
]  # fmt: skip
OURS = [
    *MONEY,
    LanguageModel,
    PriceVersion,
    AccountClosing,
    Voucher,
    VoucherRedemption,
    Backend,
    Route,
    RoutePrice,
    ApiKey,
    User,
    Account,
    AuditEvent,
    Membership,
    Tier,
]


def page(model: type[models.Model], name: str = "changelist", *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=arguments)


def one_of_each() -> Account:
    """A customer with a row in every table."""
    account, _ = people.customer("alice")
    ApiKey.objects.create(account=account, name="laptop", digest=uuid4().bytes * 2, display="tk-abcd...wxyz")
    factories.credit(account, 1_000)
    call = factories.recorded(account, 7)
    ledger.settle(account_id=account.pk)
    keys.set_spend_cap(key=account.api_keys.earliest("id"), cap=SpendCap(1_000, SpendPeriod.DAY))
    factories.recorded(account, 5)
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    BooksCheck.objects.create(wallet=account.wallet, seq=0, balance=0)
    LateUsageRecord.objects.create(id=call.id, account=account, record={})
    ReleasedHolds.objects.create(account=account, hour=hour, reason="failed", calls=1)
    RefusedCalls.objects.create(account=account, hour=hour, status=402, code="insufficient_balance", calls=1)
    GatewayProcess.objects.create(boot=uuid4(), host="host", pid=1)
    PeriodicTask.objects.create(name=uuid4().hex, every_seconds=10, sent_at=now)
    code = factories.voucher(code=factories.unique("code"))
    vouchers.redeem(account=account, code=code.code, form_id=uuid4(), now=now, by=account.users.get())
    LowBalanceMail.objects.create(account=account, recipient=account.users.get(), threshold=1)
    DocumentMail.objects.create(account=account, month=date(2026, 10, 1))
    factories.auto_recharge(account)
    RechargeMail.objects.create(account=account, recipient=account.users.get(), about="declined")
    AccountClosing.objects.create(account=account, requested_by=account.users.get())
    PromiseCheck.objects.create(promise=uuid4().hex[:10], broken=0)
    StripeCustomer.objects.create(account=account, livemode=False)
    payment = Payment.objects.create(account=account, kind="topup", livemode=False, amount_cents=1000)
    refund = Refund.objects.create(
        payment=papers.paid(account), amount_cents=5, tax_cents=0, source="stripe", state="sent", posted_at=now,
        stripe_id=uuid4().hex,
    )  # fmt: skip
    RefundMail.objects.create(refund=refund, about="sent")
    dispute = papers.dispute(payment)
    DisputeMail.objects.create(dispute=dispute, about="dispute")
    PaymentFlag.objects.create(account=account, payment=payment, cause=dispute.stripe_id, reason="Dispute")
    StripeEvent.objects.create(id=uuid4().hex, type="x", created=now, livemode=False, payload="{}", source="webhook")
    BalanceTransaction.objects.create(
        id=uuid4().hex, type="x", amount_cents=5, fee_cents=1, net_cents=4, currency="usd", created=now,
        available_on=now, livemode=False,
    )  # fmt: skip
    StripeCursor.objects.get_or_create(list="events", livemode=False, defaults={"since": now})
    clearing.check(now=now)
    model = factories.language_model()
    factories.attempt(model)
    factories.price(model)
    factories.price(factories.language_model(), account=account, by=account.users.get())
    name = factories.unique("gpu")
    backend = backends.save(name=name, base_url="http://gpu/v1", credential="sk-secret", models={model.public_id: "x"})
    route_prices.set_price(route=backend.routes.get(), input=1, output=2, now=datetime.now(UTC))
    Tier.objects.create(name=name, requests_per_minute=1, tokens_per_minute=1, concurrent_requests=1)
    return account


def test_every_model_of_ours_is_there() -> None:
    registered = {
        model
        for model in admin.site._registry
        if model.__module__.partition(".")[0] in {"accounts", "apikeys", "billing", "gateway"}
    }

    assert registered == set(OURS)


def signs_in_every_way(account: Account) -> User:
    """Its owner, with a row in every table of others that the admin shows."""
    user = account.users.get()
    user.set_password("hidden-password")
    user.save()
    Authenticator.objects.create(user=user, type="totp", data={"secret": "hidden-data"})
    SocialAccount.objects.create(user=user, provider="x", uid=user.email, extra_data={"x": "hidden-data"})
    people.signed_in(user)
    Group.objects.create(name=factories.unique("support"))
    return user


def test_every_list_its_search_and_its_first_row_answer_and_tell_no_secret() -> None:
    user = signs_in_every_way(one_of_each())
    staff = people.superuser()
    sessions = UserSession.objects.values_list("session_key", flat=True)
    secrets = ["hidden-", "sk-secret", user.password, *sessions]

    for model in admin.site._registry:
        row = model._default_manager.order_by("-pk").first()
        assert row is not None, model
        for address in (page(model), f"{page(model)}?q=alice", page(model, "change", row.pk)):
            response = staff.get(address)
            assert response.status_code == 200, address
            shown = response.content.decode()
            assert [secret for secret in secrets if secret in shown] == [], address


def test_what_staff_need_not_have_is_not_there() -> None:
    assert not {SocialApp, SocialToken} & set(admin.site._registry)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
class TestEveryPage:
    def test_the_list_and_the_page_of_a_row_answer(self, model: type[models.Model]) -> None:
        one_of_each()
        staff = people.superuser()
        row = model._default_manager.order_by("-pk").first()
        assert row is not None

        assert staff.get(page(model)).status_code == 200
        assert staff.get(page(model), {"q": "alice@example.test"}).status_code == 200
        assert staff.get(page(model, "change", row.pk)).status_code == 200

    def test_the_list_runs_as_many_queries_for_three_rows_as_for_one(self, model: type[models.Model]) -> None:
        staff = people.superuser()
        one_of_each()
        staff.get(page(model))
        with CaptureQueriesContext(connection) as few:
            staff.get(page(model))
        one_of_each()
        one_of_each()

        with CaptureQueriesContext(connection) as many:
            staff.get(page(model))

        assert len(many) == len(few)

    def test_a_stranger_and_a_customer_are_refused(self, model: type[models.Model]) -> None:
        account, _ = people.customer("alice")

        assert Client().get(page(model)).status_code == 302
        assert people.owner_of(account).get(page(model), follow=True).status_code == 403

    def test_staff_without_permissions_are_refused(self, model: type[models.Model]) -> None:
        staff = people.signed_in(User.objects.create_user(f"{factories.unique('new')}@example.test", is_staff=True))

        assert staff.get(page(model)).status_code == 403

    def test_staff_who_may_only_look_see_the_page_of_a_row(self, model: type[models.Model]) -> None:
        one_of_each()
        user = User.objects.create_user(f"{factories.unique('auditor')}@example.test", is_staff=True)
        user.user_permissions.add(
            Permission.objects.get(
                content_type__app_label=model._meta.app_label, codename=f"view_{model._meta.model_name}"
            )
        )
        row = model._default_manager.order_by("-pk").first()
        assert row is not None

        response = people.signed_in(user).get(page(model, "change", row.pk))

        assert response.status_code == 200
        assert b'name="_save"' not in response.content


@pytest.mark.parametrize("model", MONEY, ids=lambda model: model.__name__)
def test_money_and_usage_cannot_be_changed(model: type[models.Model]) -> None:
    one_of_each()
    staff = people.superuser()
    row = model._default_manager.order_by("-pk").first()
    assert row is not None

    assert staff.get(page(model, "add")).status_code == 403
    assert staff.post(page(model, "change", row.pk), {"amount": "1"}).status_code == 403
    assert staff.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert b"delete_selected" not in staff.get(page(model)).content


@pytest.mark.parametrize(
    "model",
    [User, Account, ApiKey, LanguageModel, PriceVersion, Voucher, VoucherRedemption, AccountClosing],
    ids=lambda model: model.__name__,
)
def test_what_history_points_at_cannot_be_deleted(model: type[models.Model]) -> None:
    one_of_each()
    row = model._default_manager.order_by("-pk").first()
    assert row is not None

    assert people.superuser().post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("model", [User, Tier, Membership, LanguageModel, PriceVersion, Voucher, Backend, Route])
def test_add_pages_answer(model: type[models.Model]) -> None:
    assert people.superuser().get(page(model, "add")).status_code == 200


@pytest.mark.parametrize("model", [Account, ApiKey])
def test_accounts_and_keys_are_not_made_here(model: type[models.Model]) -> None:
    assert people.superuser().get(page(model, "add")).status_code == 403


def test_the_index_answers_and_is_named_flint() -> None:
    content = people.superuser().get("/admin/").content.decode()

    assert "Flint" in content
    assert "Django administration" not in content


def test_signing_in_happens_on_the_page_of_the_site() -> None:
    response = Client().get("/admin/", follow=True)

    assert response.redirect_chain[-1][0].startswith("/accounts/login/")
