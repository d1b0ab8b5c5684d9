"""What the database refuses, whoever asks: every named constraint and every trigger has a test that violates it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils.timezone import now as clock

from accounts.models import Account, Invitation, Membership, Tier, User
from apikeys.models import ApiKey
from billing import ledger, partitions
from billing.models import (
    AutoRecharge,
    BalanceThreshold,
    BalanceTransaction,
    BalanceWatch,
    ClearingCheck,
    ClearingSubject,
    CreditLot,
    Dispute,
    DisputeMail,
    DisputeMovement,
    DocumentMail,
    Hold,
    KeyBudget,
    LanguageModel,
    LowBalanceMail,
    Payment,
    PaymentFlag,
    PriceRate,
    PriceVersion,
    Receipt,
    RechargeMail,
    Refund,
    RefundHold,
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
    WatchedTransfers,
)
from gateway.models import Backend, Route
from tests import factories
from tests.billing import papers

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def transfer(**fields: Any) -> Transfer:
    wallet = Wallet.objects.create(account=factories.account())
    defaults = {
        "kind": "adjustment", "debit": "adjustments", "credit": "wallet", "amount": 1,
        "cause": factories.unique("cause"), "day": NOW.date(), "wallet": wallet, "wallet_seq": 1, "balance_after": 1,
    }  # fmt: skip
    return Transfer.objects.create(**{**defaults, **fields})


def outside(**fields: Any) -> Transfer:
    """A transfer that touches no wallet."""
    nothing = {"wallet": None, "wallet_seq": None, "balance_after": None}
    return transfer(**{"kind": "payout", "debit": "bank", "credit": "stripe_clearing", **nothing, **fields})


def lot(**fields: Any) -> CreditLot:
    opened = transfer()
    defaults = {"wallet": opened.wallet, "kind": "promotional", "amount": 5, "remaining": 5, "transfer": opened}
    return CreditLot.objects.create(**{**defaults, **fields})


def wallet(**fields: Any) -> Wallet:
    return Wallet.objects.create(account=factories.account(), **fields)


def hold(**fields: Any) -> Hold:
    defaults = {
        "id": uuid4(), "api_key_id": 1, "model_id": 1, "price_version_id": 1, "amount": 1, "available_after": 0,
        "streamed": False, "owner": uuid4(), "admitted_at": NOW, "expires_at": NOW,
    }  # fmt: skip
    return Hold.objects.create(account=wallet(), **{**defaults, **fields})


def payment(**fields: Any) -> Payment:
    defaults = {"account": factories.account(), "kind": "topup", "livemode": False, "amount_cents": 500}
    return Payment.objects.create(**{**defaults, **fields})


def two_open_recharges() -> None:
    repeated(payment, account=factories.account(), kind="recharge")


def receipt(**fields: Any) -> Receipt:
    sums = {"net_cents": 1, "tax_cents": 0, "total_cents": 1, **fields}
    number = factories.unique("R-")
    return Receipt.objects.create(payment=payment(), number=number, issued_at=NOW, seller=[], buyer=[], **sums)


def movement(**fields: Any) -> BalanceTransaction:
    """One movement of Stripe's balance."""
    cents = {"amount_cents": 100, "fee_cents": 30, "net_cents": 70, "currency": "usd", "livemode": False}
    moment = {"created": NOW, "available_on": NOW}
    return BalanceTransaction.objects.create(id=factories.unique("txn"), type="charge", **cents | moment | fields)


def subject() -> ClearingSubject:
    sums = {"stripe_cents": 5, "books_cents": 5, "foreign": False, "what": "charge", "moved_at": NOW}
    return ClearingSubject.objects.create(clearing="bank", subject="pi_1", **sums)


def comparison(**fields: Any) -> ClearingCheck:
    parts = {f"{part}_{unit}": 0 for part in ("foreign", "fresh", "unexplained") for unit in ("cents", "count")}
    sums = {"stripe_cents": 5, "books_cents": 5, "currencies": {}, "foreign_types": {}, "examples": []}
    return ClearingCheck.objects.create(clearing="bank", **parts | sums | fields)


