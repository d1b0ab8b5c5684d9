"""What tests of auto-recharge share: accounts whose card is saved and charged by itself, and Stripe's side of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from accounts.models import Account, Membership
from apikeys import keys
from billing import clock, ledger, money
from billing.models import AutoRecharge, Payment, RechargeMail, StripeCustomer, Transfer
from billing.payments import auto_recharge, fulfilment, recharge, topups
from billing.payments.auto_recharge import Terms
from tests import factories, people
from tests.stripe_simulator.process import StripeSimulator

USD = money.PICO_PER_USD
SEND = "POST /v1/payment_intents"
TERMS = Terms(threshold_cents=3000, amount_cents=2000, monthly_cap_cents=10_000, interval_minutes=60)


def with_card(simulator: StripeSimulator, *, cents: int = 2500) -> Account:
    """An account that has paid, and agreed to have the card saved."""
    account, _email = people.customer("recharger")
    top_up(simulator, account, cents=cents)
    keys.create(account=account, name="laptop", now=clock.now())
    return account


def top_up(simulator: StripeSimulator, account: Account, *, cents: int = 2500) -> Payment:
    payment = topups.open_payment(
        form=uuid4(), account=account, amount_cents=cents, save_card=True, by=owner(account).user, now=clock.now()
    )
    topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    assert payment.checkout_session
    simulator.pays(payment.checkout_session)
    return fulfilment.refresh(payment)


def owner(account: Account) -> Membership:
    return Membership.objects.filter(account=account, role="owner").order_by("pk")[0]


def turn_on(account: Account, terms: Terms = TERMS) -> None:
    auto_recharge.turn_on(account=account, terms=terms, by=owner(account), now=clock.now())


def recharging(simulator: StripeSimulator, terms: Terms = TERMS) -> Account:
    """It has 25 USD and is to be recharged below 30 USD: at once."""
    account = with_card(simulator)
    turn_on(account, terms)
    return account


def card_of(account: Account) -> str:
    return StripeCustomer.objects.get(account=account).payment_method


def row(account: Account) -> AutoRecharge:
    return AutoRecharge.objects.get(account=account)


def attempts(account: Account) -> list[Payment]:
    return list(Payment.objects.filter(account=account, kind="recharge").order_by("id"))


def states(account: Account) -> list[str]:
    return [payment.state for payment in attempts(account)]


def credited(account: Account) -> int:
    """USD that recharges brought into the wallet."""
    posted = Transfer.objects.filter(payment__account=account, payment__kind="recharge", kind="topup")
    return sum(posted.values_list("amount", flat=True)) // USD


def told(account: Account) -> list[str]:
    """What each mail to the owner is about, the oldest first."""
    mails = RechargeMail.objects.filter(account=account, recipient=owner(account).user)
    return list(mails.order_by("id").values_list("about", flat=True))


def charges(simulator: StripeSimulator, account: Account) -> list[dict[str, Any]]:
    """The recharges that Stripe has made of this account, whatever became of them."""
    ours = {str(payment.pk) for payment in attempts(account)}
    intents = simulator.client().v1.payment_intents.list({"limit": 100}).auto_paging_iter()
    return [intent.to_dict() for intent in intents if intent.metadata["payment"] in ours]


def paid_at_stripe(simulator: StripeSimulator, account: Account) -> int:
    return sum(intent["status"] == "succeeded" for intent in charges(simulator, account))


def spend(account: Account, usd: int) -> None:
    factories.recorded(account, usd * USD)
    ledger.settle(account_id=account.pk)


def time_passes(account: Account, by: timedelta = timedelta(days=1)) -> None:
    """What auto-recharge waits for is over."""
    found = row(account)
    due = found.attempt_due_at and found.attempt_due_at - by
    last = found.last_attempt_at and found.last_attempt_at - by
    AutoRecharge.objects.filter(pk=found.pk).update(
        not_before=found.not_before - by, attempt_due_at=due, last_attempt_at=last
    )
    for payment in Payment.objects.filter(account=account):
        paid_at = payment.paid_at and payment.paid_at - by
        Payment.objects.filter(pk=payment.pk).update(created_at=payment.created_at - by, paid_at=paid_at)


def behaves(simulator: StripeSimulator, account: Account, behaviour: str) -> None:
    simulator.control("card", payment_method=card_of(account), behaviour=behaviour)


def delete_customer(simulator: StripeSimulator, account: Account) -> None:
    """At Stripe, which tells us so."""
    gone = StripeCustomer.objects.get(account=account).stripe_id or ""
    simulator.client().v1.customers.delete(gone)
    auto_recharge.mirror(gone)


def is_due(account: Account) -> bool:
    return account.pk in recharge.due([account.pk])
