"""The queries of `billing.books`: each returns a row for every fact that breaks its promise, and else nothing."""

from __future__ import annotations

# Only transfers after {since} are read, of wallets that {moved}; {before} is the balance they start from.
_P1 = """
WITH moved AS (
    SELECT wallet.account_id, wallet.posted, wallet.seq, {since} AS since, {before} AS before
      FROM billing_wallet wallet LEFT JOIN billing_bookscheck books ON books.wallet_id = wallet.account_id
     WHERE {moved}
), step AS (
    SELECT moved.account_id, transfer.wallet_seq, transfer.balance_after,
           moved.since + row_number() OVER steps AS expected_seq,
           moved.before + sum(CASE WHEN credit = 'wallet' THEN amount ELSE -amount END) OVER steps AS expected_balance
      FROM moved JOIN billing_transfer transfer
        ON transfer.wallet_id = moved.account_id AND transfer.wallet_seq > moved.since
    WINDOW steps AS (PARTITION BY moved.account_id ORDER BY transfer.wallet_seq)
), last AS (
    SELECT DISTINCT ON (account_id) account_id, wallet_seq, balance_after FROM step
     ORDER BY account_id, wallet_seq DESC
)
SELECT account_id, wallet_seq, balance_after, expected_seq, expected_balance FROM step
 WHERE wallet_seq <> expected_seq OR balance_after <> expected_balance
UNION ALL
SELECT moved.account_id, last.wallet_seq, last.balance_after, moved.seq, moved.posted
  FROM moved LEFT JOIN last USING (account_id)
 WHERE moved.seq <> coalesce(last.wallet_seq, moved.since)
    OR moved.posted <> coalesce(last.balance_after, moved.before)
"""
P1_FULL = _P1.format(since="0", before="0", moved="true")
P1_INCREMENTAL = _P1.format(
    since="coalesce(books.seq, 0)",
    before="coalesce(books.balance, 0)",
    moved="wallet.seq <> coalesce(books.seq, 0) OR wallet.posted <> coalesce(books.balance, 0)",
)

P2 = """
SELECT account_id, wallet.held, coalesce(hold.total, 0) AS open_holds
  FROM billing_wallet wallet
  LEFT JOIN (SELECT account_id, sum(amount) AS total FROM billing_hold GROUP BY account_id) hold USING (account_id)
 WHERE wallet.held <> coalesce(hold.total, 0)
"""

P3_FULL = """
SELECT coalesce(transfer.wallet_id, record.account_id) AS account_id, transfer.id AS transfer_id,
       record.transfer_id AS transfer_of_records, transfer.amount, record.charge
  FROM (SELECT id, wallet_id, day, amount FROM billing_transfer WHERE kind = 'usage') transfer
  FULL JOIN (SELECT transfer_id, account_id, (admitted_at AT TIME ZONE 'UTC')::date AS day, sum(charge) AS charge
               FROM billing_usagerecord WHERE transfer_id IS NOT NULL GROUP BY 1, 2, 3) record
    ON record.transfer_id = transfer.id AND record.account_id = transfer.wallet_id AND record.day = transfer.day
 WHERE transfer.amount IS DISTINCT FROM record.charge
UNION ALL
SELECT account_id, NULL, NULL, 0, charge FROM billing_usagerecord
 WHERE settled_at IS NOT NULL AND transfer_id IS NULL AND charge > 0
"""

_NEW_USAGE = """
    SELECT transfer.id, transfer.wallet_id, transfer.day, transfer.amount
      FROM billing_wallet wallet
      LEFT JOIN billing_bookscheck books ON books.wallet_id = wallet.account_id
      JOIN billing_transfer transfer
        ON transfer.wallet_id = wallet.account_id AND transfer.wallet_seq > coalesce(books.seq, 0)
     WHERE wallet.seq > coalesce(books.seq, 0) AND transfer.kind = 'usage'
"""

P3_INCREMENTAL = f"""
SELECT transfer.wallet_id AS account_id, transfer.id AS transfer_id, transfer.amount, record.charge
  FROM ({_NEW_USAGE}) transfer
  LEFT JOIN LATERAL (
       SELECT sum(charge) AS charge,
              bool_and(account_id = transfer.wallet_id
                       AND (admitted_at AT TIME ZONE 'UTC')::date = transfer.day) AS fits
         FROM billing_usagerecord WHERE transfer_id = transfer.id) record ON true
 WHERE transfer.amount IS DISTINCT FROM record.charge OR NOT record.fits
"""

P4 = """
SELECT account_id, posted, debt, coalesce(lot.remaining, 0) AS lots_remaining
  FROM billing_wallet wallet
  LEFT JOIN (SELECT wallet_id, sum(remaining) AS remaining FROM billing_creditlot WHERE remaining > 0
              GROUP BY wallet_id) lot ON lot.wallet_id = wallet.account_id
 WHERE posted <> coalesce(lot.remaining, 0) - debt
"""

