"""Which balances fell below a threshold: noticed once for each crossing.

A threshold is armed while the balance is above it, and a crossing disarms it in the statement that also writes the
mails, so that two sweeps tell it once. Amounts are pico-USD; the balance is `wallet.posted`, which running calls do not
move.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection, transaction

from accounts import access, audit
from accounts.access import Permission
from accounts.audit import Action
from accounts.models import Account, User
from billing import money
from billing.models import BalanceThreshold, BalanceWatch, Wallet

# What an account has that never chose: on, because a program that is refused with 402 is a worse surprise than a mail.
# It is armed by a balance *above* it, so that a welcome credit of the same amount does not warn of the first call.
FIRST_THRESHOLD = 5 * money.PICO_PER_USD
MOST_THRESHOLDS = 5
MAX_THRESHOLD = 1_000_000 * money.PICO_PER_USD
# Ids are given before commits, so one that is missing may still come: transfers younger than this are read again.
OPEN_SECONDS = 120


class InvalidThresholds(ValueError):
    """An amount that is no threshold, or too many of them."""


def thresholds_of(account: Account) -> list[int]:
    """The highest first; that of an account which never chose is the first one."""
    if not BalanceWatch.objects.filter(account=account).exists():
        return [FIRST_THRESHOLD]
    found = BalanceThreshold.objects.filter(watch=account.pk).order_by("-amount")
    return list(found.values_list("amount", flat=True))


def set_thresholds(*, account: Account, amounts: Sequence[int], by: User) -> None:
    """Mail when the balance falls below one of these; none of them: never. Raises InvalidThresholds."""
    wanted = sorted(set(amounts), reverse=True)
    if len(wanted) > MOST_THRESHOLDS:
        raise InvalidThresholds(f"At most {MOST_THRESHOLDS} amounts.")
    if not all(0 < amount <= MAX_THRESHOLD for amount in wanted):
        raise InvalidThresholds(f"An amount is more than 0 and at most {money.display(MAX_THRESHOLD)}.")
    with transaction.atomic():
        BalanceWatch.objects.get_or_create(account=account)
        watch = BalanceWatch.objects.select_for_update(no_key=True).get(account=account)
        before = set(watch.thresholds.values_list("amount", flat=True))
        watch.thresholds.exclude(amount__in=wanted).delete()
        # One that is above the balance already is armed by the next balance above it.
        posted = sum(Wallet.objects.filter(account=account).values_list("posted", flat=True))
        new = [amount for amount in wanted if amount not in before]
        BalanceThreshold.objects.bulk_create(
            BalanceThreshold(watch=watch, amount=amount, armed=posted > amount) for amount in new
        )
        if before != set(wanted):
            told = ", ".join(money.display(amount) for amount in wanted) or "never"
            audit.record(Action.LOW_BALANCE_SET, account=account, by=by, object=told)


def sweep() -> int:
    """Look at the wallets that moved since the last sweep; returns how many mails are to be sent.

    Costs what has moved, however many accounts there are.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, {"open": OPEN_SECONDS})
        rows = cursor.fetchall()
        mails = _look([account_id for account_id, _ in rows]) if rows else 0
        # Last: were it killed before, the same ones are looked at again.
        done = [done for _, done in rows if done is not None]
        if done:
            cursor.execute(_REMEMBER, [max(done)])
    return mails


def sweep_all() -> int:
    """Look at every wallet: once an hour, should a transfer have come later than anybody thought."""
    return _look([], every=True)


def _look(account_ids: list[int], *, every: bool = False) -> int:
    """Statements of their own, each whole: none keeps a lock while it waits for the next."""
    chosen: dict[str, list[int] | list[str] | bool | int] = {
        "accounts": account_ids,
        "all": every,
        "first": FIRST_THRESHOLD,
        "roles": access.roles_with(Permission.MANAGE_MONEY),
    }
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN_TO_WATCH, chosen)
        cursor.execute(_ARM, chosen)
        cursor.execute(_TELL, chosen)
        return int(cursor.rowcount)


# A transfer of a wallet, and how far everything is known to be committed. Read by the primary key from there on.
_MOVED = """
SELECT wallet_id, max(id) FILTER (WHERE created_at < now() - %(open)s * interval '1 second')
  FROM billing_transfer
 WHERE id > coalesce((SELECT last_id FROM billing_watchedtransfers), 0) AND wallet_id IS NOT NULL
 GROUP BY wallet_id
"""
_REMEMBER = """
INSERT INTO billing_watchedtransfers AS watched (id, last_id) VALUES (1, %s)
ON CONFLICT (id) DO UPDATE SET last_id = greatest(watched.last_id, excluded.last_id)
"""
_BEGIN_TO_WATCH = """
WITH begun AS (
    INSERT INTO billing_balancewatch (account_id)
    SELECT account_id FROM billing_wallet WHERE %(all)s OR account_id = ANY (%(accounts)s) ORDER BY account_id
    ON CONFLICT DO NOTHING RETURNING account_id
)
INSERT INTO billing_balancethreshold (watch_id, amount, armed) SELECT account_id, %(first)s, false FROM begun
"""
# Locked in the order of their ids, each by itself: two sweeps that meet never wait in a circle.
_ARM = """
UPDATE billing_balancethreshold SET armed = true
 WHERE NOT armed AND id IN (
       SELECT threshold.id FROM billing_balancethreshold threshold
         JOIN billing_wallet wallet ON wallet.account_id = threshold.watch_id
        WHERE (%(all)s OR wallet.account_id = ANY (%(accounts)s)) AND NOT armed AND posted > amount
        ORDER BY threshold.id FOR NO KEY UPDATE OF threshold)
"""
# One mail for a crossing of several: about the lowest. Who sees the threshold armed, behind its lock, tells it.
_TELL = """
WITH crossed AS (
    UPDATE billing_balancethreshold SET armed = false
     WHERE armed AND id IN (
           SELECT threshold.id FROM billing_balancethreshold threshold
             JOIN billing_wallet wallet ON wallet.account_id = threshold.watch_id
            WHERE (%(all)s OR wallet.account_id = ANY (%(accounts)s)) AND armed AND posted < amount
            ORDER BY threshold.id FOR NO KEY UPDATE OF threshold)
    RETURNING watch_id, amount
)
INSERT INTO billing_lowbalancemail (account_id, recipient_id, threshold)
SELECT watch_id, member.user_id, min(amount)
  FROM crossed
  JOIN accounts_account account ON account.id = watch_id AND account.disabled_at IS NULL
  JOIN accounts_membership member ON member.account_id = watch_id AND member.role = ANY (%(roles)s)
  JOIN accounts_user person ON person.id = member.user_id AND person.is_active
 GROUP BY watch_id, member.user_id
"""
