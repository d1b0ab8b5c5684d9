"""The judge finds each kind of fault in a call, and takes nothing that is right for one: worlds of planted facts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.planted import (
    ACCOUNT,
    BLIND_SECONDS,
    HELD,
    MODEL,
    Change,
    another_attempt,
    changed,
    late,
    no_attempt,
    no_client,
    no_clients,
    not_settled,
    on_attempt,
    on_client,
    on_record,
    open_hold,
    seconds_of,
    sound,
    told,
    usage,
    verdict_on,
)


def test_a_sound_world_is_sound() -> None:
    verdict = verdict_on(sound())
    assert told(verdict) == []
    assert verdict.sound
    charges = (36 * 4 + 64 + 30 * 10, 100 * 4 + 50 * 10, 90 * 4 + 6 * 10, 90 * 4 + 170 * 10)
    assert (verdict.calls, verdict.records, verdict.charged) == (6, 5, sum(charges))
    assert (verdict.swept, verdict.unresolved, verdict.late) == (1, 1, 0)


UNRESOLVED: dict[str, Any] = {
    "outcome": "unresolved", "source": "none", "input_tokens": 0, "output_tokens": 0, "charge": 0,
}  # fmt: skip
FAULTS: dict[str, tuple[str, list[Change]]] = {
    # The price and the charge.
    "a charge that is too high": ("wrong: charged 509", [on_record("json", charge=509)]),
    "a charge that is too low": ("wrong: charged 507", [on_record("json", charge=507)]),
    "a charge that was not clamped": (
        "wrong: charged 10900",
        [on_attempt("stream", completion_tokens=1050), on_record("stream", output_tokens=1050, charge=10900)],
    ),
    "a clamp that is not flagged": (
        "wrong: clamped is False, but it cost 10900",
        [on_attempt("stream", completion_tokens=1050), on_record("stream", output_tokens=1050, charge=HELD)],
    ),
    "a clamp that was none": ("wrong: clamped is True", [on_record("json", clamped=True)]),
    "a price that was not in force": ("wrong: charged by price 12", [on_record("json", price_version_id=12)]),
    "a model that was not for sale": ("wrong: no price was in force", [on_record("json", model_id=MODEL + 1)]),
    "a hold too small for the call": (
        "wrong: 10399 were held, but it could cost 10400",
        [on_record("json", held=10_399)],
    ),
    # What a record says of its call.
    "a record that differs from its hold": (
        f"wrong: its record says that {HELD} were held, its hold 5",
        [open_hold("json", amount=5), not_settled("json")],
    ),
    "an outcome without its source": (
        "wrong: source none cannot be of outcome completed",
        [on_record("unresolved", outcome="completed")],
    ),
    "a sweep that says it is exact": (
        "wrong: source backend cannot be of outcome swept",
        [on_record("json", outcome="swept")],
    ),
    "two records": ("double: it has 2 records", [lambda world: world.records.append(world.records[0])]),
    "a charged call whose hold is open": ("double: it is charged, and its hold is still open", [open_hold("json")]),
    "a late record of a call that was not swept": ("wrong: its late record does not belong", [late("json")]),
    "a late record of another account": ("wrong: its late record does not belong", [late("swept", ACCOUNT + 1)]),
    # The backend of a call.
    "a call without a backend": ("wrong: the journal knows no attempt 1", [no_attempt("json")]),
    "another attempt than the backend's": ("wrong: the journal knows no attempt 2", [on_record("json", attempt=2)]),
    "an attempt that was given up": (
        "wrong: attempt 1 is charged, but a later one was accepted",
        [another_attempt("json", number=2)],
    ),
    "an attempt that was sent twice": ("wrong: an attempt of it was sent", [another_attempt("json")]),
    "a hang-up without a backend but with tokens": ("wrong: the journal knows no attempt 1", [no_attempt("hung_up")]),
    "a failure of a backend that never was": (
        "wrong: the journal knows no attempt 1",
        [no_attempt("hung_up"), on_record("hung_up", output_tokens=0, outcome="backend_failed")],
    ),
    "a hang-up that a backend that never was has counted": (
        "wrong: the journal knows no attempt 1",
        [no_attempt("hung_up"), on_record("hung_up", output_tokens=0, source="backend")],
    ),
    "a hang-up without a backend and with a client that stayed": (
        "wrong: the journal knows no attempt 1",
        [no_attempt("hung_up"), on_record("hung_up", output_tokens=0), on_client("hung_up", end="done")],
    ),
    # Counted by the backend.
    "more input than the backend's": ("wrong: the record has", [on_record("json", input_tokens=101, charge=512)]),
    "fewer cached tokens than the backend's": (
        "wrong: the record has",
        [on_record("json", cached_input_tokens=0, charge=700)],
    ),
    "less output than the backend's": ("wrong: the record has", [on_record("stream", output_tokens=49, charge=890)]),
    "another usage than was reported": ("wrong: the record has", [on_attempt("stream", usage=usage(100, 0, 51))]),
    "less output than that of a backend that was left at its end": (
        "wrong: the record has",
        [on_attempt("stream", end="client_gone"), on_record("stream", output_tokens=49, charge=890)],
    ),
    "another prompt than a stopped backend's": (
        "wrong: the record has",
        [on_record("stream", outcome="server_stopped", input_tokens=101, charge=904)],
    ),
    "more output than a stopped backend's": (
        "wrong: the record has",
        [on_record("stream", outcome="server_stopped", output_tokens=51, charge=910)],
    ),
    "more output than a dead backend may write": (
        "wrong: the record has",
        [
            on_attempt("stream", end=None, ended_at=None, usage=None),
            on_record("stream", output_tokens=1001, charge=10410),
        ],
    ),
    # Estimated.
    "an estimate that caches": (
        "wrong: 9 cached tokens, which nobody can estimate",
        [on_record("hung_up", cached_input_tokens=9, charge=393)],
    ),
    "an input that is estimated too low": (
        "wrong: 24 input tokens are estimated, 25 to 201",
        [on_record("hung_up", input_tokens=24)],
    ),
    "an input that is estimated too high": (
        "wrong: 202 input tokens are estimated, 25 to 201",
        [on_record("swept", input_tokens=202)],
    ),
    "an input that is estimated at nothing": (
        "wrong: 0 input tokens are estimated, 1 to 100000",
        [no_attempt("hung_up"), on_record("hung_up", input_tokens=0, output_tokens=0)],
    ),
    "less output than arrived": ("lost: 5 tokens arrived, 4 are charged", [on_record("hung_up", output_tokens=4)]),
    "more output than was written": (
        "wrong: 15 output tokens are charged, at most 14",
        [on_record("hung_up", output_tokens=15)],
    ),
    "more output than was allowed": (
        "wrong: 1001 output tokens are charged, at most 1000",
        [on_attempt("hung_up", end=None, ended_at=None), on_record("hung_up", output_tokens=1001)],
    ),
    "less output than a whole stream's": (
        "lost: 49 output tokens are charged, at least 50",
        [on_record("stream", source="estimated", output_tokens=49)],
    ),
    "less output than a whole JSON answer's bytes": (
        "lost: 7 output tokens are charged, at least 8",
        [on_record("json", source="estimated", output_tokens=7), no_client("json")],
    ),
    # Charged by a checkpoint.
    "a checkpoint of more than was written": (
        "wrong: 351 output tokens are charged, at most 350",
        [on_record("swept", output_tokens=351)],
    ),
    "a checkpoint that is too old": (
        "lost: 111 output tokens are charged, at least 112",
        [on_record("swept", output_tokens=111)],
    ),
    "a checkpoint that is too old by the journal alone": (
        "lost: 113 output tokens are charged, at least 114",
        [on_record("swept", output_tokens=113), no_clients],
    ),
    "a checkpoint that is too old, of a backend that died": (
        "lost: 112 output tokens are charged, at least 113",
        [
            on_attempt("swept", ended_at=None, end=None, tokens_written=0, completion_tokens=0),
            on_record("swept", output_tokens=112),
        ],
    ),
    # Unresolved.
    "unresolved with tokens": (
        "wrong: it is unresolved, but has",
        [on_record("unresolved", input_tokens=5, charge=20)],
    ),
    "unresolved, though checkpoints must have seen it": (
        "lost: it is unresolved, but a stream of 10.0 s must have a checkpoint",
        [on_record("swept", **UNRESOLVED)],
    ),
    "unresolved by the journal alone": (
        "lost: it is unresolved, but a stream of 10.0 s must have a checkpoint",
        [
            on_record("swept", **UNRESOLVED),
            no_clients,
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_call_is_found(fault: str) -> None:
    text, changes = FAULTS[fault]
    assert [line for line in told(verdict_on(changed(*changes))) if line.startswith(text)]


SOUND: dict[str, list[Change]] = {
    "another attempt failed before": [
        on_record("json", attempt=2), on_attempt("json", number=2), another_attempt("json", number=1),
    ],
    "the hold is just enough": [on_record("json", held=10_400)],
    "the charge is clamped": [
        on_attempt("stream", completion_tokens=1050), no_client("stream"),
        on_record("stream", output_tokens=1050, charge=HELD, clamped=True),
    ],
    "the charge is all that was held": [
        on_attempt("stream", completion_tokens=1004), no_client("stream"),
        on_record("stream", output_tokens=1004, charge=HELD),
    ],
    "the customer left before the backend had read": [
        no_attempt("hung_up"), no_client("hung_up"), on_record("hung_up", output_tokens=0, charge=360),
    ],
    "the customer left before the backend had read, and says so": [
        no_attempt("hung_up"), on_client("hung_up", tokens=0), on_record("hung_up", output_tokens=0, charge=360),
    ],
    # Counted by the backend.
    "it was stopped at its end": [on_record("stream", outcome="key_disabled"), no_client("stream")],
    "a running report is older than the last": [
        on_record("stream", outcome="client_closed", output_tokens=30, charge=700),
        on_client("stream", tokens=30, end="hung_up", usage=None),
    ],
    "it was left before its last report was noted": [on_attempt("stream", end="client_gone", usage=usage(100, 0, 40))],
    "the backend died behind its last report": [on_attempt("json", end=None, ended_at=None, completion_tokens=0)],
    # Estimated.
    "a whole stream without usage": [
        on_record("stream", source="estimated", output_tokens=70, charge=1100), on_client("stream", usage=None),
    ],
    "the least and the most that a prompt can be": [
        on_record("hung_up", input_tokens=25, charge=160), on_record("swept", input_tokens=201, charge=2504),
    ],
    "the gateway counts by bytes": [on_record("hung_up", output_tokens=14, charge=500)],
    "no more can be counted than was allowed": [
        on_attempt("hung_up", completion_tokens=2000), on_client("hung_up", tokens=1500),
        on_record("hung_up", output_tokens=1000, charge=10_360),
    ],
    # Charged by a checkpoint.
    "the oldest checkpoint": [on_record("swept", output_tokens=112, charge=1480)],
    "a client that noticed late": [on_client("swept", ended_at=seconds_of("swept") + 99)],
    "a checkpoint, and nobody knows when it ended": [on_attempt("swept", end=None, ended_at=None), no_clients],
    "a checkpoint of a stream whose client got nothing": [no_client("swept")],
    "a frozen gateway has passed on less than was written": [
        on_client("swept", tokens=90), on_record("swept", output_tokens=80, charge=1160),
    ],
    "a late record says what a checkpoint lacks": [
        on_record("swept", output_tokens=1, charge=370), late("swept"), on_client("swept", tokens=200, end="done"),
    ],
    # Unresolved.
    "the process died before the backend was called": [no_attempt("unresolved")],
    "a JSON call, however long": [
        on_attempt("unresolved", ended_at=seconds_of("unresolved") + 99, completion_tokens=30, tokens_written=30),
        no_clients,
    ],
    "a stream that no checkpoint has seen": [
        on_record("swept", **UNRESOLVED),
        on_attempt("swept", ended_at=seconds_of("swept") + BLIND_SECONDS),
        on_client("swept", ended_at=seconds_of("swept") + BLIND_SECONDS),
    ],
    "a stream whose answer never began at its client": [on_record("swept", **UNRESOLVED), no_client("swept")],
    "a stream that never began at the backend": [
        on_record("swept", **UNRESOLVED), on_attempt("swept", tokens_written=0, completion_tokens=0), no_clients,
    ],
    "a late record says what nobody had seen": [on_record("swept", **UNRESOLVED), late("swept")],
}  # fmt: skip


@pytest.mark.parametrize("exception", SOUND)
def test_what_is_right_is_taken_for_no_fault(exception: str) -> None:
    assert told(verdict_on(changed(*SOUND[exception]))) == []
