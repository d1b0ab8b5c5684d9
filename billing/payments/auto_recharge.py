"""The switch of auto-recharge: what a customer agrees to, and what turns it off.

Only a person of the account turns it on. Whatever else happens turns it off or leaves it as it is: it never comes back
by itself, not with a payment that succeeds and not with another card.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery, Sum

from accounts import access, audit
from accounts.access import Permission
from accounts.audit import Action
from accounts.models import Account, Membership, User
from billing import clock, money
from billing.models import AutoRecharge, Payment, RechargeMail, StripeCustomer
from billing.payments import customers, stripe_api

State = Payment.State
Stop = AutoRecharge.Stop
# After the first failure, after the second: a bank that said no says no again at once. Then it stops.
BACK_OFF = (timedelta(hours=1), timedelta(hours=6))
MOST_FAILURES = len(BACK_OFF) + 1
INTERVALS = (10, 60, 6 * 60, 24 * 60)  # Minutes.
SHOWN_ATTEMPTS = 10


class CannotTurnOn(Exception):
    """The sentence says to the customer why."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is agreed to. Amounts are US cents."""

    threshold_cents: int
    amount_cents: int
    monthly_cap_cents: int
    interval_minutes: int

    def __str__(self) -> str:
        amount, threshold, cap = (
            money.display_cents(cents) for cents in (self.amount_cents, self.threshold_cents, self.monthly_cap_cents)
        )
        return f"{amount} below {threshold}, at most {cap} a month, every {self.interval_minutes} minutes at most"


def obstacle(account: Account) -> str:
    """Why nobody can turn it on here and now, for the customer; empty where somebody can. Another card helps if any."""
    if not stripe_api.is_on():
        return "Payments are not set up here."
    if settings.STRIPE_TAX:
        return (
            "Auto-recharge is not offered here: tax is added to each payment, and it cannot be worked out while you "
            "are away. Add funds yourself instead."
        )
    return "This account is disabled." if account.disabled_at else ""


def card_of(account_id: int) -> StripeCustomer | None:
    """Who holds the card that was saved with consent, in this mode; None without one."""
    saved = StripeCustomer.objects.filter(
        account=account_id, livemode=settings.STRIPE_LIVEMODE, stripe_id__isnull=False
    )
    return saved.exclude(payment_method="").filter(consented_at__isnull=False).first()


def turn_on(*, account: Account, terms: Terms, by: Membership, now: datetime) -> None:
    """Agree to these terms, whether it was off or on. Raises CannotTurnOn, PermissionDenied."""
    access.insist(by, Permission.MANAGE_MONEY)
    _insist_on_sane(terms)
    with transaction.atomic():
        # The account's row, as there may be none of auto-recharge yet; whoever closes the account holds it, too.
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if why := obstacle(account):
            raise CannotTurnOn(why)
        if card_of(account.pk) is None:
            raise CannotTurnOn("Save a card first.")
        before = AutoRecharge.objects.select_for_update(no_key=True).filter(account=account).first()
        interval = timedelta(minutes=terms.interval_minutes)
        last = before.last_attempt_at if before else None
        fields = {
            "enabled": True, "threshold_cents": terms.threshold_cents, "amount_cents": terms.amount_cents,
            "monthly_cap_cents": terms.monthly_cap_cents, "interval_minutes": terms.interval_minutes,
            "consented_by": by.user, "consented_at": now, "stopped_reason": "", "stopped_at": None, "failures": 0,
            "not_before": max(now, last + interval) if last else now,
        }  # fmt: skip
        AutoRecharge.objects.update_or_create(account=account, defaults=fields)
        was_on = before is not None and before.enabled
        if not was_on:
            end_waiting(account.pk)
        action = Action.RECHARGE_CHANGED if was_on else Action.RECHARGE_ON
        audit.record(action, account=account, by=by.user, object=str(terms))


def _insist_on_sane(terms: Terms) -> None:
    least, most = settings.TOPUP_MIN_CENTS, settings.TOPUP_MAX_CENTS
    if not least <= terms.amount_cents <= most:
        bounds = f"from {money.display_cents(least)} to {money.display_cents(most)}"
        raise CannotTurnOn(f"One payment cannot be of this amount; charge {bounds}.")
    if not 0 < terms.threshold_cents <= most:
        raise CannotTurnOn(f"The balance must be above $0.00 and at most {money.display_cents(most)}.")
    if not terms.amount_cents <= terms.monthly_cap_cents <= 100 * most:
        bounds = f"from {money.display_cents(terms.amount_cents)} to {money.display_cents(100 * most)}"
        raise CannotTurnOn(f"The most in a month must allow one payment: {bounds}.")
    if terms.interval_minutes not in INTERVALS:
        raise CannotTurnOn("Choose one of the times.")


def turn_off(*, account: Account, by: User, reason: Stop = Stop.CUSTOMER) -> None:
    """Charge no more from now on; what Stripe was asked before still counts. Off already: leave it off, knowingly."""
    with transaction.atomic():
        found = AutoRecharge.objects.select_for_update(no_key=True).filter(account=account).first()
        if found is None:
            return
        was_on = found.enabled
        _end(found, reason)
        if was_on:
            audit.record(Action.RECHARGE_OFF, account=account, by=by)
        if was_on and reason != Stop.CUSTOMER:
            tell(account.pk, RechargeMail.About.STOPPED, None, reason=reason)


