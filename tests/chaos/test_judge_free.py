"""The judge of calls that ended free, of what their clients were told, and of what is not at its end."""

from __future__ import annotations

import pytest

from tests.chaos.judge.books import Release
from tests.chaos.judge.unrecorded import FREE
from tests.chaos.planted import (
    ACCOUNT,
    CREDIT,
    HELD,
    START,
    Change,
    World,
    another_attempt,
    attempt,
    changed,
    client,
    late,
    no_attempt,
    no_client,
    not_settled,
    on_attempt,
    on_client,
    on_record,
    open_hold,
    record,
    refused,
    released,
    told,
    usage,
    verdict_on,
)


def no_release(world: World) -> None:
    world.releases.clear()


FAULTS: dict[str, tuple[str, list[Change]]] = {
    # Calls without a record.
    "content that nobody recorded": ("lost: 50 tokens arrived; it has no record", [released("stream")]),
    "a stream that began and was not recorded": (
        "lost: 0 tokens arrived; it has no record",
        [released("stream"), on_client("stream", tokens=0, end="cut")],
    ),
    "an answer of the backend that nobody recorded": (
        "lost: the backend worked (done); it has no record",
        [released("json", "client_closed"), no_client("json")],
    ),
    "a hang-up that was free though the backend worked": (
        "lost: the backend worked (client_gone); it has no record",
        [released("hung_up", "client_closed"), no_client("hung_up")],
    ),
    "a backend that was left hanging, and nobody recorded it": (
        "lost: the backend worked (hung); it has no record",
        [released("hung_up", "client_closed"), no_client("hung_up"), on_attempt("hung_up", end="hung")],
    ),
    "an answer of the backend before another attempt": (
        "lost: the backend worked (cut); it has no record",
        [no_client("free"), on_attempt("free", end="done"), another_attempt("free", number=2, end="cut"), no_release],
    ),
    "a release that excuses another account's call": (
        "lost: the backend worked (done); it has no record",
        [
            released("json", "client_closed"),
            on_client("json", tokens=0, status=None, end="cut"),
            lambda world: world.releases.append(Release(ACCOUNT + 1, "model_unavailable", 1)),
        ],
    ),
    "a release that a client was told of excuses no other": (
        "lost: the backend worked (done); it has no record",
        [released("json", "client_closed"), no_client("json"), on_client("free", code="model_unavailable")],
    ),
    "a refusal before the backend, though it worked": (
        "lost: the backend worked (done); it has no record",
        [released("json", "client_closed"), refused("json", "rate_limit_exceeded_requests")],
    ),
    "a late record alone": ("wrong: it has a late record, but none that was in time", [late("free")]),
    # What the client was told.
    "a whole answer that is unresolved": (
        "lost: the whole answer arrived, but the record says unresolved",
        [on_record("json", outcome="unresolved", source="none")],
    ),
    "a whole answer that is a hang-up": (
        "wrong: the whole answer arrived, but the record says client_closed",
        [on_record("json", outcome="client_closed")],
    ),
    "another usage than the client's": (
        "wrong: the client was told Tokens(input=100, cached=64, output=31)",
        [on_client("json", usage=usage(100, 64, 31))],
    ),
    "a refusal that is charged": (
        "wrong: refused with 503 model_unavailable, but charged 508",
        [refused("json", "model_unavailable")],
    ),
    "another customer's call": (
        "wrong: account 8 made it, account 7 is charged",
        [on_client("json", account_id=ACCOUNT + 1)],
    ),
    "a 503 that does not say when": (
        "wrong: a 503 without Retry-After",
        [on_client("free", retry_after=None)],
    ),
    # What is not at its end.
    "a hold without an end": (f"open: a hold of {HELD} without an end", [open_hold("free")]),
    "a record that is not settled": ("open: recorded, but not settled", [not_settled("json")]),
    "a call admitted below zero": ("overdraft: admitted with -1 left", [open_hold("free", available_after=-1)]),
    # Money that was not there at some moment, though it was in the end.
    "more held at once than was there": (
        "overdraft: 10 more held and charged than credited",
        [on_record("swept", held=100_010), *(on_record(name, held=0) for name in ("hung_up", "unresolved")),
         *(on_record(name, recorded_at=START, settled_at=START, charge=0, held=0) for name in ("json", "stream"))],
    ),
    "an open hold of money that is not there": (
        "overdraft: 12200 more held and charged than credited",
        [open_hold("free", amount=60_000), another_attempt("free", number=2, accepted_at=START.timestamp() + 99)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    text, changes = FAULTS[fault]
    assert [line for line in told(verdict_on(changed(*changes))) if line.startswith(text)]


SOUND: dict[str, list[Change]] = {
    "the client was told that it is free": [
        released("json"), refused("json", "model_unavailable"),
    ],
    "nobody could be told, and a release is counted": [
        released("json", "forgotten"), on_client("json", tokens=0, status=None, end="cut"),
    ],
    "nobody knows whose it is, and a release is counted": [released("json"), no_client("json")],
    "nobody was told, but another was told more often than released": [
        released("json"), no_client("json"), refused("stream", "key_disabled"), released("stream", "client_closed"),
    ],
    "the backend failed before it said anything": [no_client("free"), no_release],
    "the backend died before it said anything": [on_attempt("free", end=None), no_client("free"), no_release],
    "it was refused before anything was asked": [no_attempt("free"), on_client("free", status=429, code="busy")],
    "it was refused, and is charged nothing": [
        lambda world: world.clients.append(client("unresolved", 0)), refused("unresolved", "model_unavailable"),
    ],
    "an answer that could not be recorded in time": [refused("json", "service_unavailable")],
}  # fmt: skip


@pytest.mark.parametrize("exception", SOUND)
def test_what_is_right_is_taken_for_no_fault(exception: str) -> None:
    assert told(verdict_on(changed(*SOUND[exception]))) == []


@pytest.mark.parametrize("code", FREE)
def test_a_client_that_was_told_is_the_one_of_a_release(code: str) -> None:
    """The release of the call that was told excuses no other."""
    world = changed(released("json", FREE[code]), refused("json", code), released("stream", "client_closed"))
    assert told(verdict_on(changed(released("json", FREE[code]), refused("json", code)))) == []
    on_client("stream", tokens=0, status=None, end="cut")(world)
    assert told(verdict_on(world)) == ["lost: the backend worked (done); it has no record"]


def test_a_call_is_excused_by_its_own_account_if_that_is_known() -> None:
    """One whose account is unknown takes what others leave."""
    world = changed(released("json"), no_client("json"), released("stream", "client_closed"))
    on_client("stream", tokens=0, status=None, end="cut")(world)
    world.releases.append(Release(ACCOUNT + 1, "model_unavailable", 1))
    assert told(verdict_on(world)) == []


def test_a_call_that_is_still_open_is_told_as_nothing_else() -> None:
    world = changed(open_hold("free", available_after=0), on_attempt("free", end="done"), no_client("free"), no_release)
    assert told(verdict_on(world)) == [f"open: a hold of {HELD} without an end"]
    half = CREDIT // 2
    world = changed(open_hold("json", amount=half), not_settled("json"), on_record("json", held=half))
    assert told(verdict_on(world)) == ["open: recorded, but not settled"]


@pytest.mark.parametrize("known", ["record", "hold", "attempt", "client"])
def test_a_call_counts_as_soon_as_anybody_took_it(known: str) -> None:
    world = World()
    if known == "record":
        world.records.append(record("json", (1, 0, 1)))
    if known == "hold":
        open_hold("json")(world)
    if known == "attempt":
        world.attempts.append(attempt("json", 1))
    if known == "client":
        world.clients += [client("json", 1), client("free", 0, status=429, end="refused")]
    assert verdict_on(world).calls == 1


def test_each_release_excuses_one_call() -> None:
    world = changed(released("json"), no_client("json"), released("stream", "client_closed"), no_client("stream"))
    assert told(verdict_on(world)) == ["lost: the backend worked (done); it has no record"]


def test_of_some_accounts_only_what_they_know_of_is_told() -> None:
    world = changed(released("json", "client_closed"), no_client("json"))
    assert told(verdict_on(world, whole=False)) == []
    assert not verdict_on(world, whole=True).sound