def cursor(**fields: Any) -> StripeCursor:
    StripeCursor.objects.all().delete()
    return StripeCursor.objects.create(list="refunds", livemode=True, since=NOW, **fields)


def voucher(**fields: Any) -> Voucher:
    return Voucher.objects.create(**{"code": factories.unique("CODE"), "amount": 1, **fields})


def two_of_a_batch() -> None:
    batch = {"batch_id": uuid4(), "batch_number": 1}
    for _ in range(2):
        voucher(**batch)


def redemption(**fields: Any) -> VoucherRedemption:
    fields = {"number": 1, "form_id": uuid4(), **fields}
    fields.setdefault("voucher", voucher())
    fields.setdefault("account", factories.account())
    return VoucherRedemption.objects.create(transfer=transfer(), **fields)


def threshold(**fields: Any) -> BalanceThreshold:
    fields = {"amount": 1, **fields}
    fields.setdefault("watch", BalanceWatch.objects.create(account=factories.account()))
    return BalanceThreshold.objects.create(**fields)


def document_mail(**fields: Any) -> DocumentMail:
    return DocumentMail.objects.create(**{"account": factories.account(), "month": NOW.date(), **fields})


def low_balance_mail(**fields: Any) -> LowBalanceMail:
    whom = {"account": factories.account(), "recipient": factories.user(), "threshold": 1}
    return LowBalanceMail.objects.create(**whom, **fields)


def dispute(**fields: Any) -> Dispute:
    defaults = {"stripe_id": factories.unique("du"), "amount_cents": 500, "status": "needs_response"}
    return Dispute.objects.create(payment=payment(), opened_at=NOW, asked_at=NOW, **{**defaults, **fields})


def flag(**fields: Any) -> PaymentFlag:
    flagged = payment()
    return PaymentFlag.objects.create(account=flagged.account, payment=flagged, cause="du_1", reason="x", **fields)


def recharge(**fields: Any) -> AutoRecharge:
    return factories.auto_recharge(factories.account(), **fields)


def recharge_mail(**fields: Any) -> RechargeMail:
    defaults = {"account": factories.account(), "recipient": factories.user(), "about": "declined"}
    return RechargeMail.objects.create(**{**defaults, **fields})


def event(**fields: Any) -> StripeEvent:
    defaults = {"id": factories.unique("evt"), "type": "refund.created", "created": NOW, "livemode": False}
    return StripeEvent.objects.create(payload="{}", source="webhook", **{**defaults, **fields})


def refund(**fields: Any) -> Refund:
    """One of Stripe's dashboard."""
    defaults = {"payment": papers.paid(factories.account()), "amount_cents": 5, "source": "stripe", "state": "sent"}
    posted = {"stripe_id": factories.unique("re"), "tax_cents": 0, "posted_at": NOW}
    return Refund.objects.create(**{**defaults, **posted, **fields})


def held_refund(**fields: Any) -> Refund:
    of = wallet()
    hold = RefundHold.objects.create(id=uuid4(), wallet=of, amount=1)
    ours = {"source": "admin", "requested_by": factories.user(), "reason": "asked", "state": "held", "hold": hold}
    return refund(**{**ours, "stripe_id": None, "tax_cents": None, "posted_at": None, **fields})


def two_held_refunds() -> None:
    payment = papers.paid(factories.account())
    held_refund(payment=payment)
    held_refund(payment=payment)


def budget(**fields: Any) -> KeyBudget:
    fields = {"period": "day", "starts_at": NOW, "spent": 0, "held": 0, **fields}
    fields.setdefault("line", factories.account().api_keys.get())
    return KeyBudget.objects.create(**fields)


def changed_key(**fields: Any) -> None:
    factories.account().api_keys.update(**fields)


def usage(**fields: Any) -> UsageRecord:
    record = factories.record(factories.ask(factories.account(), 10), **fields)
    return UsageRecord.objects.create(**{name: getattr(record, name) for name in record.__struct_fields__})


def repeated_wallet_seq() -> None:
    first = transfer()
    transfer(wallet=first.wallet, wallet_seq=first.wallet_seq)


def repeated_lot() -> None:
    first = lot()
    lot(transfer=first.transfer)


