"""Accounts at which a person must look: flagged once for each cause, until staff have cleared all of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from accounts import audit
from accounts.models import AuditEvent
from billing.models import Payment, PaymentFlag
from billing.payments import flags
from tests import factories, people
from tests.billing import papers, stage

REASON = "The bank took $25.00 back."


def paid() -> Payment:
    account, _ = people.customer("payer")
    return papers.paid(account, 2500)


def cleared(payment: Payment) -> int:
    standing = PaymentFlag.objects.filter(account=payment.account_id)
    return flags.clear(standing, now=datetime.now(UTC), by=factories.user())


@pytest.mark.django_db
def test_an_account_is_flagged_until_staff_have_cleared_every_cause() -> None:
    payment, stranger = paid(), paid()
    assert not flags.is_flagged(payment.account_id)

    flags.flag(payment, cause="du_1", reason=REASON)
    assert cleared(payment) == 1
    flags.flag(payment, cause="issfr_1", reason="The bank fears fraud.")

    assert flags.is_flagged(payment.account_id)
    assert not flags.is_flagged(stranger.account_id)
    assert cleared(payment) == 1
    assert not flags.is_flagged(payment.account_id)


@pytest.mark.django_db
def test_what_staff_have_cleared_is_not_flagged_again_by_the_same_cause() -> None:
    payment = paid()
    for _ in range(2):
        flags.flag(payment, cause="du_1", reason=REASON)
    assert PaymentFlag.objects.filter(account=payment.account_id).count() == 1
    cleared(payment)

    flags.flag(payment, cause="du_1", reason=REASON)

    assert not flags.is_flagged(payment.account_id)


@pytest.mark.django_db
def test_who_cleared_a_flag_is_written_down_once() -> None:
    payment = paid()
    flags.flag(payment, cause="du_1", reason=REASON)

    assert (cleared(payment), cleared(payment)) == (1, 0)

    event = AuditEvent.objects.get(account=payment.account_id, action="billing.flag_cleared")
    assert event.actor is not None
    assert audit.sentence(event) == f"cleared the flag on payments: {REASON}"
    assert PaymentFlag.objects.get(account=payment.account_id).cleared_by == event.actor


def test_flagged_by_many_at_the_same_time_it_is_one_flag(committed: None) -> None:
    payment, cause = paid(), factories.unique("du")

    results = stage.at_the_same_time(*[lambda: flags.flag(payment, cause=cause, reason=REASON)] * 8)

    assert results == [None] * 8
    assert PaymentFlag.objects.filter(account=payment.account_id).count() == 1
