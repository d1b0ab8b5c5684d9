"""The statements of `flint.sandbox.volume`, in the order in which it runs them.

Moments are milliseconds since 1970 until they are stored, amounts are pico-USD. What looks random is a hash of a row's
number and the seed, so it is the same whenever and in whatever order it is computed. Temporary tables carry the plan:
**tariff** (which price holds when), **customer** (one row each), **entry** (one row for each transfer to be) and
**cost** (what the calls of a transfer came to).
"""

from __future__ import annotations

DAY = 86_400_000
BATCH_SPREAD = 20 * 60_000  # A transfer charges calls of twenty minutes at most,
SETTLED_AFTER = 30_000  # and is posted this much later, when the longest of them is over.
TOP_UP = 5_000_000_000_000  # Customers top up in multiples of 5 USD,
CENT = 10_000_000_000  # or, those who come into debt, whole cents and a little too little.
PROMOTION = 1_000_000_000_000

USED = "SELECT EXISTS (SELECT FROM billing_usagerecord)"
STRANGERS = """
SELECT EXISTS (SELECT FROM accounts_account account WHERE NOT EXISTS (
       SELECT FROM accounts_membership member JOIN accounts_user ON accounts_user.id = member.user_id
        WHERE member.account_id = account.id AND upper(email) = upper(%s)))
"""

# The load has its way for one transaction: no triggers, no foreign keys (the rows are made for each other), and
# nobody else writes meanwhile, so that ids can be given out in advance.
BEGIN = """
SET LOCAL session_replication_role = replica;
SET LOCAL work_mem = '256MB';
SET LOCAL maintenance_work_mem = '1GB';
LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE
"""