def invitation(**fields: Any) -> Invitation:
    fields = {"email": "bob@example.test", "role": "member", "invited_by": factories.user(), **fields}
    return Invitation.objects.create(account=factories.account(), digest=os.urandom(32), expires_at=NOW, **fields)


def repeated_key() -> None:
    account, creation_id = factories.account(), uuid4()
    for _ in range(2):
        ApiKey.objects.create(account=account, creation_id=creation_id, digest=os.urandom(32))


def repeated_rate() -> None:
    version = factories.price()
    PriceRate.objects.create(version=version, meter="input", pico_per_token=1)


def overlapping_prices(account: Account | None, starts_at: datetime) -> None:
    model = factories.language_model()
    PriceVersion.objects.create(model=model, account=account, starts_at=NOW, ends_at=NOW + DAY)
    PriceVersion.objects.create(model=model, account=account, starts_at=starts_at, ends_at=starts_at + 2 * DAY)


def repeated(create: Callable[..., Any], /, **fields: Any) -> None:
    for _ in range(2):
        create(**fields)


def repeated_hour() -> None:
    account = factories.account()
    model = factories.language_model()
    repeated(
        UsageHour.objects.create, account=account, api_key=account.api_keys.get(), model=model, hour=NOW, calls=1,
        input_tokens=1, cached_input_tokens=0, output_tokens=1, charge=1, upstream_cost=0,
    )  # fmt: skip


def repeated_route() -> None:
    backend = Backend.objects.create(name=factories.unique("backend"), base_url="http://localhost/v1")
    repeated(Route.objects.create, backend=backend, model=factories.language_model(), backend_model="m")


def repeated_email() -> None:
    email = factories.user().email
    User.objects.create_user(email.upper())


