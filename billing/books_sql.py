"""The queries of `billing.books`: each returns a row for every fact that breaks its promise, and else nothing."""

from __future__ import annotations

# How far each wallet was proved, and the transfers after that. OFFSET 0 makes the planner go from wallet to wallet by
# the index: its guess of how many wallets have moved is far off, and by it would read all transfers there are.
_PROVED = """(
    SELECT account_id, posted, wallet.seq, coalesce(books.seq, 0) AS since, coalesce(books.balance, 0) AS before
      FROM billing_wallet wallet LEFT JOIN billing_bookscheck books ON books.wallet_id = wallet.account_id)"""
_SINCE_PROOF = """LATERAL (
    SELECT * FROM billing_transfer WHERE wallet_id = wallet.account_id AND wallet_seq > wallet.since OFFSET 0)"""

# Each transfer follows the one before, and the last leads to where the wallet is.
_P1 = """
SELECT account_id, seq, posted, wallet_seq, balance_after, expected_seq, expected_balance
  FROM (SELECT wallet.*, transfer.wallet_seq, transfer.balance_after,
               since + row_number() OVER steps AS expected_seq,
               before + sum(CASE WHEN credit = 'wallet' THEN amount ELSE -amount END) OVER steps AS expected_balance,
               lead(transfer.wallet_seq) OVER steps IS NULL AS last
          FROM {wallets} wallet LEFT JOIN {transfers} transfer ON wallet_id = account_id
        WINDOW steps AS (PARTITION BY account_id ORDER BY wallet_seq)) step
 WHERE wallet_seq <> expected_seq OR balance_after <> expected_balance
    OR last AND (seq <> coalesce(wallet_seq, since) OR posted <> coalesce(balance_after, before))
"""
P1_FULL = _P1.format(
    wallets="(SELECT account_id, posted, seq, 0 AS since, 0 AS before FROM billing_wallet)",
    transfers="billing_transfer",
)
# A transfer that its wallet does not know of counts as a move, too: one look into the index for each wallet at rest.
P1_INCREMENTAL = _P1.format(
    wallets=f"""(
    SELECT * FROM {_PROVED} wallet
     WHERE seq <> since OR posted <> before
        OR EXISTS (SELECT FROM billing_transfer WHERE wallet_id = account_id AND wallet_seq > seq))""",
    transfers=_SINCE_PROOF,
)

P2 = """
SELECT account_id, wallet.held, coalesce(hold.total, 0) AS open_holds, coalesce(refund.total, 0) AS refund_holds
  FROM billing_wallet wallet
  LEFT JOIN (SELECT account_id, sum(amount) AS total FROM billing_hold GROUP BY account_id) hold USING (account_id)
  LEFT JOIN (SELECT wallet_id, sum(amount) AS total FROM billing_refundhold GROUP BY wallet_id) refund
         ON refund.wallet_id = wallet.account_id
 WHERE wallet.held <> coalesce(hold.total, 0) + coalesce(refund.total, 0)
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

_NEW_USAGE = f"""
    SELECT transfer.* FROM {_PROVED} wallet CROSS JOIN {_SINCE_PROOF} transfer
     WHERE wallet.seq > wallet.since AND kind = 'usage'
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
SELECT format('the check %s is missing or not validated', name) AS fault, NULL::uuid AS hold_id
  FROM unnest(ARRAY['hold_available_after_not_negative', 'hold_budget_left_after_not_negative']) AS name
 WHERE NOT EXISTS (
       SELECT FROM pg_constraint WHERE conrelid = 'billing_hold'::regclass AND convalidated AND conname = name)
UNION ALL
SELECT 'admitted below zero', id FROM billing_hold WHERE least(available_after, budget_left_after) < 0
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

# date_bin finds the hour of UTC in a third of the time that date_trunc takes.
_P8 = """
SELECT account_id, api_key_id, model_id, hour, total.calls AS rolled_calls, record.calls AS record_calls,
       total.charge AS rolled_charge, record.charge AS record_charge
  FROM (SELECT * FROM billing_usagehour {rolled}) total
  FULL JOIN (SELECT account_id, api_key_id, model_id, date_bin('1 hour', admitted_at, '2000-01-01 00:00+00') AS hour,
                    count(*) AS calls, sum(input_tokens) AS input_tokens,
                    sum(cached_input_tokens) AS cached_input_tokens, sum(output_tokens) AS output_tokens,
                    sum(charge) AS charge, coalesce(sum(upstream_cost), 0) AS upstream_cost
               FROM billing_usagerecord WHERE settled_at IS NOT NULL {recorded} GROUP BY 1, 2, 3, 4) record
 USING (account_id, api_key_id, model_id, hour)
 WHERE (total.calls, total.input_tokens, total.cached_input_tokens, total.output_tokens, total.charge,
        total.upstream_cost)
       IS DISTINCT FROM (record.calls, record.input_tokens, record.cached_input_tokens, record.output_tokens,
        record.charge, record.upstream_cost)
"""

