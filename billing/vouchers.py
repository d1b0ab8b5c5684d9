"""Codes that give promotional credit: making them, and redeeming each as often as it may be.

A code is written in letters and digits that nobody mixes up; case, spaces and hyphens do not count, and whoever types O
for 0 or I for 1 is understood. Amounts are pico-USD.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import F, QuerySet

from accounts import audit
from accounts.audit import Action
from accounts.models import Account, User
from billing import ledger, money
from billing.models import CreditLot, LedgerAccount, TransferKind, Voucher, VoucherRedemption

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
MADE_LENGTH = 12  # 60 bits: nobody guesses one.
SHORTEST, LONGEST = 6, 40
MOST_AT_ONCE = 5000
MAX_AMOUNT = 10_000 * money.PICO_PER_USD
HIGHEST_LIMIT = 1_000_000_000
# Of codes that did not work, in an hour.
TRIES_OF_ACCOUNT = 10
TRIES_OF_ADDRESS = 50

_LOOK_ALIKE = str.maketrans("OI", "01", " -")


class Refused(Exception):
    """The sentence is for the customer."""


class UnknownCode(Refused):
    """There is no such code, or none that is to be known of: it is switched off, or its time has not come."""


class CodeExpired(Refused):
    """Its time, or that of its credit, is over."""


class CodeUsedUp(Refused):
    """It was redeemed as often as it can be by all together."""


class AlreadyRedeemed(Refused):
    """The account has redeemed it as often as one account may."""


class TooManyTries(Refused):
    """The account, or those at its address, tried too many codes that did not work."""


class InvalidVoucher(ValueError):
    """The terms of a new voucher cannot be."""


class BatchExists(Exception):
    """The codes of this form were made and handed out before."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a code gives, to whom, and how long. Without limits of time it is good for ever."""

    amount: int
    credit_days: int | None = None
    credit_expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    total_limit: int | None = None
    account_limit: int = 1
    note: str = ""

    def check(self, now: datetime) -> None:
        """Raises InvalidVoucher."""
        if not 0 < self.amount <= MAX_AMOUNT:
            raise InvalidVoucher(f"A code gives more than 0 and at most {money.usd(MAX_AMOUNT)} USD.")
        if self.credit_days is not None and self.credit_expires_at is not None:
            raise InvalidVoucher("Credit expires after a number of days or at a moment, not both.")
        if self.credit_days is not None and not 1 <= self.credit_days <= 3650:
            raise InvalidVoucher("Credit lasts for 1 to 3650 days.")
        for limit in (self.account_limit, self.total_limit):
            if limit is not None and not 1 <= limit <= HIGHEST_LIMIT:
                raise InvalidVoucher(f"A limit is 1 at least, and at most {HIGHEST_LIMIT}.")
        for end in (self.credit_expires_at, self.valid_until):
            if end is not None and end <= now:
                raise InvalidVoucher("What ends has to end in the future.")
        if self.valid_from and self.valid_until and self.valid_until <= self.valid_from:
            raise InvalidVoucher("It has to become valid before it ends.")


def normalised(code: str) -> str:
    """What is compared of a code, however it was typed."""
    return code.upper().translate(_LOOK_ALIKE)


def create(*, terms: Terms, now: datetime, code: str = "", by: User | None = None) -> Voucher:
    """One code: the one that is given, else one that is made. Raises InvalidVoucher."""
    terms.check(now)
    written = " ".join(code.upper().split()) or _make_code()
    bare = normalised(written)
    if not (len(bare) >= SHORTEST and len(written) <= LONGEST and bare.isascii() and bare.isalnum()):
        raise InvalidVoucher(f"A code has {SHORTEST} to {LONGEST} letters from A to Z, digits and hyphens.")
    try:
        with transaction.atomic():
            return Voucher.objects.create(written=written, code=bare, created_by=by, **_columns(terms))
    except IntegrityError as fault:
        if "billing_voucher_code" in str(fault):
            raise InvalidVoucher(f"There is a code like {written} already.") from fault
        raise


def create_batch(*, terms: Terms, count: int, batch_id: UUID, now: datetime, by: User | None = None) -> list[Voucher]:
    """So many codes that work once each. Raises InvalidVoucher, and BatchExists for a `batch_id` that was used."""
    terms.check(now)
    if not 1 <= count <= MOST_AT_ONCE:
        raise InvalidVoucher(f"1 to {MOST_AT_ONCE} codes are made at once.")
    columns = {**_columns(terms), "total_limit": 1, "account_limit": 1, "batch_id": batch_id, "created_by": by}
    made = (_make_code() for _ in range(count))
    rows = [
        Voucher(written=written, code=normalised(written), batch_number=number, **columns)
        for number, written in enumerate(made, 1)
    ]
    try:
        with transaction.atomic():
            return Voucher.objects.bulk_create(rows)
    except IntegrityError as fault:
        if "voucher_batch_made_once" in str(fault):
            raise BatchExists("These codes were made before; they are handed out once.") from fault
        raise


def switch(*, chosen: QuerySet[Voucher], on: bool) -> list[Voucher]:
    """Let codes be redeemed, or nobody any longer; returns those that this changed."""
    with transaction.atomic():
        changed = list(chosen.filter(enabled=not on).select_for_update(no_key=True, of=("self",)).order_by("pk"))
        Voucher.objects.filter(pk__in=[voucher.pk for voucher in changed]).update(enabled=on)
    return changed


