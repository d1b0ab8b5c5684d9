"""Who an account is at Stripe: one customer each, made when it first pays."""

from __future__ import annotations

import logging

from django.conf import settings

from accounts.models import Account
from billing.models import ReplacedCard, StripeCustomer
from billing.payments import stripe_api
from billing.payments.stripe_objects import Card

SWEPT = 100

logger = logging.getLogger(__name__)


def ensure(account: Account) -> str:
    """Stripe's id of the account's customer, made if need be. Raises what asking Stripe raises.

    All who ask at the same time ask with the same key and so are given the same customer; the row keeps the first, and
    everybody uses what the row says.
    """
    row, _ = StripeCustomer.objects.get_or_create(account=account, defaults={"livemode": settings.STRIPE_LIVEMODE})
    if row.livemode != settings.STRIPE_LIVEMODE:
        # A customer of test mode is unknown to live mode, and its card is none there.
        row.delete()
        row = StripeCustomer.objects.create(account=account, livemode=settings.STRIPE_LIVEMODE)
    if row.stripe_id:
        return row.stripe_id
    made = stripe_api.create_customer(
        {"metadata": {"account": str(account.pk)}, "description": f"Account {account.pk}"},
        # Of this row: where a customer was forgotten, the next one must not be the answer that Stripe remembers.
        key=f"customer:{account.pk}:{row.created_at.isoformat()}",
    )
    StripeCustomer.objects.filter(account=account, stripe_id=None).update(stripe_id=made)
    row.refresh_from_db()
    return row.stripe_id or made


def forget(stripe_id: str) -> None:
    """It was deleted at Stripe, with its card; the next payment makes another."""
    StripeCustomer.objects.filter(stripe_id=stripe_id).delete()


def keep_card(account: Account, card: Card, **consent: object) -> None:
    """Note the card that Stripe has saved; `consent` says who agreed to that, and when. The one before is forgotten.

    To be called in a transaction; Stripe is asked by the sweep.
    """
    found = StripeCustomer.objects.select_for_update(no_key=True).filter(account=account)
    for before in found.exclude(payment_method__in=["", card.payment_method]):
        replaced = ReplacedCard(payment_method=before.payment_method, livemode=before.livemode)
        ReplacedCard.objects.bulk_create([replaced], ignore_conflicts=True)
    ReplacedCard.objects.filter(pk=card.payment_method).delete()  # Payments may come to their end in another order.
    found.update(
        payment_method=card.payment_method,
        card_brand=card.brand,
        card_last4=card.last4,
        card_exp_month=card.exp_month,
        card_exp_year=card.exp_year,
        **consent,
    )


def forget_replaced_cards() -> None:
    """Let Stripe forget what was replaced. Safe to repeat, to race and to be killed."""
    if not stripe_api.is_on():
        return
    replaced = ReplacedCard.objects.filter(livemode=settings.STRIPE_LIVEMODE).order_by("replaced_at")
    for card in replaced[:SWEPT]:
        if not ReplacedCard.objects.filter(pk=card.pk).exists():
            continue  # It was saved again while Stripe forgot the others.
        try:
            stripe_api.forget_card(card.payment_method)
        except stripe_api.Refused as refused:
            logger.info("replaced card %s was forgotten before: %s", card.pk, refused.code)
        except stripe_api.Unavailable:
            return  # The next sweep asks again.
        card.delete()


def drop_card(payment_method: str) -> bool:
    """It is saved no more; whether it was until now. The consent was to this card, and ends with it."""
    known = StripeCustomer.objects.filter(payment_method=payment_method).exclude(payment_method="")
    return bool(known.update(**_NO_CARD))


def refresh_card(card: Card) -> None:
    """The same card, as the bank has renewed it."""
    StripeCustomer.objects.filter(payment_method=card.payment_method).update(
        card_brand=card.brand, card_last4=card.last4, card_exp_month=card.exp_month, card_exp_year=card.exp_year
    )


_NO_CARD: dict[str, object] = {
    "payment_method": "", "card_brand": "", "card_last4": "", "card_exp_month": None, "card_exp_year": None,
    "consented_at": None, "consented_by": None,
}  # fmt: skip