VIOLATIONS: list[tuple[str, Callable[[], object]]] = [
    ("transfer_amount_positive", lambda: transfer(amount=0)),
    ("transfer_wallet_side", lambda: transfer(wallet=None)),
    ("transfer_wallet_side", lambda: transfer(wallet_seq=None)),
    ("transfer_wallet_side", lambda: transfer(wallet_seq=0)),
    ("transfer_wallet_side", lambda: transfer(balance_after=None)),
    ("transfer_wallet_side", lambda: outside(wallet=wallet())),
    ("transfer_wallet_side", lambda: outside(wallet_seq=1)),
    ("transfer_wallet_side", lambda: outside(balance_after=1)),
    ("transfer_sides_allowed", lambda: transfer(debit="usage_revenue")),
    ("transfer_sides_allowed", lambda: transfer(debit="wallet")),
    ("transfer_sides_allowed", lambda: transfer(kind="usage")),
    ("transfer_sides_allowed", lambda: outside(kind="payout", debit="bank", credit="stripe_fees")),
    ("transfer_sides_allowed", lambda: outside(kind="made up")),
    ("transfer_wallet_seq_unique", repeated_wallet_seq),
    ("billing_transfer_cause", lambda: repeated(outside, cause=factories.unique("once"), amount=1)),
    ("lot_amount_positive", lambda: lot(amount=0, remaining=0)),
    ("lot_remaining_within_amount", lambda: lot(remaining=6)),
    ("lot_remaining_within_amount", lambda: lot(remaining=-1)),
    ("lot_paid_never_expires", lambda: lot(kind="paid", expires_at=NOW)),
    ("lot_paid_never_expires", lambda: lot(kind="made up")),
    ("billing_creditlot_transfer_id_key", repeated_lot),
    ("wallet_held_not_negative", lambda: wallet(held=-1)),
    ("wallet_debt_not_negative", lambda: wallet(debt=-1)),
    ("wallet_holds_end_once", lambda: wallet(holds_opened=2, holds_recorded=2, holds_released=1)),
    ("hold_amount_not_negative", lambda: hold(amount=-1)),
    ("refundhold_amount_positive", lambda: RefundHold.objects.create(id=uuid4(), wallet=wallet(), amount=0)),
    ("payment_amount_positive", lambda: payment(amount_cents=0)),
    ("payment_kind_known", lambda: payment(kind="gift")),
    ("payment_state_known", lambda: payment(state="gone")),
    ("payment_total_is_amount_and_tax", lambda: payment(tax_cents=1, total_cents=500)),
    ("payment_total_is_amount_and_tax", lambda: payment(tax_cents=0)),
    ("payment_paid_has_a_transfer", lambda: payment(state="paid")),
    ("payment_paid_has_a_transfer", lambda: payment(transfer=transfer())),
    ("payment_returns_what_was_paid", lambda: payment(returned_cents=1)),
    ("payment_returns_what_was_paid", lambda: papers.paid(factories.account(), returned_cents=-1)),
    ("payment_returns_what_was_paid", lambda: papers.paid(factories.account(), tax=5, returned_tax_cents=6)),
    ("payment_one_open_recharge", two_open_recharges),
    ("refund_amount_positive", lambda: refund(amount_cents=0)),
    ("refund_posted_is_at_stripe", lambda: refund(state="gone")),
    ("refund_held_has_a_hold", lambda: held_refund(hold=None)),
    ("refund_held_has_a_hold", lambda: held_refund(state="refused")),
    ("refund_posted_is_at_stripe", lambda: refund(stripe_id=None)),
    ("refund_posted_is_at_stripe", lambda: refund(tax_cents=None)),
    ("refund_posted_is_at_stripe", lambda: held_refund(stripe_id="re_1")),
    ("refund_posted_is_at_stripe", lambda: held_refund(transfer=transfer())),
    ("refund_tax_within_amount", lambda: refund(tax_cents=6)),
    ("refund_of_ours_says_who_and_why", lambda: refund(source="admin")),
    ("refund_of_ours_says_who_and_why", lambda: held_refund(reason="")),
    ("refund_of_ours_says_who_and_why", lambda: held_refund(source="stripe", requested_by=None, reason="")),
    ("refund_one_held", two_held_refunds),
    ("refundmail_sent_at", lambda: RefundMail.objects.create(refund=refund(), about="sent", state="sent")),
    ("refund_mail_once", lambda: repeated(RefundMail.objects.create, refund=refund(), about="sent")),
    ("auto_recharge_terms_sane", lambda: recharge(threshold_cents=0)),
    ("auto_recharge_terms_sane", lambda: recharge(amount_cents=0)),
    ("auto_recharge_terms_sane", lambda: recharge(monthly_cap_cents=499)),
    ("auto_recharge_on_or_stopped", lambda: recharge(enabled=False)),
    ("auto_recharge_on_or_stopped", lambda: recharge(stopped_reason="staff", stopped_at=NOW)),
    ("auto_recharge_on_or_stopped", lambda: recharge(enabled=False, stopped_reason="staff")),
    ("auto_recharge_on_or_stopped", lambda: recharge(enabled=False, stopped_at=NOW)),
    ("auto_recharge_attempt_is_due", lambda: recharge(attempt=payment(kind="recharge"))),
    ("auto_recharge_attempt_is_due", lambda: recharge(attempt_due_at=NOW)),
    ("recharge_mail_once", lambda: repeated(recharge_mail, payment=payment(), recipient=factories.user())),
    ("rechargemail_sent_at", lambda: recharge_mail(state="sent")),
    ("rechargemail_sent_at", lambda: recharge_mail(sent_at=NOW)),
    (
        "stripe_customer_card_with_consent",
        lambda: StripeCustomer.objects.create(account=factories.account(), livemode=False, payment_method="pm_1"),
    ),
    ("receipt_adds_up", lambda: receipt(total_cents=2)),
    ("receipt_adds_up", lambda: receipt(tax_cents=-1, total_cents=0)),
    ("voucher_amount_positive", lambda: voucher(amount=0)),
    ("voucher_credit_expires_in_one_way", lambda: voucher(credit_days=1, credit_expires_at=NOW)),
    ("voucher_within_total_limit", lambda: voucher(total_limit=1, redeemed=2)),
    ("voucher_account_limit_positive", lambda: voucher(account_limit=0)),
    ("voucher_batch_made_once", two_of_a_batch),
    ("redemption_counted_once", lambda: repeated(redemption, voucher=voucher(), account=factories.account())),
    ("redemption_of_a_form", lambda: repeated(redemption, account=factories.account(), form_id=uuid4())),
    ("redemption_number_positive", lambda: redemption(number=0)),
    ("threshold_positive", lambda: threshold(amount=0)),
    ("threshold_unique", lambda: repeated(threshold, watch=BalanceWatch.objects.create(account=factories.account()))),
    ("lowbalancemail_sent_at", lambda: low_balance_mail(state="sent")),
    ("lowbalancemail_sent_at", lambda: low_balance_mail(sent_at=NOW)),
    ("documentmail_sent_at", lambda: document_mail(state="sent")),
    ("documentmail_sent_at", lambda: document_mail(sent_at=NOW)),
    ("document_mail_of_one_document", lambda: document_mail(month=None)),
    ("document_mail_of_one_document", lambda: document_mail(receipt=receipt())),
    ("document_mail_once_a_month", lambda: repeated(document_mail, account=factories.account())),
    ("watched_transfers_one_row", lambda: WatchedTransfers.objects.create(id=2)),
    ("stripe_event_done_is_not_tried_again", lambda: event(processed_at=NOW, next_attempt_at=NOW)),
    ("dispute_amount_positive", lambda: dispute(amount_cents=0)),
    ("dispute_closed_at", lambda: dispute(status="lost")),
    ("dispute_closed_at", lambda: dispute(closed_at=NOW)),
    (
        "dispute_movement_moves",
        lambda: DisputeMovement.objects.create(dispute=dispute(), stripe_id="txn_1", cents=0, moved_at=NOW),
    ),
    ("dispute_mail_once", lambda: repeated(DisputeMail.objects.create, dispute=dispute(), about="dispute")),
    ("disputemail_sent_at", lambda: DisputeMail.objects.create(dispute=dispute(), about="dispute", state="sent")),
    ("disputemail_sent_at", lambda: DisputeMail.objects.create(dispute=dispute(), about="dispute", sent_at=NOW)),
    ("payment_flag_cleared_by_somebody", lambda: flag(cleared_at=NOW)),
    ("payment_flag_cleared_by_somebody", lambda: flag(cleared_by=factories.user())),
    ("balance_transaction_net", lambda: movement(net_cents=71)),
    ("balance_transaction_posted_has_a_time", lambda: movement(transfer=outside())),
    ("balance_transaction_posted_has_a_time", lambda: movement(fee_transfer=outside())),
    ("clearing_check_difference_has_parts", lambda: comparison(stripe_cents=6)),
    ("clearing_subject_once", lambda: [subject() for _ in range(2)]),
    ("stripe_cursor_of_list", lambda: StripeCursor.objects.create(list="refunds", livemode=True, since=cursor().since)),
    ("stripe_cursor_after_is_of_a_reading", lambda: cursor(after="re_1")),
    ("hold_available_after_not_negative", lambda: hold(available_after=-1)),
    ("hold_budget_left_after_not_negative", lambda: hold(budget=budget(), budget_left_after=-1)),
    ("hold_budget_left_after_not_negative", lambda: hold(budget=budget())),
    ("hold_budget_left_after_not_negative", lambda: hold(budget_left_after=1)),
    ("keybudget_spent_not_negative", lambda: budget(spent=-1)),
    ("keybudget_held_not_negative", lambda: budget(held=-1)),
    ("keybudget_period_known", lambda: budget(period="week")),
    ("keybudget_unique", lambda: repeated(budget, line=factories.account().api_keys.get())),
    ("usage_charge_within_hold", lambda: usage(charge=11)),
    ("usage_charge_within_hold", lambda: usage(charge=-1)),
    ("usage_tokens_sane", lambda: usage(input_tokens=1, cached_input_tokens=2)),
    ("usage_tokens_sane", lambda: usage(cached_input_tokens=-1)),
    ("usage_tokens_sane", lambda: usage(output_tokens=1, reasoning_tokens=2)),
    ("usage_tokens_sane", lambda: usage(reasoning_tokens=-1)),
    ("usage_settled_has_transfer", lambda: UsageRecord.objects.filter(pk=usage().pk).update(settled_at=NOW)),
    ("usage_settled_has_transfer", lambda: UsageRecord.objects.filter(pk=usage().pk).update(transfer=transfer())),
    ("usagehour_unique", repeated_hour),
    (
        "releasedholds_unique",
        lambda: repeated(ReleasedHolds.objects.create, account=factories.account(), hour=NOW, reason="r", calls=1),
    ),
    ("refusedcalls_unique", lambda: repeated(RefusedCalls.objects.create, hour=NOW, status=429, code="c", calls=1)),
    ("price_list_no_overlap", lambda: overlapping_prices(None, NOW)),
    ("price_list_no_overlap", lambda: overlapping_prices(None, NOW + DAY - timedelta(microseconds=1))),
    ("price_list_no_overlap", lambda: overlapping_prices(None, NOW - DAY)),
    ("price_contract_no_overlap", lambda: overlapping_prices(factories.account(), NOW)),
    (
        "price_ends_after_start",
        lambda: PriceVersion.objects.create(model=factories.language_model(), starts_at=NOW, ends_at=NOW),
    ),
    ("apikey_created_once", repeated_key),
    *(
        ("apikey_limits_positive", lambda limit=limit: changed_key(**{limit: 0}))
        for limit in ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
    ),
    ("apikey_spend_cap_has_period", lambda: changed_key(spend_cap=1)),
    ("apikey_spend_cap_has_period", lambda: changed_key(spend_period="day")),
    ("apikey_spend_cap_has_period", lambda: changed_key(spend_cap=0, spend_period="day")),
    ("apikey_spend_cap_has_period", lambda: changed_key(spend_cap=1, spend_period="week")),
    ("invitation_role_known", lambda: invitation(role="king")),
    ("rate_unique", repeated_rate),
    (
        "rate_positive",
        lambda: PriceRate.objects.create(version=factories.price(), meter="input", pico_per_token=0),
    ),
    ("rate_meter_known", lambda: PriceRate.objects.create(version=factories.price(), meter="x", pico_per_token=1)),
    ("model_limits_sane", lambda: factories.language_model(max_output_tokens=0)),
    ("model_limits_sane", lambda: factories.language_model(context_tokens=9_999)),
    (
        "billing_languagemodel_public_id",
        lambda: repeated(LanguageModel.objects.create, public_id="x", context_tokens=1, max_output_tokens=1),
    ),
    ("apikey_digest_is_sha256", lambda: ApiKey.objects.create(account=factories.account(), digest=b"x" * 31)),
    ("apikey_digest_is_sha256", lambda: ApiKey.objects.create(account=factories.account(), digest=b"x" * 33)),
    ("apikeys_apikey_digest", lambda: repeated(ApiKey.objects.create, account=factories.account(), digest=b"x" * 32)),
    ("user_email_unique", repeated_email),
    (
        "membership_unique",
        lambda: repeated(Membership.objects.create, account=factories.account(), user=factories.user(), role="owner"),
    ),
    (
        "membership_role_known",
        lambda: Membership.objects.create(account=factories.account(), user=factories.user(), role="boss"),
    ),
    ("route_unique", repeated_route),
    *(
        ("tier_limits_positive", lambda limits=limits: Tier.objects.create(name="t", **limits))
        for limits in (
            {"requests_per_minute": 0, "tokens_per_minute": 1, "concurrent_requests": 1},
            {"requests_per_minute": 1, "tokens_per_minute": 0, "concurrent_requests": 1},
            {"requests_per_minute": 1, "tokens_per_minute": 1, "concurrent_requests": 0},
        )
    ),
]