P8_FULL = _P8.format(rolled="", recorded="")

# The days of new transfers only, day by day. The first 48 bits of an id are milliseconds, so a day is a range of ids.
_FIRST_ID = "rpad(lpad(to_hex((extract(epoch FROM {day}::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid"
P8_INCREMENTAL = f"""
SELECT fault.*
  FROM (SELECT DISTINCT wallet_id, day::timestamp AT TIME ZONE 'UTC' AS since,
               (day + 1)::timestamp AT TIME ZONE 'UTC' AS until, {_FIRST_ID.format(day="day")} AS since_id,
               {_FIRST_ID.format(day="(day + 1)")} AS until_id
          FROM ({_NEW_USAGE}) transfer) touched
 CROSS JOIN LATERAL ({
    _P8.format(
        rolled="WHERE account_id = wallet_id AND hour >= since AND hour < until",
        recorded="AND account_id = wallet_id AND id >= since_id AND id < until_id",
    )
}) fault
"""

# When the period of a budget began in which a moment lies. Written a second time: a check does not believe the ledger.
_BEGAN = """(CASE budget.period WHEN 'day' THEN date_bin('1 day', {at}, '2000-01-01 00:00+00')
             WHEN 'month' THEN date_trunc('month', {at}, 'UTC') ELSE timestamptz '1970-01-01 00:00+00' END)"""

_P9_HELD = """
SELECT line.account_id, budget.id AS budget_id, budget.held, coalesce(hold.total, 0) AS open_holds,
       NULL::bigint AS spent, NULL::numeric AS charged
  FROM billing_keybudget budget JOIN apikeys_apikey line ON line.id = budget.line_id
  LEFT JOIN (SELECT budget_id, sum(amount) AS total FROM billing_hold GROUP BY budget_id) hold
         ON hold.budget_id = budget.id
 WHERE budget.held <> coalesce(hold.total, 0)
"""

# By day first: there are few days, and any number of calls.
P9_FULL = f"""
{_P9_HELD}
UNION ALL
SELECT line.account_id, budget.id, NULL, NULL, budget.spent, coalesce(charged.total, 0)
  FROM billing_keybudget budget JOIN apikeys_apikey line ON line.id = budget.line_id
  LEFT JOIN (
       SELECT budget.id, sum(charge) AS total
         FROM (SELECT coalesce(key.first_id, key.id) AS line_id, date_trunc('day', admitted_at, 'UTC') AS day,
                      sum(charge) AS charge
                 FROM billing_usagerecord record JOIN apikeys_apikey key ON key.id = record.api_key_id
                WHERE settled_at IS NOT NULL GROUP BY 1, 2) of_day
         JOIN billing_keybudget budget
           ON budget.line_id = of_day.line_id AND budget.starts_at = {_BEGAN.format(at="of_day.day")}
        GROUP BY budget.id) charged ON charged.id = budget.id
 WHERE budget.spent <> coalesce(charged.total, 0)
"""

# The budgets of the days of new transfers, from the roll-ups, which P8 compares with the records of those days.
P9_INCREMENTAL = f"""
{_P9_HELD}
UNION ALL
SELECT account_id, id, NULL, NULL, spent, charged.total
  FROM (SELECT DISTINCT line.account_id, budget.*
          FROM ({_NEW_USAGE}) transfer
          JOIN apikeys_apikey line ON line.account_id = transfer.wallet_id
          JOIN billing_keybudget budget ON budget.line_id = line.id
           AND budget.starts_at = {_BEGAN.format(at="(transfer.day::timestamp AT TIME ZONE 'UTC')")}) budget
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(charge), 0) AS total FROM billing_usagehour
        WHERE account_id = budget.account_id AND hour >= budget.starts_at
          AND {_BEGAN.format(at="hour")} = budget.starts_at
          AND api_key_id IN (SELECT id FROM apikeys_apikey WHERE id = line_id OR first_id = line_id)) charged
 WHERE spent <> charged.total
"""

MOVED = f"SELECT account_id, seq, posted FROM {_PROVED} wallet WHERE seq > since ORDER BY account_id"

# Two checks may run at the same time; the later proof stays.
REMEMBER = """
INSERT INTO billing_bookscheck (wallet_id, seq, balance)
SELECT * FROM unnest(%(accounts)s::bigint[], %(seqs)s::bigint[], %(balances)s::bigint[])
ON CONFLICT (wallet_id) DO UPDATE SET seq = excluded.seq, balance = excluded.balance, checked_at = now()
 WHERE billing_bookscheck.seq < excluded.seq
"""
