"""Adding funds: a payment of ours first, then the page of Stripe's on which it is paid."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from stripe.params.checkout import SessionCreateParams

from accounts.models import Account, User
from billing import funds
from billing.models import Payment
from billing.payments import customers, stripe_api, stripe_objects

CHECKOUT_LIFETIME = timedelta(hours=1)
# A form sent again within this time is the same payment. Stripe wants a session to last half an hour at least.
SAME_PAYMENT = timedelta(minutes=25)
State = Payment.State


class InvalidAmount(ValueError):
    """Less or more than one payment may be."""


def takes_payments(account: Account) -> bool:
    """One that is closed or disabled can buy nothing any more; what it owes it can still pay."""
    return account.disabled_at is None or funds.wallet_of(account).posted < 0


def open_payment(
    *, form: UUID, account: Account, amount_cents: int, save_card: bool, by: User, now: datetime
) -> Payment:
    """The payment that this form asks for; sent twice, it is the same one.

    Raises InvalidAmount.
    """
    if not settings.TOPUP_MIN_CENTS <= amount_cents <= settings.TOPUP_MAX_CENTS:
        raise InvalidAmount
    asked = {"account": account, "amount_cents": amount_cents, "save_card": save_card, "requested_by": by}
    fresh = {**asked, "kind": Payment.Kind.TOPUP, "livemode": settings.STRIPE_LIVEMODE}
    payment, is_new = Payment.objects.get_or_create(pk=form, defaults=fresh)
    same = all(getattr(payment, name) == value for name, value in asked.items())
    if is_new or (same and payment.state == State.OPEN and payment.created_at > now - SAME_PAYMENT):
        return payment
    return Payment.objects.create(**fresh)


def checkout_url(payment: Payment, *, return_url: str) -> str | None:
    """Stripe's page on which the payment is paid, made if need be; None where it can be paid no more.

    The key is the payment's id: whoever asks, however often, and after whatever crash, there is one session. Raises
    what asking Stripe raises.
    """
    if payment.state != State.OPEN:
        return None
    if payment.checkout_session is not None:
        # Who comes back from there is told at once what became of it, however lately its page has asked.
        Payment.objects.filter(pk=payment.pk).update(asked_at=None)
        return stripe_api.checkout(payment.checkout_session).url
    customer = customers.ensure(payment.account)
    try:
        session = stripe_api.create_checkout(_terms(payment, customer, return_url), key=str(payment.pk))
    except stripe_api.Refused as refused:
        # It was not and will not be; the next one has another key.
        Payment.objects.filter(pk=payment.pk, state=State.OPEN).update(
            state=State.FAILED, failure_code=refused.code[:100]
        )
        if (refused.code, refused.param) == ("resource_missing", "customer"):
            customers.forget(customer)
        raise
    Payment.objects.filter(pk=payment.pk, checkout_session=None).update(checkout_session=session.id)
    return session.url


def _terms(payment: Payment, customer: str, return_url: str) -> SessionCreateParams:
    """Nothing in here changes when it is asked again, or Stripe would refuse the key."""
    mark = {stripe_objects.PAYMENT: str(payment.pk)}
    terms: SessionCreateParams = {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": str(payment.pk),
        "metadata": mark,
        "payment_intent_data": {"metadata": mark},
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": stripe_api.CURRENCY,
                    "unit_amount": payment.amount_cents,
                    "product_data": {"name": "Prepaid API credit"},
                },
            }
        ],
        # Else the customer might pay in another currency, at a rate of which we know nothing.
        "adaptive_pricing": {"enabled": False},
        "allow_promotion_codes": False,
        "expires_at": int((payment.created_at + CHECKOUT_LIFETIME).timestamp()),
        "success_url": return_url,
        "cancel_url": f"{return_url}?left=1",
    }
    if payment.save_card:
        terms["payment_intent_data"]["setup_future_usage"] = "off_session"
    if settings.STRIPE_TAX:
        terms["automatic_tax"] = {"enabled": True}
        terms["customer_update"] = {"address": "auto", "name": "auto"}
        terms["tax_id_collection"] = {"enabled": True}
        price = terms["line_items"][0]["price_data"]
        price["tax_behavior"] = "exclusive"
        price["product_data"]["tax_code"] = settings.STRIPE_TAX_CODE
    return terms


def pending(account: Account) -> list[Payment]:
    """What the account began to pay and is not decided yet, the newest first."""
    found = Payment.objects.filter(account=account, state__in=Payment.PENDING).order_by("-id")
    return list(found[:10])
