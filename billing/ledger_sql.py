"""The statements of the ledger, each one whole change. Only `billing.ledger` runs them."""

from __future__ import annotations

# An arbitrary number that keeps the advisory locks of wallets apart from other advisory locks of this database.
_WALLET_LOCKS = 0x466C696E

LOCK_WALLET = f"SELECT pg_advisory_xact_lock(({_WALLET_LOCKS}::bigint << 32) + %s)"

OPEN_WALLET = """
INSERT INTO billing_wallet (account_id, posted, held, debt, seq, holds_opened, holds_recorded, holds_released)
VALUES (%s, 0, 0, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING
"""

# The start of the period to which a moment belongs: that of its budget.
_PERIOD_START = """CASE {period} WHEN 'total' THEN '1970-01-01 00:00+00'::timestamptz
                                  ELSE date_trunc({period}, {at}, 'UTC') END"""

# Wallets are locked in id order; their calls are admitted by running sum in the order asked, and those of a key with a
# spend cap by the running sum of its line, too. `available` and what a budget has left are read from the locked rows,
# so they are the newest there is. One statement in autocommit: the lock lasts no round trip.
#
# A budget moves only behind the lock of its wallet, here as in RELEASE and SETTLE. So nobody ever waits for one, and
# the one order of locks is that of the wallets. A call whose budget is not open yet is not admitted.
_RESERVE = """
WITH asked AS MATERIALIZED (
    SELECT ask.*, row_number() OVER () AS position
      FROM jsonb_to_recordset(%s::jsonb) AS ask(
           id uuid, account_id bigint, api_key_id bigint, model_id bigint, price_version_id bigint,
           amount bigint, streamed boolean, owner uuid, admitted_at timestamptz, lifetime_seconds int)
), wallet AS MATERIALIZED (
    SELECT account_id, posted - held AS available
      FROM billing_wallet
     WHERE account_id IN (SELECT account_id FROM asked)
     ORDER BY account_id
       FOR NO KEY UPDATE {wait}
), capped AS MATERIALIZED (
    SELECT position, amount, key.spend_cap AS cap, key.spend_period AS period,
           coalesce(key.first_id, key.id) AS line_id, {starts_at} AS starts_at
      FROM asked JOIN wallet USING (account_id)
      JOIN apikeys_apikey key ON key.id = asked.api_key_id AND key.spend_cap IS NOT NULL
), budget AS MATERIALIZED (
    SELECT line_id, period, starts_at, budget.id AS budget_id, budget.spent + budget.held AS used
      FROM billing_keybudget budget
      JOIN (SELECT DISTINCT line_id, period, starts_at FROM capped) needed USING (line_id, period, starts_at)
     ORDER BY budget.id
       FOR NO KEY UPDATE OF budget
), share AS MATERIALIZED (
    SELECT position, cap, period, budget_id, cap - used AS budget_left,
           cap - used - sum(amount) OVER (PARTITION BY budget_id ORDER BY position) AS budget_left_after
      FROM capped LEFT JOIN budget USING (line_id, period, starts_at)
), ranked AS (
    SELECT asked.*, cap, budget_id, budget_left_after,
           wallet.available - sum(amount) OVER (PARTITION BY account_id ORDER BY position) AS available_after
      FROM asked JOIN wallet USING (account_id) LEFT JOIN share USING (position)
), admitted AS (
    INSERT INTO billing_hold (id, account_id, api_key_id, model_id, price_version_id, amount, available_after,
                              budget_id, budget_left_after, streamed, owner, admitted_at, expires_at, backend,
                              attempt)
    SELECT id, account_id, api_key_id, model_id, price_version_id, amount, available_after,
           budget_id, budget_left_after, streamed, owner, admitted_at,
           now() + lifetime_seconds * interval '1 second', '', 1
      FROM ranked WHERE available_after >= 0 AND (cap IS NULL OR budget_left_after >= 0)
    RETURNING id, account_id, amount, budget_id
), moved AS (
    UPDATE billing_wallet
       SET held = held + total.amount, holds_opened = holds_opened + total.calls
      FROM (SELECT account_id, sum(amount) AS amount, count(*) AS calls FROM admitted GROUP BY account_id) total
     WHERE billing_wallet.account_id = total.account_id
), counted AS (
    UPDATE billing_keybudget
       SET held = held + total.amount
      FROM (SELECT budget_id, sum(amount) AS amount FROM admitted WHERE budget_id IS NOT NULL GROUP BY budget_id) total
     WHERE billing_keybudget.id = total.budget_id
)
SELECT asked.id, admitted.id IS NOT NULL, {available}, cap, period, budget_left
  FROM asked
  LEFT JOIN wallet USING (account_id)
  LEFT JOIN share USING (position)
  LEFT JOIN admitted ON admitted.id = asked.id
 ORDER BY position
"""
_CALLS_PERIOD = _PERIOD_START.format(period="key.spend_period", at="asked.admitted_at")
RESERVE_SKIPPING = _RESERVE.format(wait="SKIP LOCKED", available="wallet.available", starts_at=_CALLS_PERIOD)
RESERVE_WAITING = _RESERVE.format(wait="", available="coalesce(wallet.available, 0)", starts_at=_CALLS_PERIOD)