# A primary key stays: its rows come in its order, which is as cheap as building it afterwards.
CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'u'
"""
INDEXES = """
SELECT index.indexrelid::regclass::text, pg_get_indexdef(index.indexrelid)
  FROM pg_index index
 WHERE index.indrelid = %s::regclass
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.indexrelid AND contype IN ('p', 'u'))
"""

FUNCTIONS = """
CREATE OR REPLACE FUNCTION pg_temp.drawn(number bigint, purpose int) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashint8extended(number, %(seed)s * 64 + purpose);
CREATE OR REPLACE FUNCTION pg_temp.uniform(number bigint, purpose int) RETURNS float8
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (pg_temp.drawn(number, purpose) & 4294967295) / 4294967296.0::float8;
CREATE OR REPLACE FUNCTION pg_temp.sixteen_bits(drawn bigint, place int) RETURNS float8
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((drawn >> 16 * place) & 65535) / 65536.0::float8;
CREATE OR REPLACE FUNCTION pg_temp.moment(milliseconds bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp(milliseconds / 1000.0::float8);
"""

# What was sold before the price list began: until the middle of the time everything cost a quarter more.
PRICES = """
WITH oldest AS (
    SELECT DISTINCT ON (model_id) id, model_id, starts_at AS until
      FROM billing_priceversion WHERE account_id IS NULL ORDER BY model_id, starts_at
), period AS (
    SELECT oldest.id, model_id, since, least(ends, until) AS until, dearer
      FROM oldest, (VALUES (pg_temp.moment(%(since)s), pg_temp.moment((%(since)s + %(until)s) / 2), true),
                           (pg_temp.moment((%(since)s + %(until)s) / 2), 'infinity', false)
                   ) AS half(since, ends, dearer)
     WHERE since < until
), version AS (
    INSERT INTO billing_priceversion (model_id, starts_at, ends_at)
    SELECT model_id, since, until FROM period ORDER BY since, model_id
    RETURNING id, model_id, starts_at
)
INSERT INTO billing_pricerate (version_id, meter, context_from, pico_per_token)
SELECT version.id, meter, context_from, CASE WHEN dearer THEN pico_per_token * 5 / 4 ELSE pico_per_token END
  FROM version
  JOIN period ON period.model_id = version.model_id AND period.since = version.starts_at
  JOIN billing_pricerate rate ON rate.version_id = period.id
 ORDER BY version.id, meter
"""

TARIFF = """
CREATE TEMPORARY TABLE tariff ON COMMIT DROP AS
SELECT dense_rank() OVER (ORDER BY model.public_id) - 1 AS place, model.id AS model_id,
       model.type = 'reasoning' AS reasons, version.id AS price_version_id,
       ceil(extract(epoch FROM version.starts_at) * 1000)::bigint AS starts,
       ceil(extract(epoch FROM coalesce(version.ends_at, now())) * 1000)::bigint AS ends,
       max(pico_per_token) FILTER (WHERE meter = 'input') AS input,
       max(pico_per_token) FILTER (WHERE meter = 'cached_input') AS cached_input,
       max(pico_per_token) FILTER (WHERE meter = 'output') AS output
  FROM billing_languagemodel model
  JOIN billing_priceversion version ON version.model_id = model.id AND version.account_id IS NULL
  JOIN billing_pricerate rate ON rate.version_id = version.id AND context_from = 0
 WHERE model.listed AND NOT model.hidden AND model.id IN (
       SELECT model_id FROM billing_priceversion WHERE account_id IS NULL GROUP BY model_id
       HAVING range_agg(tstzrange(starts_at, ends_at))
              @> tstzrange(pg_temp.moment(%(since)s), pg_temp.moment(%(until)s), '[]'))
 GROUP BY model.id, version.id
"""
TARIFF_MODELS = "SELECT count(DISTINCT model_id) FROM tariff"

# By Zipf's law: the n-th largest customer makes 1/n of the calls of the largest. A customer tops up once, and again
# after each thousand calls; one in a hundred paid once and too little, and ends in debt.
CUSTOMERS = """
CREATE TEMPORARY TABLE customer ON COMMIT DROP AS
WITH ranked AS (
    SELECT number, row_number() OVER (ORDER BY pg_temp.uniform(number, 1), number) AS rank
      FROM generate_series(1, %(accounts)s::bigint) AS number
), shared AS (
    SELECT number, rank,
           round(%(usage)s * sum(1 / rank::float8) OVER (ORDER BY rank) / sum(1 / rank::float8) OVER ())::bigint
           AS calls_so_far
      FROM ranked
), sized AS (
    SELECT number, lag(calls_so_far, 1, 0::bigint) OVER by_rank AS calls_before,
           calls_so_far - lag(calls_so_far, 1, 0::bigint) OVER by_rank AS calls, mod(rank, 100) = 50 AS indebted
      FROM shared WINDOW by_rank AS (ORDER BY rank)
)
SELECT *, CASE WHEN indebted THEN 1 ELSE 1 + calls / 1000 END AS top_ups,
       NOT indebted AND pg_temp.uniform(number, 2) < 0.2 AS promoted,
       %(since)s + %(day)s
       + floor(0.8 * (%(until)s - %(since)s - %(day)s) * pg_temp.uniform(number, 3) ^ 2)::bigint AS joined
  FROM sized
"""
CREDITS = "SELECT sum(top_ups + promoted::int), count(*) FILTER (WHERE calls > 0) FROM customer"

USERS = """
INSERT INTO accounts_user (id, password, is_superuser, first_name, last_name, is_staff, is_active, date_joined, email)
SELECT %(user_base)s + number, '!' || md5(number::text), false, '', '', false, true,
       pg_temp.moment(joined - %(day)s), 'customer' || number || '@volume.example.test'
  FROM customer ORDER BY number
"""
ACCOUNTS = """
INSERT INTO accounts_account (id, name, tier_id, created_at)
SELECT %(account_base)s + number, 'Customer ' || number, tier.id, pg_temp.moment(joined - %(day)s)
  FROM customer, (SELECT id FROM accounts_tier WHERE name = 'Standard') tier ORDER BY number
"""
MEMBERSHIPS = """
INSERT INTO accounts_membership (account_id, user_id, role)
SELECT %(account_base)s + number, %(user_base)s + number, 'owner' FROM customer ORDER BY number
"""
KEYS = "COPY apikeys_apikey (id, account_id, name, digest, display, created_at) FROM STDIN"

# Every customer with calls has a batch; the other batches go to calls evenly. Batches of a customer follow each other
# in time: each begins somewhere in its share of the time since the customer joined, pushed towards the busy hours of a
# day (around 03:00 UTC; it is quiet at 15:00), and ends before the next one and before midnight.
ENTRIES = """
CREATE TEMPORARY TABLE entry ON COMMIT DROP AS
WITH extra AS (
    SELECT *, sum(greatest(calls - 1, 0)) OVER (ORDER BY number)::bigint AS extra_calls_so_far FROM customer
), shared AS (
    SELECT *, extra_calls_so_far * %(extra_batches)s / %(extra_calls)s AS extra_batches_so_far FROM extra
), sized AS (
    SELECT *, (calls > 0)::int + extra_batches_so_far
              - lag(extra_batches_so_far, 1, 0::bigint) OVER (ORDER BY number) AS batches
      FROM shared
), placed AS (
    SELECT sized.*, ordinal, row_number() OVER (ORDER BY number, ordinal) AS batch
      FROM sized, generate_series(0, batches - 1) AS ordinal
), timed AS (
    SELECT *,
           CASE WHEN ordinal = 0 THEN 0
                ELSE ordinal + floor((calls - batches) * (ordinal + pg_temp.uniform(batch, 4) - 0.5) / batches)
            END::bigint AS first_call,
           joined + (%(until)s - joined) * (ordinal + pg_temp.uniform(batch, 5)) / batches AS evenly
      FROM placed
), begun AS (
    SELECT *, floor(evenly - %(day)s * 0.7 / (2 * pi()) * (1 - cos(2 * pi() * evenly / %(day)s)))::bigint AS begins
      FROM timed
), batch AS (
    SELECT *, lead(first_call, 1, calls) OVER customer - first_call AS batch_calls,
           least(lead(begins, 1, %(until)s) OVER customer, begins + %(spread)s, (begins / %(day)s + 1) * %(day)s)
           AS ends
      FROM begun WINDOW customer AS (PARTITION BY number ORDER BY ordinal)
), entry AS (
    SELECT number AS customer, 'usage' AS kind, 2 * ordinal + 1 AS position,
           ((ordinal + 1) * top_ups + batches - 1) / batches - 1 AS top_up, joined, ends + %(settled_after)s AS settled,
           batch, batch_calls AS calls, calls_before + first_call AS calls_before, begins, ends,
           (begins / %(day)s)::int AS day
      FROM batch
    UNION ALL
    SELECT number, 'topup', 2 * (top_up * batches / top_ups), top_up, joined, NULL, NULL, NULL, NULL, NULL, NULL, NULL
      FROM sized, generate_series(0, top_ups - 1) AS top_up
    UNION ALL
    SELECT number, 'promotion', -1, 0, joined, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM sized WHERE promoted
), posted AS (
    -- A credit is posted when the usage before it was.
    SELECT entry.*, row_number() OVER wallet AS wallet_seq,
           coalesce(max(settled) OVER wallet, joined - %(day)s + 60000 * row_number() OVER wallet) AS posted
      FROM entry WINDOW wallet AS (PARTITION BY customer ORDER BY position, top_up ROWS UNBOUNDED PRECEDING)
)
SELECT %(transfer_base)s + row_number() OVER (ORDER BY posted, customer, wallet_seq) AS transfer_id,
       customer, wallet_seq, kind, posted, top_up, batch, calls, calls_before, begins, ends, day,
       pg_temp.uniform(batch, 6) AS hundredth,
       customer + floor(pg_temp.uniform(batch, 7) * ((%(keys)s - customer) / %(accounts)s + 1))::bigint * %(accounts)s
       AS key,
       mod(pg_temp.drawn(CASE WHEN pg_temp.uniform(batch, 8) < 0.7 THEN customer ELSE batch END, 9) & 65535,
           %(models)s) AS place
  FROM posted;
CREATE INDEX ON entry (day);
ANALYZE entry
"""
COSTS = """
CREATE TEMPORARY TABLE cost (transfer_id bigint, charge bigint, first_id uuid) ON COMMIT DROP
"""
DAYS = "SELECT DISTINCT day FROM entry WHERE day IS NOT NULL ORDER BY day"

# All calls of one day: the records, their roll-ups and what each transfer has to charge. The first call of a batch is
# never free, so that every transfer has something to charge. OFFSET 0 keeps the planner from writing every expression
# into each of the many that use it.
USAGE = """
WITH begun AS (
    SELECT transfer_id, customer, key, place, posted, begins, ordinal, calls_before + ordinal AS number,
           begins + floor((ends - begins) * (ordinal + pg_temp.uniform(calls_before + ordinal, 10)) / calls)::bigint
           AS admitted
      FROM entry, generate_series(0, calls - 1) AS ordinal WHERE day = %(this_day)s OFFSET 0
), drawn AS (
    SELECT *, pg_temp.drawn(number, 11) AS tokens, pg_temp.drawn(number, 12) AS fate, pg_temp.drawn(number, 13) AS noise
      FROM begun OFFSET 0
), ended AS (
    SELECT *, floor(30 * exp(7 * pg_temp.sixteen_bits(tokens, 0)))::bigint AS prompt,
           floor(8 * exp(5.5 * pg_temp.sixteen_bits(tokens, 1)))::bigint AS answer,
           CASE WHEN pg_temp.sixteen_bits(fate, 0) < 0.960 THEN 'completed'
                WHEN pg_temp.sixteen_bits(fate, 0) < 0.980 THEN 'client_closed'
                WHEN pg_temp.sixteen_bits(fate, 0) < 0.990 THEN 'backend_failed'
                WHEN pg_temp.sixteen_bits(fate, 0) < 0.993 THEN 'server_stopped'
                WHEN pg_temp.sixteen_bits(fate, 0) < 0.995 THEN 'key_disabled'
                WHEN pg_temp.sixteen_bits(fate, 0) < 0.998 OR ordinal = 0 THEN 'swept'
                ELSE 'unresolved' END AS outcome
      FROM drawn OFFSET 0
), used AS (
    SELECT *, CASE WHEN outcome = 'unresolved' THEN 0 ELSE prompt END AS input_tokens,
           CASE WHEN outcome = 'completed' AND pg_temp.sixteen_bits(tokens, 2) < 0.4
                THEN floor(prompt * 2 * pg_temp.sixteen_bits(tokens, 2))::bigint / 64 * 64 ELSE 0
            END AS cached_input_tokens,
           CASE WHEN outcome = 'unresolved' THEN 0 ELSE answer END AS output_tokens,
           pg_temp.sixteen_bits(fate, 1) < 0.7 AS streamed,
           CASE WHEN outcome NOT IN ('swept', 'unresolved')
                THEN (80 + 600 * pg_temp.sixteen_bits(fate, 2))::int END AS first_token_ms
      FROM ended OFFSET 0
), priced AS (
    SELECT used.*, model_id, price_version_id, reasons,
           (input_tokens - cached_input_tokens) * input + cached_input_tokens * cached_input + output_tokens * output
           AS price, (4 * prompt + 32) * input + 2048 * output AS most
      FROM used JOIN tariff ON tariff.place = used.place AND admitted >= starts AND admitted < tariff.ends OFFSET 0
), held AS (
    -- One call in two thousand used more than was held for it.
    SELECT *, CASE WHEN pg_temp.sixteen_bits(fate, 3) < 0.0005 AND price > 0 THEN price * 9 / 10 ELSE most END AS held
      FROM priced OFFSET 0
), call AS MATERIALIZED (
    SELECT ('0' || to_hex(admitted) || to_hex(28672 | (tokens >> 48 & 4095))
            || to_hex((noise & 4611686018427387903) | (1::bigint << 63)))::uuid AS id,
           transfer_id, %(account_base)s + customer AS account_id, %(key_base)s + key AS api_key_id, model_id,
           price_version_id, outcome, streamed, admitted / 3600000 AS hour, pg_temp.moment(admitted) AS admitted_at,
           pg_temp.moment(admitted + CASE WHEN first_token_ms IS NULL THEN 20000 ELSE first_token_ms + 10 * answer END)
           AS recorded_at,
           CASE WHEN streamed THEN first_token_ms END AS first_token_ms, first_token_ms + 10 * answer AS duration_ms,
           input_tokens, cached_input_tokens, output_tokens,
           CASE WHEN reasons AND outcome = 'completed' THEN output_tokens * 3 / 5 ELSE 0 END AS reasoning_tokens,
           held, least(price, held) AS charge, price > held AS clamped, pg_temp.moment(posted) AS settled_at,
           noise & 3 AS backend, tokens & 31 AS length
      FROM held
), record AS (
    INSERT INTO billing_usagerecord (
           id, account_id, api_key_id, model_id, price_version_id, backend, attempt, streamed, outcome, source,
           finish_reason, admitted_at, recorded_at, first_token_ms, duration_ms, input_tokens, cached_input_tokens,
           output_tokens, reasoning_tokens, held, charge, clamped, settled_at, transfer_id)
    SELECT id, account_id, api_key_id, model_id, price_version_id,
           CASE WHEN outcome = 'unresolved' THEN '' ELSE 'gpu' || backend END, 1, streamed, outcome,
           CASE outcome WHEN 'completed' THEN 'backend' WHEN 'swept' THEN 'checkpoint' WHEN 'unresolved' THEN 'none'
                        ELSE 'estimated' END,
           CASE WHEN outcome <> 'completed' THEN '' WHEN length = 0 THEN 'length' ELSE 'stop' END,
           admitted_at, recorded_at, first_token_ms, duration_ms, input_tokens, cached_input_tokens,
           output_tokens, reasoning_tokens, held, charge, clamped, settled_at, transfer_id
      FROM call ORDER BY id
), hour AS (
    INSERT INTO billing_usagehour (account_id, api_key_id, model_id, hour, calls, input_tokens, cached_input_tokens,
                                   output_tokens, charge, upstream_cost)
    SELECT account_id, api_key_id, model_id, pg_temp.moment(hour * 3600000), count(*), sum(input_tokens),
           sum(cached_input_tokens), sum(output_tokens), sum(charge), 0
      FROM call GROUP BY account_id, api_key_id, model_id, hour ORDER BY hour, account_id, api_key_id, model_id
), charged AS (
    INSERT INTO cost
    SELECT transfer_id, sum(charge), (array_agg(id ORDER BY id))[1] FROM call GROUP BY transfer_id
)
SELECT count(*) FROM call
"""

# A top-up pays for the calls until the next one, so no wallet goes below zero but where the customer paid too little.
TRANSFERS = """
CREATE TEMPORARY TABLE posting ON COMMIT DROP AS
WITH spent AS (
    SELECT customer, top_up, sum(charge)::bigint AS charge FROM entry JOIN cost USING (transfer_id) GROUP BY 1, 2
), priced AS (
    SELECT entry.*, first_id,
           CASE WHEN kind = 'usage' THEN cost.charge
                WHEN kind = 'promotion' THEN %(promotion)s
                WHEN indebted THEN greatest(coalesce(spent.charge, 0) / %(cent)s, 1) * %(cent)s
                ELSE greatest((coalesce(spent.charge, 0) + %(top_up)s - 1) / %(top_up)s, 1) * %(top_up)s
            END AS amount
      FROM entry JOIN customer ON customer.number = entry.customer
      LEFT JOIN cost USING (transfer_id)
      LEFT JOIN spent ON kind = 'topup' AND spent.customer = entry.customer AND spent.top_up = entry.top_up
)
SELECT transfer_id, customer, wallet_seq, kind, posted, begins, first_id, amount,
       sum(CASE WHEN kind = 'usage' THEN -amount ELSE amount END)
           OVER (PARTITION BY customer ORDER BY wallet_seq)::bigint AS balance_after
  FROM priced;
INSERT INTO billing_transfer (id, kind, debit, credit, amount, cause, day, wallet_id, wallet_seq, balance_after, reason,
                              created_at)
SELECT transfer_id, kind,
       CASE kind WHEN 'usage' THEN 'wallet' WHEN 'topup' THEN 'simulated_clearing' ELSE 'promotions' END,
       CASE kind WHEN 'usage' THEN 'usage_revenue' ELSE 'wallet' END,
       amount, kind || ':' || coalesce(first_id::text, 'volume-' || transfer_id),
       (pg_temp.moment(coalesce(begins, posted)) AT TIME ZONE 'UTC')::date, %(account_base)s + customer,
       wallet_seq, balance_after, '', pg_temp.moment(posted)
  FROM posting ORDER BY transfer_id
"""

# Usage has burned the promotional lot first and then the paid ones, oldest first.
LOTS = """
INSERT INTO billing_creditlot (wallet_id, kind, amount, remaining, expires_at, transfer_id, created_at)
WITH spent AS (
    SELECT customer, sum(amount) AS amount FROM posting WHERE kind = 'usage' GROUP BY customer
), lot AS (
    SELECT posting.*, coalesce(spent.amount, 0) AS spent,
           sum(posting.amount) OVER (PARTITION BY customer ORDER BY kind <> 'promotion', wallet_seq) AS so_far
      FROM posting LEFT JOIN spent USING (customer) WHERE kind <> 'usage'
)
SELECT %(account_base)s + customer, CASE kind WHEN 'topup' THEN 'paid' ELSE 'promotional' END, amount,
       greatest(0, least(amount, so_far - spent)),
       CASE WHEN kind = 'promotion' THEN pg_temp.moment(posted + 365 * %(day)s::bigint) END, transfer_id,
       pg_temp.moment(posted)
  FROM lot ORDER BY transfer_id
"""

RELEASED = """
INSERT INTO billing_releasedholds (account_id, hour, reason, calls)
SELECT %(account_base)s + customer, date_trunc('hour', pg_temp.moment(begins), 'UTC') AS hour,
       CASE WHEN hundredth < 0.01 THEN 'client_closed' ELSE 'model_unavailable' END AS reason, sum(1 + mod(batch, 3))
  FROM entry WHERE hundredth < 0.02 GROUP BY customer, hour, reason ORDER BY hour, customer
"""
REFUSED = """
INSERT INTO billing_refusedcalls (account_id, hour, status, code, calls)
SELECT %(account_base)s + customer, date_trunc('hour', pg_temp.moment(begins), 'UTC') AS hour,
       CASE WHEN hundredth > 0.99 THEN 429 ELSE 402 END AS status,
       CASE WHEN hundredth > 0.99 THEN 'rate_limit_exceeded_requests' ELSE 'insufficient_balance' END AS code,
       sum(1 + mod(batch, 20))
  FROM entry WHERE hundredth > 0.98 GROUP BY customer, hour, status, code ORDER BY hour, customer
"""

WALLETS = """
INSERT INTO billing_wallet (account_id, posted, held, debt, seq, holds_opened, holds_recorded, holds_released)
SELECT %(account_base)s + number, posted, 0, greatest(-posted, 0), seq, calls + coalesce(released, 0), calls,
       coalesce(released, 0)
  FROM customer
  JOIN (SELECT customer AS number, count(*) AS seq,
               sum(CASE WHEN kind = 'usage' THEN -amount ELSE amount END)::bigint AS posted
          FROM posting GROUP BY customer) total USING (number)
  LEFT JOIN (SELECT account_id - %(account_base)s AS number, sum(calls) AS released
               FROM billing_releasedholds GROUP BY account_id) released USING (number)
 ORDER BY number
"""

HIGHEST_ID = "SELECT coalesce(max(id), 0) FROM {table}"
NEXT_ID = "SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