@pytest.mark.parametrize(("constraint", "violate"), VIOLATIONS, ids=[name for name, _ in VIOLATIONS])
def test_the_database_refuses_what_breaks(constraint: str, violate: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        violate()


def test_every_named_constraint_of_ours_is_violated_here() -> None:
    ours = ("accounts", "apikeys", "billing")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid"
            " WHERE contype IN ('c', 'x', 'u') AND relkind IN ('r', 'p') AND NOT relispartition"
            "   AND split_part(relname, '_', 1) = ANY (%s)",
            [list(ours)],
        )
        named = {name for (name,) in cursor.fetchall()}
    made_by_django = {name for name in named if name.startswith(ours)}  # Positive integers, and the unique ones above.
    assert named - made_by_django <= {constraint for constraint, _ in VIOLATIONS}


def test_the_constraints_of_usage_hold_in_every_partition() -> None:
    stray = partitions.first_id(datetime(2031, 1, 1, tzinfo=UTC))
    with pytest.raises(IntegrityError, match="usage_charge_within_hold"), transaction.atomic():
        usage(id=stray, charge=11)
    usage(id=stray)
    assert partitions.stray_rows() == 1


def refuse(statement: str, *parameters: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # Else a pending foreign key would be what refuses a TRUNCATE.
        with pytest.raises(IntegrityError, match=r"refused|superseded"), transaction.atomic():
            cursor.execute(statement, parameters)


def refuse_change(table: str, pk: int, change: str) -> None:
    refuse(f"UPDATE {table} SET {change} WHERE id = %s", pk)  # noqa: S608


@pytest.mark.parametrize("table", ["billing_transfer", "billing_pricerate", "billing_priceversion"])
def test_money_and_prices_are_never_deleted_nor_truncated(table: str) -> None:
    transfer()
    factories.price()
    refuse(f"DELETE FROM {table}")  # noqa: S608
    refuse(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("change", ["amount = 2", "reason = 'x'", "created_at = now()", "amount = amount"])
def test_a_transfer_is_never_changed(change: str) -> None:
    refuse_change("billing_transfer", transfer().pk, change)


@pytest.mark.parametrize(
    "change",
    ["charge = 0", "held = held + 1", "input_tokens = 0", "admitted_at = now()", "outcome = 'completed', charge = 1"],
)
def test_what_a_call_was_charged_is_never_changed(change: str) -> None:
    account = factories.funded(100)
    call = factories.recorded(account, 10)
    for _ in range(2):  # Before it is settled, and afterwards.
        with pytest.raises(IntegrityError, match="refused"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE billing_usagerecord SET {change} WHERE id = %s", [call.id])  # noqa: S608
        ledger.settle(account_id=account.pk)
    with pytest.raises(IntegrityError, match="refused"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE billing_usagerecord SET settled_at = NULL WHERE id = %s", [call.id])
    with pytest.raises(IntegrityError, match="refused"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM billing_usagerecord WHERE id = %s", [call.id])


@pytest.mark.parametrize("change", ["pico_per_token = 1", "context_from = 5", "meter = 'output'"])
def test_a_rate_is_never_changed(change: str) -> None:
    refuse_change("billing_pricerate", factories.price().rates.get(meter="input").pk, change)


@pytest.mark.parametrize(
    "change", ["starts_at = now()", "model_id = 1", "account_id = 1", "created_at = now()", "created_by_id = 1"]
)
def test_a_price_is_never_changed_not_even_together_with_its_end(change: str) -> None:
    price = factories.price()
    refuse_change("billing_priceversion", price.pk, change)
    refuse_change("billing_priceversion", price.pk, f"{change}, ends_at = now() + interval '1 day'")


def test_the_end_of_a_price_moves_once_from_open_to_the_future() -> None:
    price = factories.price(now=NOW - DAY)
    for past in ("statement_timestamp() - interval '1 ms'", "NULL"):
        refuse_change("billing_priceversion", price.pk, f"ends_at = {past}")

    PriceVersion.objects.filter(pk=price.pk).update(ends_at=clock() + DAY)

    for later in ("now() + interval '2 days'", "NULL"):
        refuse_change("billing_priceversion", price.pk, f"ends_at = {later}")


def test_rates_are_not_added_to_a_price_of_an_earlier_transaction() -> None:
    _, version_of_the_catalogue = factories.for_sale()
    with pytest.raises(IntegrityError, match="together with their price version"), transaction.atomic():
        PriceRate.objects.create(
            version_id=version_of_the_catalogue, meter="input", context_from=1000, pico_per_token=1
        )


KEYS = {"accounts_account": "id", "billing_wallet": "account_id"}


def test_rows_that_money_hangs_on_cannot_be_deleted_with_what_they_belong_to() -> None:
    account = factories.funded(10)
    for table in ("accounts_account", "billing_wallet"):
        with connection.cursor() as cursor, pytest.raises(IntegrityError, match="foreign key"), transaction.atomic():
            cursor.execute(
                f"SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM {table} WHERE {KEYS[table]} = %s",  # noqa: S608
                [account.pk],
            )