# A key with a cap, its line and the start of the period in which a moment lies; and what the line was charged in it.
CAPPED_KEYS = f"""
SELECT id, account_id, coalesce(first_id, id) AS line_id, spend_cap AS cap, spend_period AS period,
       {_PERIOD_START.format(period="spend_period", at="%(moment)s::timestamptz")} AS starts_at
  FROM apikeys_apikey WHERE id = ANY (%(keys)s) AND spend_cap IS NOT NULL
"""
CHARGED = f"""
SELECT coalesce(sum(charge), 0) FROM billing_usagehour
 WHERE account_id = capped.account_id AND hour >= capped.starts_at
   AND {_PERIOD_START.format(period="capped.period", at="hour")} = capped.starts_at
   AND api_key_id IN (SELECT id FROM apikeys_apikey WHERE id = capped.line_id OR first_id = capped.line_id)
"""

# Behind the advisory lock of the wallet, so that no settlement runs which would not see the new row. Calls that run
# without having been counted in it come with their settlement.
OPEN_BUDGET = f"""
INSERT INTO billing_keybudget (line_id, period, starts_at, held, spent)
SELECT line_id, period, starts_at, 0, ({CHARGED}) FROM ({CAPPED_KEYS}) capped
    ON CONFLICT DO NOTHING
"""

# A hold whose call has a record is left for settlement. One that the sweeper is just writing cannot be seen yet, but
# the hold was marked with it, and the newest version of the hold's row is what is looked at.
RELEASE = """
WITH released AS (
    DELETE FROM billing_hold
     WHERE id IN (SELECT id FROM billing_hold WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE)
       AND resolved_at IS NULL
       AND NOT EXISTS (SELECT FROM billing_usagerecord record WHERE record.id = billing_hold.id)
    RETURNING id, account_id, amount, budget_id
), total AS (
    SELECT account_id, sum(amount) AS amount, count(*) AS calls FROM released GROUP BY account_id ORDER BY account_id
), counted AS (
    INSERT INTO billing_releasedholds AS counts (account_id, hour, reason, calls)
    SELECT account_id, date_trunc('hour', now(), 'UTC'), %(reason)s, calls FROM total
    ON CONFLICT (account_id, hour, reason) DO UPDATE SET calls = counts.calls + excluded.calls
    RETURNING account_id
), locked AS MATERIALIZED (
    SELECT account_id FROM billing_wallet
     WHERE account_id IN (SELECT account_id FROM counted) ORDER BY account_id FOR NO KEY UPDATE
), moved AS (
    UPDATE billing_wallet wallet
       SET held = held - total.amount, holds_released = holds_released + total.calls
      FROM total JOIN locked USING (account_id)
     WHERE wallet.account_id = total.account_id
    RETURNING total.account_id, total.calls
), given_back AS (
    UPDATE billing_keybudget budget
       SET held = budget.held - part.amount
      FROM (SELECT budget_id, account_id, sum(amount) AS amount FROM released GROUP BY budget_id, account_id) part
      JOIN moved USING (account_id) -- So behind the locks of the wallets.
     WHERE budget.id = part.budget_id
)
SELECT calls FROM moved
"""

# A refund points to its hold; PostgreSQL looks at that when the transaction ends, and by then the refund has let it go.
END_REFUND_HOLD = "DELETE FROM billing_refundhold WHERE id = %s AND wallet_id = %s RETURNING amount"

# Promotional first, soonest expiry first, then oldest.
BURN_ORDER = ("-kind", "expires_at", "id")
_BURN_ORDER = "kind DESC, expires_at ASC NULLS LAST, id"

_SETTLE_CLAIM = """
WITH first AS MATERIALIZED (
    SELECT admitted_at, (admitted_at AT TIME ZONE 'UTC')::date AS day
      FROM billing_usagerecord
     WHERE account_id = %(account)s AND settled_at IS NULL
       AND EXISTS (SELECT FROM billing_wallet WHERE account_id = %(account)s)
     ORDER BY id LIMIT 1
), boundary AS MATERIALIZED (
    -- Where this batch must end: at midnight, and at the next expiry of a lot, after which the lot does not pay.
    SELECT least((first.day + 1)::timestamp AT TIME ZONE 'UTC', (
               SELECT min(expires_at) FROM billing_creditlot
                WHERE wallet_id = %(account)s AND remaining > 0 AND expires_at > first.admitted_at)) AS until
      FROM first
), claimed AS MATERIALIZED (
    SELECT id, api_key_id, model_id, admitted_at, charge, upstream_cost,
           input_tokens, cached_input_tokens, output_tokens
      FROM billing_usagerecord
     WHERE account_id = %(account)s AND settled_at IS NULL
       AND admitted_at >= (SELECT admitted_at FROM first) AND admitted_at < (SELECT until FROM boundary)
     ORDER BY id LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED
), total AS MATERIALIZED (
    SELECT count(*) AS calls, coalesce(sum(charge), 0)::bigint AS amount, min(admitted_at) AS since,
           (array_agg(id ORDER BY id))[1] AS first_id
      FROM claimed
), closed AS (
    DELETE FROM billing_hold WHERE id IN (SELECT id FROM claimed) RETURNING amount, budget_id
)"""