def redeem(*, account: Account, code: str, form_id: UUID, now: datetime, by: User) -> VoucherRedemption:
    """Credit the account with what the code gives. The same form again returns what it did, and credits nothing.

    Raises Refused, as one of its kinds. What does not work counts against guessing.
    """
    tried = [f"account:{account.pk}", *_of_address(audit.address())]
    for who, limit in zip(tried, (TRIES_OF_ACCOUNT, TRIES_OF_ADDRESS), strict=False):
        _count_try(who, limit)
    redemption = _redeem(account, code, form_id, now, by)
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_BACK, [tried])
    return redemption


def _redeem(account: Account, code: str, form_id: UUID, now: datetime, by: User) -> VoucherRedemption:
    """The row of the voucher is locked before the wallet, and nobody who has a wallet ever waits for one."""
    with transaction.atomic():
        if Account.objects.filter(pk=account.pk, disabled_at__isnull=False).exists():
            raise Refused("This account is disabled.")
        voucher = Voucher.objects.select_for_update(no_key=True).filter(code=normalised(code)).first()
        if voucher is None:
            raise UnknownCode("This code is not known. Look at its letters again.")
        mine = VoucherRedemption.objects.filter(account=account)
        if done := mine.filter(form_id=form_id, voucher=voucher).select_related("transfer__lot").first():
            return done
        number = mine.filter(voucher=voucher).count() + 1
        _insist(voucher, number, now)
        transfer = ledger.credit(
            account=account, amount=voucher.amount, kind=TransferKind.PROMOTION, source=LedgerAccount.PROMOTIONS,
            cause=f"voucher:{voucher.pk}:{account.pk}:{number}", now=now, lot=CreditLot.Kind.PROMOTIONAL,
            expires_at=_credit_expires_at(voucher, now), reason=f"Code {voucher.written}", by=by,
        )  # fmt: skip
        Voucher.objects.filter(pk=voucher.pk).update(redeemed=F("redeemed") + 1)
        details = {"amount": money.display(voucher.amount)}
        audit.record(Action.CODE_REDEEMED, account=account, by=by, object=voucher.written, details=details)
        return VoucherRedemption.objects.create(
            voucher=voucher, account=account, number=number, form_id=form_id, transfer=transfer, redeemed_by=by
        )


def _insist(voucher: Voucher, number: int, now: datetime) -> None:
    """Raises Refused. What is switched off or not yet valid is nobody's business."""
    if not voucher.enabled or (voucher.valid_from and now < voucher.valid_from):
        raise UnknownCode("This code is not known. Look at its letters again.")
    if number > voucher.account_limit:
        raise AlreadyRedeemed("Your account has redeemed this code already.")
    ends = [end for end in (voucher.valid_until, voucher.credit_expires_at) if end is not None]
    if ends and now >= min(ends):
        raise CodeExpired(f"This code expired on {min(ends):%Y-%m-%d %H:%M} UTC.")
    if voucher.total_limit is not None and voucher.redeemed >= voucher.total_limit:
        raise CodeUsedUp("This code was redeemed as often as it can be.")


def _credit_expires_at(voucher: Voucher, now: datetime) -> datetime | None:
    if voucher.credit_days is not None:
        return now + timedelta(days=voucher.credit_days)
    return voucher.credit_expires_at


def _columns(terms: Terms) -> dict[str, object]:
    return {name: getattr(terms, name) for name in Terms.__slots__}


def _make_code() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(MADE_LENGTH))
    return "-".join(letters[start : start + 4] for start in range(0, MADE_LENGTH, 4))


def _of_address(address: str | None) -> list[str]:
    """A customer of IPv6 has a network of addresses."""
    if address is None:
        return []
    ip = ip_address(address)
    return [f"address:{ip_network((ip, 64), strict=False) if ip.version == 6 else ip}"]


def _count_try(who: str, limit: int) -> None:
    """Counted before it is known whether it works, so that many at the same time are counted, too."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_TRY, {"who": who, "limit": limit})
        if cursor.fetchone() is None:
            raise TooManyTries("Too many codes were tried that do not work. Try again in an hour.")
        cursor.execute(_FORGET_TRIES)


_COUNT_TRY = """
INSERT INTO billing_codetries AS seen (who, since, tries) VALUES (%(who)s, now(), 1)
ON CONFLICT (who) DO UPDATE
   SET tries = CASE WHEN seen.since < now() - interval '1 hour' THEN 1 ELSE seen.tries + 1 END,
       since = CASE WHEN seen.since < now() - interval '1 hour' THEN now() ELSE seen.since END
 WHERE seen.tries < %(limit)s OR seen.since < now() - interval '1 hour'
RETURNING tries
"""
_GIVE_BACK = "UPDATE billing_codetries SET tries = tries - 1 WHERE who = ANY (%s) AND tries > 0"
_FORGET_TRIES = """
DELETE FROM billing_codetries
 WHERE who IN (SELECT who FROM billing_codetries WHERE since < now() - interval '2 hours' LIMIT 100
                  FOR UPDATE SKIP LOCKED)
"""