def stop(found: AutoRecharge, reason: Stop, payment: Payment | None = None) -> None:
    """It ends by itself, and whoever may add funds is told. To be called with the row locked."""
    if not found.enabled:
        return
    _end(found, reason)
    audit.record(Action.RECHARGE_STOPPED, account=found.account, by=None, object=reason.label)
    if reason != Stop.CLOSING:
        tell(found.account_id, RechargeMail.About.STOPPED, payment, reason=reason)


def _end(found: AutoRecharge, reason: Stop) -> None:
    found.enabled, found.stopped_reason, found.stopped_at = False, reason, clock.now()
    found.save()
    end_waiting(found.account_id)


def end_waiting(account_id: int) -> None:
    """A payment that waits for the bank's confirmation is off; nobody was given a page on which it could be paid."""
    waiting = Payment.objects.filter(account=account_id, kind=Payment.Kind.RECHARGE, state=State.REQUIRES_ACTION)
    waiting.update(state=State.CANCELED, updated_at=clock.now())


def tell(account_id: int, about: RechargeMail.About, payment: Payment | None, *, reason: str = "") -> None:
    """A mail to everybody who may add funds, once for each payment."""
    roles = access.roles_with(Permission.MANAGE_MONEY)
    people = Membership.objects.filter(account=account_id, role__in=roles, user__is_active=True)
    RechargeMail.objects.bulk_create(
        [
            RechargeMail(account_id=account_id, recipient_id=user, about=about, payment=payment, reason=reason)
            for user in people.order_by("user").values_list("user", flat=True)
        ],
        ignore_conflicts=True,
    )


def remove_card(*, account: Account, by: User) -> None:
    """Forget the saved card, here and at Stripe. Raises what asking Stripe raises; then it can be done again."""
    saved = card_of(account.pk)
    if saved is None:
        return
    method, shown = saved.payment_method, f"{saved.card_brand} {saved.card_last4}"
    turn_off(account=account, by=by)
    with suppress(stripe_api.Refused):  # It was gone already.
        stripe_api.forget_card(method)
    with transaction.atomic():
        if customers.drop_card(method):
            audit.record(Action.CARD_REMOVED, account=account, by=by, object=shown)


def mirror(about: str) -> None:
    """Ask for the saved card after a message about it, or about its customer. Raises what asking Stripe raises."""
    row = StripeCustomer.objects.filter(Q(stripe_id=about) | Q(payment_method=about)).exclude(stripe_id=None).first()
    if row is None or row.stripe_id is None:
        return
    if row.stripe_id == about and not stripe_api.has_customer(about):
        customers.forget(about)
    elif row.payment_method:
        card = stripe_api.saved_card(row.payment_method, customer=row.stripe_id)
        if card is None:
            customers.drop_card(row.payment_method)
        else:
            customers.refresh_card(card)
    stop_without_card(row.account_id)


def stop_without_card(account_id: int) -> None:
    with transaction.atomic():
        found = AutoRecharge.objects.select_for_update(no_key=True).filter(account=account_id).first()
        if found is not None and card_of(account_id) is None:
            stop(found, Stop.CARD_GONE)


# What the pages show.


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person should do something about: it has stopped, or the bank wants a payment to be confirmed."""

    recharge: AutoRecharge
    waiting_cents: int | None
    waiting_since: datetime | None


def of(account: Account) -> AutoRecharge | None:
    return AutoRecharge.objects.filter(account=account).select_related("consented_by").first()


def notice(account: Account) -> Notice | None:
    """None where all is well, and where a person of the account turned it off."""
    waiting = unconfirmed().filter(account=OuterRef("account"))
    found = AutoRecharge.objects.annotate(
        waiting_cents=Subquery(waiting.values("amount_cents")[:1]),
        waiting_since=Subquery(waiting.values("created_at")[:1]),
    )
    row = found.filter(account=account).exclude(stopped_reason=Stop.CUSTOMER).first()
    if row is None or (row.enabled and row.waiting_cents is None):
        return None
    return Notice(row, row.waiting_cents, row.waiting_since)


def unconfirmed(*, overtaken: bool = False) -> QuerySet[Payment]:
    """Recharges that wait for a confirmation; or those which are overtaken, as the customer has paid since then."""
    paid = Payment.objects.filter(
        account=OuterRef("account"), kind=Payment.Kind.TOPUP, state=State.PAID, paid_at__gt=OuterRef("created_at")
    )
    waiting = Payment.objects.filter(kind=Payment.Kind.RECHARGE, state=State.REQUIRES_ACTION)
    return waiting.filter(Exists(paid) if overtaken else ~Exists(paid))


def attempts(account: Account) -> list[Payment]:
    found = Payment.objects.filter(account=account, kind=Payment.Kind.RECHARGE)
    return list(found.select_related("receipt").order_by("-id")[:SHOWN_ATTEMPTS])


def charged_this_month(account_id: int, *, now: datetime) -> int:
    """Cents, with what is under way; what waits for a confirmation is never charged."""
    counts = [State.PAID, State.OPEN, State.PROCESSING]
    counted = Payment.objects.filter(
        account=account_id, kind=Payment.Kind.RECHARGE, created_at__gte=month_of(now), state__in=counts
    )
    return int(counted.aggregate(cents=Sum("amount_cents", default=0))["cents"])


def month_of(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(now: datetime) -> datetime:
    return month_of(month_of(now) + timedelta(days=32))