# The cause names the first call of the batch: a record is settled once, so it is first once.
_SETTLE_POST = """, posted AS (
    INSERT INTO billing_transfer (kind, debit, credit, amount, cause, day, wallet_id, wallet_seq, balance_after, reason)
    SELECT 'usage', 'wallet', 'usage_revenue', total.amount, 'usage:' || total.first_id, first.day,
           wallet.account_id, wallet.seq + 1, wallet.posted - total.amount, ''
      FROM total, first, billing_wallet wallet
     WHERE wallet.account_id = %(account)s AND total.amount > 0
    RETURNING id
), settled AS (
    UPDATE billing_usagerecord record
       SET settled_at = now(), transfer_id = (SELECT id FROM posted)
      FROM claimed WHERE record.id = claimed.id
    RETURNING record.id
)"""

_SETTLE_BURN = f""", lot AS MATERIALIZED (
    SELECT id, remaining,
           sum(remaining) OVER (ORDER BY {_BURN_ORDER} ROWS UNBOUNDED PRECEDING) - remaining AS burned_before
      FROM billing_creditlot, total
     WHERE wallet_id = %(account)s AND remaining > 0 AND (expires_at IS NULL OR expires_at > total.since)
), burned AS (
    UPDATE billing_creditlot
       SET remaining = billing_creditlot.remaining - least(lot.remaining, total.amount - lot.burned_before)
      FROM lot, total
     WHERE billing_creditlot.id = lot.id AND lot.burned_before < total.amount
    RETURNING least(lot.remaining, total.amount - lot.burned_before) AS amount
)"""

_SETTLE_ROLL_UP = """, rolled AS (
    INSERT INTO billing_usagehour AS total (account_id, api_key_id, model_id, hour, calls, input_tokens,
                                            cached_input_tokens, output_tokens, charge, upstream_cost)
    SELECT %(account)s, api_key_id, model_id, date_trunc('hour', admitted_at, 'UTC') AS hour, count(*),
           sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(charge),
           coalesce(sum(upstream_cost), 0)
      FROM claimed GROUP BY api_key_id, model_id, hour ORDER BY hour, api_key_id, model_id
    ON CONFLICT (account_id, hour, api_key_id, model_id) DO UPDATE
       SET calls = total.calls + excluded.calls,
           input_tokens = total.input_tokens + excluded.input_tokens,
           cached_input_tokens = total.cached_input_tokens + excluded.cached_input_tokens,
           output_tokens = total.output_tokens + excluded.output_tokens,
           charge = total.charge + excluded.charge,
           upstream_cost = total.upstream_cost + excluded.upstream_cost
    RETURNING hour
)"""

# The wallet row comes last: it reads what every other part returned, so it runs after them, and its lock is short.
_SETTLE_WALLET = """, moved AS (
    UPDATE billing_wallet wallet
       SET posted = posted - total.amount,
           debt = debt + total.amount - part.burned,
           seq = seq + (total.amount > 0)::int,
           held = wallet.held - part.held,
           holds_recorded = holds_recorded + part.holds
      FROM total, (SELECT (SELECT coalesce(sum(amount), 0) FROM burned) AS burned,
                          (SELECT coalesce(sum(amount), 0) FROM closed) AS held,
                          (SELECT count(*) FROM closed) AS holds,
                          (SELECT count(*) FROM settled) AS settled,
                          (SELECT count(*) FROM rolled) AS rolled) part
     WHERE wallet.account_id = %(account)s AND total.calls > 0
       AND part.settled >= 0 AND part.rolled >= 0
    RETURNING total.calls, total.amount
)"""

# Only budgets come after it, being behind its lock. A hold gives back to the budget that it was admitted by; a charge
# is spent in every budget of the key's line to whose period the call belongs.
_SETTLE_BUDGETS = f""", budgeted AS (
    UPDATE billing_keybudget budget
       SET held = budget.held - part.held, spent = budget.spent + part.spent
      FROM (SELECT budget_id, sum(held) AS held, sum(spent) AS spent
              FROM (SELECT budget_id, amount AS held, 0 AS spent FROM closed WHERE budget_id IS NOT NULL
                    UNION ALL
                    SELECT spent_in.id, 0, charge
                      FROM claimed JOIN apikeys_apikey key ON key.id = claimed.api_key_id
                      JOIN billing_keybudget spent_in ON spent_in.line_id = coalesce(key.first_id, key.id)
                       AND spent_in.starts_at = {_PERIOD_START.format(period="spent_in.period", at="admitted_at")}
                   ) change
             GROUP BY budget_id) part, moved
     WHERE budget.id = part.budget_id
)
SELECT calls, amount FROM moved
"""
SETTLE = _SETTLE_CLAIM + _SETTLE_POST + _SETTLE_BURN + _SETTLE_ROLL_UP + _SETTLE_WALLET + _SETTLE_BUDGETS
