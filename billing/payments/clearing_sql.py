"""The statements of `billing.payments.clearing`.

Each subject has a row of what both sides say of it up to the seal (`billing_clearingsubject`); what came after the seal
is read from where it was written down. Both are added up by subject.
"""

from __future__ import annotations

# As the index of them has it.
_OF_CLEARING = (
    "(debit = 'stripe_clearing' OR debit = 'simulated_clearing'"
    " OR credit = 'stripe_clearing' OR credit = 'simulated_clearing')"
)
# What both sides say of each subject, in cents. What Stripe takes as a fee is a subject of its own, as its transfer is.
_SIDES = """
movement AS (
    SELECT * FROM billing_balancetransaction WHERE livemode = %(livemode)s AND {moved}
), side AS (
    SELECT subject, amount_cents AS stripe, 0::bigint AS books, created AS moved_at, "foreign", type::text AS what
      FROM movement WHERE currency = %(currency)s
    UNION ALL
    SELECT id, -fee_cents, 0, created, "foreign", 'fee of ' || coalesce(nullif(source, ''), id)
      FROM movement WHERE currency = %(currency)s AND fee_cents <> 0
    UNION ALL
    SELECT CASE WHEN cause LIKE 'stripe:%%' THEN split_part(cause, ':', 3) ELSE cause END, 0,
           CASE WHEN debit = %(clearing)s THEN amount ELSE -amount END / %(cent)s, created_at, false, kind
      FROM billing_transfer
     WHERE {of_clearing} AND %(clearing)s IN (debit, credit) AND {transferred}
)"""
# Beside the sums, what of them is in other currencies, and what is not ours.
_SUMS = """
SELECT coalesce(sum(stripe), 0)::bigint, coalesce(sum(books), 0)::bigint,
       (SELECT coalesce(jsonb_object_agg(currency, cents), '{}')
          FROM (SELECT currency, sum(net_cents) AS cents FROM movement
                 WHERE currency <> %(currency)s GROUP BY currency) AS each)::text,
       (SELECT coalesce(jsonb_object_agg(type, jsonb_build_array(count, cents)), '{}')
          FROM (SELECT type, count(*) AS count, sum(net_cents) AS cents FROM movement
                 WHERE "foreign" AND currency = %(currency)s GROUP BY type) AS each)::text"""
_EACH_ONCE = "(SELECT string_agg(DISTINCT each, ', ' ORDER BY each) FROM unnest(string_to_array({}, ', ')) AS each)"

# How far the next seal goes, in a step of bounded size: only what was there long ago, since what has an older number or
# moment may become visible later.
NEXT_STEP = f"""
SELECT (SELECT max(id) FROM (
           SELECT id FROM billing_transfer
            WHERE {_OF_CLEARING} AND id > %(sealed_id)s AND id <= %(next_id)s ORDER BY id LIMIT %(step)s) AS each),
       (SELECT max(posted_at) FROM (
           SELECT posted_at FROM billing_balancetransaction
            WHERE posted_at > %(sealed_at)s AND posted_at <= %(next_at)s
            ORDER BY posted_at LIMIT %(step)s) AS each)
"""

LAST_TRANSFER = "SELECT coalesce(max(id), 0) FROM billing_transfer"

SEAL = (
    "WITH"
    + _SIDES.format(
        of_clearing=_OF_CLEARING,
        moved="posted_at > %(sealed_at)s AND posted_at <= %(until_at)s",
        transferred="id > %(sealed_id)s AND id <= %(until_id)s",
    )
    + """, kept AS (
    INSERT INTO billing_clearingsubject AS known
                (clearing, subject, stripe_cents, books_cents, moved_at, "foreign", what)
    SELECT %(clearing)s, subject, sum(stripe), sum(books), max(moved_at), bool_or("foreign"),
           string_agg(DISTINCT what, ', ' ORDER BY what)
      FROM side GROUP BY subject
    ON CONFLICT (clearing, subject) DO UPDATE
       SET stripe_cents = known.stripe_cents + excluded.stripe_cents,
           books_cents = known.books_cents + excluded.books_cents,
           moved_at = greatest(known.moved_at, excluded.moved_at), "foreign" = known."foreign" OR excluded."foreign",
           what = """
    + _EACH_ONCE.format("known.what || ', ' || excluded.what")
    + "\n)"
    + _SUMS
    + " FROM side"
)

# One statement, so that both sides are of one moment.
COMPARE = (
    "WITH"
    + _SIDES.format(
        of_clearing=_OF_CLEARING,
        moved="(posted_at IS NULL OR posted_at > %(sealed_at)s)",
        transferred="id > %(sealed_id)s",
    )
    + """, whole AS (
    SELECT subject, stripe, books, moved_at, "foreign", what FROM side
    UNION ALL
    SELECT subject, stripe_cents, books_cents, moved_at, "foreign", what FROM billing_clearingsubject
     WHERE clearing = %(clearing)s AND stripe_cents <> books_cents
    UNION ALL
    SELECT subject, stripe_cents, books_cents, known.moved_at, known."foreign", known.what
      FROM (SELECT DISTINCT subject FROM side) AS moved_again JOIN billing_clearingsubject AS known USING (subject)
     WHERE clearing = %(clearing)s AND stripe_cents = books_cents
), differing AS (
    SELECT subject AS id, string_agg(what, ', ') AS what, sum(stripe)::bigint AS stripe, sum(books)::bigint AS books,
           max(moved_at) AS moved_at,
           CASE WHEN bool_or("foreign") THEN 'foreign' WHEN max(moved_at) > %(settled)s THEN 'fresh'
                ELSE 'unexplained' END AS part
      FROM whole GROUP BY subject HAVING sum(stripe) <> sum(books)
), example AS (
    SELECT id, """
    + _EACH_ONCE.format("what")
    + """ AS what, stripe, books, moved_at, part
      FROM (SELECT * FROM differing WHERE part <> 'foreign' ORDER BY moved_at, id LIMIT %(examples)s) AS oldest
)"""
    + _SUMS
    + """,
       (SELECT coalesce(jsonb_object_agg(part, jsonb_build_array(count, cents)), '{}')
          FROM (SELECT part, count(*) AS count, sum(stripe - books) AS cents
                  FROM differing GROUP BY part) AS each)::text,
       (SELECT coalesce(jsonb_agg(to_jsonb(example) ORDER BY moved_at, id), '[]') FROM example)::text
  FROM side"""
)