# The primary key of the partitioned table is the promise; it must be there, whole and valid.
P5 = """
SELECT 'the primary key (id) of billing_usagerecord is missing or invalid' AS fault
 WHERE NOT EXISTS (
       SELECT FROM pg_index
         JOIN pg_attribute ON attrelid = indrelid AND attnum = ALL (indkey::smallint[])
        WHERE indrelid = 'billing_usagerecord'::regclass AND indisprimary AND indisvalid AND attname = 'id')
"""

P6 = """
SELECT 'the check hold_available_after_not_negative is missing or not validated' AS fault, NULL::uuid AS hold_id
 WHERE NOT EXISTS (
       SELECT FROM pg_constraint
        WHERE conrelid = 'billing_hold'::regclass AND convalidated AND conname = 'hold_available_after_not_negative')
UNION ALL
SELECT 'admitted below zero', id FROM billing_hold WHERE available_after < 0
"""

P7_INCREMENTAL = """
SELECT account_id, holds_opened, holds_recorded, holds_released, coalesce(hold.calls, 0) AS open_holds
  FROM billing_wallet
  LEFT JOIN (SELECT account_id, count(*) AS calls FROM billing_hold GROUP BY account_id) hold USING (account_id)
 WHERE holds_opened <> holds_recorded + holds_released + coalesce(hold.calls, 0)
"""

P7_FULL = f"""
{P7_INCREMENTAL}
UNION ALL
SELECT account_id, holds_opened, coalesce(record.calls, 0), coalesce(released.calls, 0), NULL
  FROM billing_wallet
  LEFT JOIN (SELECT account_id, count(*) AS calls FROM billing_usagerecord WHERE settled_at IS NOT NULL
              GROUP BY account_id) record USING (account_id)
  LEFT JOIN (SELECT account_id, sum(calls) AS calls FROM billing_releasedholds
              GROUP BY account_id) released USING (account_id)
 WHERE holds_recorded <> coalesce(record.calls, 0) OR holds_released <> coalesce(released.calls, 0)
"""

_RECORDS_BY_HOUR = """
    SELECT account_id, api_key_id, model_id, date_trunc('hour', admitted_at, 'UTC') AS hour, count(*) AS calls,
           sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
           sum(output_tokens) AS output_tokens, sum(charge) AS charge, coalesce(sum(upstream_cost), 0) AS upstream_cost
      FROM billing_usagerecord record {where} GROUP BY 1, 2, 3, 4
"""

_P8 = """
SELECT account_id, api_key_id, model_id, hour, total.calls AS rolled_calls, record.calls AS record_calls,
       total.charge AS rolled_charge, record.charge AS record_charge
  FROM ({totals}) total
  FULL JOIN ({records}) record USING (account_id, api_key_id, model_id, hour)
 WHERE (total.calls, total.input_tokens, total.cached_input_tokens, total.output_tokens, total.charge,
        total.upstream_cost)
       IS DISTINCT FROM (record.calls, record.input_tokens, record.cached_input_tokens, record.output_tokens,
        record.charge, record.upstream_cost)
"""

P8_FULL = _P8.format(
    totals="SELECT * FROM billing_usagehour",
    records=_RECORDS_BY_HOUR.format(where="WHERE settled_at IS NOT NULL"),
)

# The days of new transfers only. The first 48 bits of an id are milliseconds, so a day is a range of the primary key.
_DAYS = f"days AS MATERIALIZED (SELECT DISTINCT wallet_id, day FROM ({_NEW_USAGE}) transfer)"
_DAY_START = "rpad(lpad(to_hex((extract(epoch FROM {day}::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid"
P8_INCREMENTAL = f"WITH {_DAYS}" + _P8.format(
    totals="""
    SELECT rolled.* FROM days JOIN billing_usagehour rolled
        ON rolled.account_id = days.wallet_id
       AND rolled.hour >= days.day::timestamp AT TIME ZONE 'UTC'
       AND rolled.hour < (days.day + 1)::timestamp AT TIME ZONE 'UTC'
    """,
    records=_RECORDS_BY_HOUR.format(
        where=f"""
      JOIN days ON record.account_id = days.wallet_id
       AND record.id >= {_DAY_START.format(day="days.day")} AND record.id < {_DAY_START.format(day="(days.day + 1)")}
     WHERE settled_at IS NOT NULL"""
    ),
)

MOVED = """
SELECT wallet.account_id, wallet.seq, wallet.posted
  FROM billing_wallet wallet LEFT JOIN billing_bookscheck books ON books.wallet_id = wallet.account_id
 WHERE wallet.seq > coalesce(books.seq, 0)
"""

# Two checks may run at the same time; the later proof stays.
REMEMBER = """
INSERT INTO billing_bookscheck (wallet_id, seq, balance) VALUES (%(account)s, %(seq)s, %(balance)s)
ON CONFLICT (wallet_id) DO UPDATE SET seq = excluded.seq, balance = excluded.balance, checked_at = now()
 WHERE billing_bookscheck.seq < excluded.seq
"""
