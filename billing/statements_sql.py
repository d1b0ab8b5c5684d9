"""The queries of `billing.statements`. What they read of a wallet does not grow with its history."""

from __future__ import annotations

# Settlement follows a call by seconds. Transfers that were posted in another order than that of their days are looked
# for this many days around the start of the month, each day by a look into an index.
_DAYS_AROUND = 366

# One statement, so that all parts are of one moment and add up: part, day, at, kind, reason, model, key, key's display,
# calls, tokens, amount.
#
# The balance before a day is the balance after the last transfer that belongs to an earlier day, less what was posted
# before that transfer but belongs to later days, plus what was posted after it but belongs to earlier ones. A call of
# 23:59 may be charged after others of 00:01.
STATEMENT = f"""
WITH last AS MATERIALIZED (
    SELECT day, wallet_seq, balance_after FROM billing_transfer
     WHERE wallet_id = %(account)s AND day < %(first)s
     ORDER BY day DESC, wallet_seq DESC LIMIT 1
), opening AS (
    SELECT coalesce((SELECT balance_after FROM last), 0)
           - coalesce((
               SELECT sum(posted.amount)
                 FROM last, generate_series(0, {_DAYS_AROUND}) AS number
                CROSS JOIN LATERAL (
                      SELECT CASE WHEN credit = 'wallet' THEN amount ELSE -amount END AS amount
                        FROM billing_transfer
                       WHERE wallet_id = %(account)s AND day = %(first)s::date + number
                         AND wallet_seq < last.wallet_seq OFFSET 0) posted), 0)
           + coalesce((
               SELECT sum(posted.amount)
                 FROM last, generate_series(1, {_DAYS_AROUND}) AS number
                CROSS JOIN LATERAL (
                      SELECT CASE WHEN credit = 'wallet' THEN amount ELSE -amount END AS amount
                        FROM billing_transfer
                       WHERE wallet_id = %(account)s AND day = last.day - number
                         AND wallet_seq > last.wallet_seq OFFSET 0) posted), 0) AS amount
), hours AS MATERIALIZED (
    SELECT (hour AT TIME ZONE 'UTC')::date AS day, model_id,
           CASE WHEN (hour AT TIME ZONE 'UTC')::date = %(open)s::date THEN api_key_id END AS api_key_id,
           sum(calls) AS calls, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
           sum(output_tokens) AS output_tokens, sum(charge) AS charge
      FROM billing_usagehour
     WHERE account_id = %(account)s AND hour >= %(since)s AND hour < %(until)s
     GROUP BY 1, 2, 3
)
SELECT 'opening', NULL::date, NULL::timestamptz, '', '', '', '', '', 0, 0, 0, 0, amount FROM opening
UNION ALL
(SELECT 'transfer', day, created_at, kind, reason, '', '', '', 0, 0, 0, 0,
        CASE WHEN credit = 'wallet' THEN amount ELSE -amount END
   FROM billing_transfer
  WHERE wallet_id = %(account)s AND kind <> 'usage' AND day >= %(first)s AND day < %(next)s
  ORDER BY day, wallet_seq)
UNION ALL
(SELECT 'usage', hours.day, NULL, 'usage', '', model.public_id, coalesce(key.name, ''), coalesce(key.display, ''),
        calls, input_tokens, cached_input_tokens, output_tokens, -charge
   FROM hours
   JOIN billing_languagemodel model ON model.id = model_id
   LEFT JOIN apikeys_apikey key ON key.id = api_key_id
  ORDER BY hours.day, charge DESC, model.public_id, key.id)
UNION ALL
SELECT 'wallet', NULL, NULL, '', '', '', '', '', 0, 0, 0, 0, posted FROM billing_wallet WHERE account_id = %(account)s
"""

# The months that have a line: one look into the index for each month since the first.
MONTHS = """
SELECT month::date
  FROM generate_series(
       (SELECT date_trunc('month', min(day)::timestamp) FROM billing_transfer WHERE wallet_id = %(account)s),
       (SELECT max(day)::timestamp FROM billing_transfer WHERE wallet_id = %(account)s),
       interval '1 month') AS month
 WHERE EXISTS (
       SELECT FROM billing_transfer
        WHERE wallet_id = %(account)s AND day >= month::date AND day < (month + interval '1 month')::date)
 ORDER BY 1 DESC
"""
