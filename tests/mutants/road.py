"""Mutants of the gateway's road: each step of a call, from its key to its last bytes, and what runs beside it."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

CALLS = "gateway/calls.py"
ADMISSION = "gateway/admission.py"
CALL_STATE = "gateway/call_state.py"
RELAY = "gateway/relay.py"
RECORDER = "gateway/recorder.py"
PROCESS = "gateway/process.py"
BREAKER_LUA = "gateway/breaker.lua"

_ASYNCIO = Edit(CALLS, "from datetime import UTC, datetime\n", "import asyncio\nfrom datetime import UTC, datetime\n")
_RECORDED = "    durable = await process.recorder.record(record)\n"

ENTRY = (
    Mutant(
        "key-cache",
        "A revoked key works for longer than a second.",
        "tests/gateway/test_process.py::test_a_revoked_key_is_dead_everywhere_a_second_later",
        (Edit("gateway/authentication.py", "CACHE_SECONDS = 1.0", "CACHE_SECONDS = 3.0"),),
    ),
    Mutant(
        "key-disabled",
        "The running streams of a disabled key go on.",
        "tests/gateway/test_disabled.py::test_a_disabled_key_ends_its_running_streams_which_pay_for_what_they_got",
        (Edit(PROCESS, "if call.key.key_id in disabled:", "if False:"),),
    ),
    Mutant(
        "lease-kept",
        "An ended call keeps its place among the concurrent ones.",
        "tests/gateway/test_limits.py::test_five_requests_at_once_pass_and_their_places_are_free_again_at_their_ends",
        (
            Edit(
                CALLS, "    await process.limits.give_back(call.lease, used_tokens=record.", "    (call.lease, record."
            ),
        ),
    ),
)

ADMIT = (
    Mutant(
        "hold-by-estimate",
        "What is held is a guess of the prompt, not the most that it can be.",
        "tests/gateway/test_streams.py::test_a_prompt_of_more_tokens_than_estimated_is_charged_in_full",
        (Edit(CALLS, "price.ceiling(input_tokens=bound,", "price.ceiling(input_tokens=estimate,"),),
    ),
    Mutant(
        "reserve-later",
        "A backend is called before the hold is committed.",
        "tests/gateway/test_order.py::test_no_backend_is_called_before_the_hold_is_committed",
        (
            _ASYNCIO,
            Edit(
                CALLS,
                "        await process.admission.admit(ask)\n",
                "        asyncio.create_task(process.admission.admit(ask))\n",
            ),
        ),
    ),
    Mutant(
        "reserve-alone",
        "A call that fits is refused because of a larger one that came with it.",
        "tests/gateway/test_admission.py::test_a_call_that_fits_is_admitted_though_it_came_behind_a_larger_one",
        (Edit(ADMISSION, "if not answer.admitted and answer.has_room_for(ask.amount):", "if False:"),),
    ),
    Mutant(
        "hold-kept",
        "A call that failed free keeps its hold.",
        "tests/gateway/test_failover.py::test_a_failure_before_acceptance_is_503_and_free",
        (Edit(CALLS, "    await process.release(call, reason=reason)\n", "    process.running.pop(call.id, None)\n"),),
    ),
    Mutant(
        "batch-of-one-fault",
        "One bad row takes its neighbours down.",
        "tests/gateway/test_batching.py::test_one_bad_row_fails_alone",
        (
            Edit(
                "gateway/batching.py",
                "except (IntegrityError, DataError) as error:",
                "except ZeroDivisionError as error:",
            ),
        ),
    ),
)

ANSWER = (
    Mutant(
        "failover-late",
        "A second backend is asked, and paid, after the first has accepted.",
        "tests/gateway/test_failover.py::test_nobody_else_is_asked_once_a_backend_has_accepted",
        (Edit(RELAY, "            if call.accepted:\n                raise\n", ""),),
    ),
    Mutant(
        "hangup-free",
        "Who hangs up before the first token pays nothing, though the backend works.",
        "tests/gateway/test_hangup.py::test_before_acceptance_the_prompt_is_paid",
        (Edit(RELAY, "if call.accepted or (call.sent and outcome is Outcome.CLIENT_CLOSED):", "if call.accepted:"),),
    ),
    Mutant(
        "checkpoint-unaccepted",
        "A call that no backend accepted is charged when its process dies.",
        "tests/gateway/test_process.py::test_a_call_that_no_backend_has_accepted_has_no_checkpoint_and_would_be_free",
        (Edit(CALL_STATE, "if not self.accepted or self.target is None:", "if self.target is None:"),),
    ),
)

SLOTS = (
    Mutant(
        "slot-kept",
        "An ended attempt keeps its place at a backend with a cap.",
        "tests/gateway/test_caps.py::test_a_backend_that_fails_has_its_slot_back_while_another_one_still_answers",
        (Edit(RELAY, "            backends.slots.give_back(target.backend, call.id)\n", "            pass\n"),),
    ),
    Mutant(
        "full-asked",
        "Each process gives a backend as many calls as its cap allows to all of them.",
        "tests/gateway/test_caps.py::test_the_next_backend_gets_what_the_first_has_no_room_for",
        (Edit("gateway/slots.lua", "redis.call('ZCARD', slots) < most", "true"),),
    ),
    Mutant(
        "slot-for-ever",
        "A process that died keeps its places at a backend.",
        "tests/gateway/test_caps.py::test_what_a_killed_process_had_is_free_after_its_lease",
        (Edit("gateway/slots.lua", "    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)\n", ""),),
    ),
)

RECORD = (
    Mutant(
        "settle-before-record",
        "The hold ends, and its money is free, before the record is durable.",
        "tests/gateway/test_order.py::test_the_record_is_durable_before_the_last_bytes_and_the_hold_stays_until_then",
        (Edit(CALLS, _RECORDED, f'    await process.release(call, reason="recorded")\n{_RECORDED}'),),
    ),
    Mutant(
        "ring-before-record",
        "Settlement is rung for before there is anything to settle, and never again.",
        "tests/gateway/test_database_away.py::test_records_outlive_an_outage_and_customers_are_told_the_truth",
        (
            Edit(
                RECORDER,
                "-> bool:\n        while True:\n",
                "-> bool:\n        self._doorbell.ring(record.account_id, call_id=record.id)\n        while True:\n",
            ),
            Edit(
                RECORDER,
                "            self._doorbell.ring(record.account_id, call_id=record.id)\n            return True",
                "            return True",
            ),
        ),
    ),
    Mutant(
        "record-after-done",
        "A customer has [DONE] of a call that may leave no record.",
        "tests/gateway/test_order.py::test_the_record_is_durable_before_the_last_bytes_and_the_hold_stays_until_then[True]",
        (
            Edit(
                CALLS,
                _RECORDED,
                "    durable, last = True, await endings.finish(call, record, durable=True)\n",
            ),
            Edit(
                CALLS,
                "    return await endings.finish(call, record, durable=durable)\n",
                "    await process.recorder.record(record)\n    return last\n",
            ),
        ),
    ),
    Mutant(
        "record-after-answer",
        "A customer has the whole JSON answer of a call that may leave no record.",
        "tests/gateway/test_order.py::test_the_record_is_durable_before_the_last_bytes_and_the_hold_stays_until_then[False]",
        (
            _ASYNCIO,
            Edit(CALLS, _RECORDED, "    durable = bool(asyncio.create_task(process.recorder.record(record)))\n"),
        ),
    ),
    Mutant(
        "record-not-durable",
        "A customer is told that all is well though the record is not durable.",
        "tests/gateway/test_database_away.py::test_records_outlive_an_outage_and_customers_are_told_the_truth",
        (Edit(RECORDER, "return bool(done) and writing.result()", "return True"),),
    ),
    Mutant(
        "unwritten-at-stop",
        "A process that stops throws away the records that it could not write yet.",
        "tests/gateway/test_process.py::test_a_process_that_stops_writes_what_is_unwritten",
        (Edit(PROCESS, "        await self.recorder.flush(SHUTDOWN_SECONDS)\n", ""),),
    ),
)

HEARTBEAT = (
    Mutant(
        "known-running",
        "The heartbeat gives back the holds of calls that run.",
        "tests/gateway/test_process.py::test_a_running_call_is_not_given_back_however_old_its_id_is",
        (Edit(PROCESS, "boot=self.boot, known=self._known)", "boot=self.boot, known=set)"),),
    ),
    Mutant(
        "known-unwritten",
        "The heartbeat gives back the holds of calls whose records wait for the database.",
        "tests/gateway/test_process.py::test_a_hold_stays_until_the_record_of_its_call_is_durable",
        (Edit(PROCESS, "return self.running.keys() | self.recorder.unwritten.keys()", "return self.running.keys()"),),
    ),
    Mutant(
        "forgotten-kept",
        "A hold whose reserve was cancelled stays until it expires.",
        "tests/gateway/test_process.py::test_a_hold_that_its_process_does_not_know_is_given_back_within_seconds",
        (Edit(PROCESS, "        if forgotten:\n", "        if False:\n"),),
    ),
)

BREAKERS = (
    Mutant(
        "breaker-never-opens",
        "A backend that keeps failing is asked for ever.",
        "tests/gateway/test_breaker.py::test_five_failures_in_a_row_open_it_for_every_process",
        (Edit(BREAKER_LUA, "    if several or now - state.doubted_at >= patience then", "    if false then"),),
    ),
    Mutant(
        "breaker-never-closes",
        "A mended backend is left alone for ever.",
        "tests/gateway/test_breaker.py::test_after_the_pause_one_call_of_one_process_finds_out[True]",
        (Edit(BREAKER_LUA, "        state = fresh(state)\n", "        state.prober = ''\n"),),
    ),
    Mutant(
        "breaker-lets-all-through",
        "After the pause everybody's calls go to a backend of which nobody knows whether it is well.",
        "tests/gateway/test_breaker.py::test_after_the_pause_one_call_of_one_process_finds_out",
        (Edit("gateway/breaker.py", "            found.mine_until = 0\n", ""),),
    ),
    Mutant(
        "breaker-probe-of-the-idle",
        "A process without calls for a backend keeps the right to probe it, and never does.",
        "tests/gateway/test_breaker.py::test_after_the_pause_one_call_of_one_process_finds_out",
        (Edit(BREAKER_LUA, "local chosen = wanted[field] and free", "local chosen = free"),),
    ),
    Mutant(
        "breaker-of-one-customer",
        "One customer's poisoned requests shut a backend for everybody.",
        "tests/gateway/test_breaker.py::test_one_customer_cannot_open_it_unless_a_probe_fails_as_well",
        (Edit(BREAKER_LUA, "together(state.whose, state.whose_before) == 'several'", "true"),),
    ),
    Mutant(
        "probe-unheard",
        "A worker's good probe does not close the breaker.",
        "tests/gateway/test_rounds.py::test_a_dead_one_is_known_after_two_probes_and_a_mended_one_after_one",
        (Edit("gateway/rounds.py", 'probe="good" if is_well else "bad"', 'probe="bad"'),),
    ),
    Mutant(
        "probe-by-every-worker",
        "Every worker probes, and pays for it.",
        "tests/gateway/test_rounds.py::test_one_worker_makes_the_round",
        (Edit("gateway/rounds.py", "            if lock.acquire():\n", "            if lock.acquire() or True:\n"),),
    ),
)

ROAD = (*ENTRY, *ADMIT, *ANSWER, *SLOTS, *BREAKERS, *RECORD, *HEARTBEAT)
