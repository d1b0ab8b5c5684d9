"""The statement of `gateway.operations`.

Parameters: `since`, the first id of the period; `backend` and `model_id`, each NULL for all; `no_failures`, results.
Calls and attempts are found by their ids, which are in order of time: nothing outside of the period is read.

An attempt and a record belong together if the record is that of this very attempt. An attempt without a record was
abandoned, or free for the customer: what it cost us brought nothing. A record without an attempt is that of a process
that died.

Answers a row for each model at a backend, for each backend (`model_id` is NULL), for each model (`backend` is NULL) and
for all (both are). Times are milliseconds, arrays of the median and the 95th percentile; amounts are pico-USD.
"""

FIGURES = """
SELECT backend, model_id,
       count(result), count(result) FILTER (WHERE NOT result = ANY(%(no_failures)s)),
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY first_event_ms),
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE result = 'ok'),
       coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
       count(charge), coalesce(sum(charge), 0),
       count(charge) FILTER (WHERE record_cost IS NULL),
       coalesce(sum(charge) FILTER (WHERE record_cost IS NOT NULL), 0), coalesce(sum(record_cost), 0),
       coalesce(sum(attempt_cost) FILTER (WHERE charge IS NULL), 0),
       count(*) FILTER (WHERE charge IS NULL AND attempt_cost IS NULL AND input_tokens + output_tokens > 0)
  FROM (SELECT backend, model_id, number, result, first_event_ms, duration_ms, attempt.input_tokens,
               attempt.output_tokens, attempt.upstream_cost AS attempt_cost, charge,
               record.upstream_cost AS record_cost
          FROM (SELECT call_id, number, backend, model_id, result, first_event_ms, duration_ms, input_tokens,
                       output_tokens, upstream_cost
                  FROM gateway_attempt
                 WHERE call_id >= %(since)s AND (%(backend)s::text IS NULL OR backend = %(backend)s)
                   AND (%(model_id)s::bigint IS NULL OR model_id = %(model_id)s)) attempt
          FULL JOIN
               (SELECT id AS call_id, attempt AS number, backend, model_id, charge, upstream_cost
                  FROM billing_usagerecord
                 WHERE id >= %(since)s AND (%(backend)s::text IS NULL OR backend = %(backend)s)
                   AND (%(model_id)s::bigint IS NULL OR model_id = %(model_id)s)) record
         USING (call_id, number, backend, model_id)) asked(
               backend, model_id, number, result, first_event_ms, duration_ms, input_tokens, output_tokens,
               attempt_cost, charge, record_cost)
 GROUP BY GROUPING SETS ((backend, model_id), (backend), (model_id), ())
"""
