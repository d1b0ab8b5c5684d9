"""Stripe's balance beside that of the books, and why they differ.

Both sides are added up by **subject**: the id of a PaymentIntent, a refund, a dispute, a payout, or of a balance
transaction that has no such object. Every cent of the difference so belongs to a subject of which one side knows more
than the other. Reads all that ever moved through clearing, so it is done in the background and its result is kept.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from billing import money
from billing.models import ClearingCheck, LedgerAccount
from billing.payments import stripe_api

# Both sides move within seconds, and what one of them lacks is asked for in every run.
SETTLES_WITHIN = timedelta(hours=1)
EXAMPLES = 100
PARTS = ("foreign", "fresh", "unexplained")


def check(*, now: datetime) -> list[ClearingCheck]:
    """Compare, for live money and for that of tests, and keep what was found."""
    return [_check(livemode=livemode, now=now) for livemode in (True, False)]


def _check(*, livemode: bool, now: datetime) -> ClearingCheck:
    clearing = LedgerAccount.clearing(livemode=livemode)
    asked: dict[str, str | int | datetime] = {
        "livemode": livemode, "clearing": clearing, "currency": stripe_api.CURRENCY, "cent": money.PICO_PER_CENT,
        "settled": now - SETTLES_WITHIN, "examples": EXAMPLES,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_COMPARE, asked)
        stripe, books, parts, currencies, foreign_types, examples = cursor.fetchone()
    found: dict[str, Any] = {
        "stripe_cents": stripe,
        "books_cents": books,
        "currencies": json.loads(currencies),
        "checked_at": now,
    }
    found |= {"foreign_types": json.loads(foreign_types), "examples": json.loads(examples)}
    counts = json.loads(parts)
    for part in PARTS:
        found[f"{part}_count"], found[f"{part}_cents"] = counts.get(part, (0, 0))
    return ClearingCheck.objects.update_or_create(clearing=clearing, defaults=found)[0]


# One statement, so that both sides are of one moment. What Stripe takes as a fee is a subject of its own, as its
# transfer is.
_COMPARE = """
WITH movement AS (
    SELECT * FROM billing_balancetransaction WHERE livemode = %(livemode)s
), side AS (
    SELECT subject, amount_cents AS stripe, 0 AS books, created AS moved_at, "foreign", type AS what
      FROM movement WHERE currency = %(currency)s
    UNION ALL
    SELECT id, -fee_cents, 0, created, "foreign", 'fee of ' || coalesce(nullif(source, ''), id)
      FROM movement WHERE currency = %(currency)s AND fee_cents <> 0
    UNION ALL
    SELECT CASE WHEN cause LIKE 'stripe:%%' THEN split_part(cause, ':', 3) ELSE cause END, 0,
           CASE WHEN debit = %(clearing)s THEN amount ELSE -amount END / %(cent)s, created_at, false, kind
      FROM billing_transfer
     WHERE (debit = 'stripe_clearing' OR debit = 'simulated_clearing'
            OR credit = 'stripe_clearing' OR credit = 'simulated_clearing')
       AND %(clearing)s IN (debit, credit)
), differing AS (
    SELECT subject AS id, string_agg(DISTINCT what, ', ' ORDER BY what) AS what, sum(stripe)::bigint AS stripe,
           sum(books)::bigint AS books, max(moved_at) AS moved_at,
           CASE WHEN bool_or("foreign") THEN 'foreign' WHEN max(moved_at) > %(settled)s THEN 'fresh'
                ELSE 'unexplained' END AS part
      FROM side GROUP BY subject HAVING sum(stripe) <> sum(books)
), example AS (
    SELECT * FROM differing WHERE part <> 'foreign' ORDER BY moved_at, id LIMIT %(examples)s
)
SELECT coalesce(sum(stripe), 0)::bigint, coalesce(sum(books), 0)::bigint,
       (SELECT coalesce(jsonb_object_agg(part, jsonb_build_array(count, cents)), '{}')
          FROM (SELECT part, count(*) AS count, sum(stripe - books) AS cents
                  FROM differing GROUP BY part) AS each)::text,
       (SELECT coalesce(jsonb_object_agg(currency, cents), '{}')
          FROM (SELECT currency, sum(net_cents) AS cents FROM movement
                 WHERE currency <> %(currency)s GROUP BY currency) AS each)::text,
       (SELECT coalesce(jsonb_object_agg(type, jsonb_build_array(count, cents)), '{}')
          FROM (SELECT type, count(*) AS count, sum(net_cents) AS cents FROM movement
                 WHERE "foreign" AND currency = %(currency)s GROUP BY type) AS each)::text,
       (SELECT coalesce(jsonb_agg(to_jsonb(example) ORDER BY moved_at, id), '[]') FROM example)::text
  FROM side
"""
