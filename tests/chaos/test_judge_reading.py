"""What the judge works with: prices, the journal, the client ledger, and nothing of the product."""

from __future__ import annotations

import ast
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import judge
from tests.chaos.judge.evidence import read_clients, read_journal
from tests.chaos.judge.prices import PriceTable, Rate, Tokens, Version
from tests.chaos.planted import (
    ACCOUNT,
    LATER_PRICE,
    MODEL,
    PRICE,
    RATES,
    START,
    attempt,
    call_id,
    sound,
    usage,
    verdict_on,
)

DAY = timedelta(days=1)
TABLE = PriceTable(
    [
        Version(1, MODEL, None, START, START + DAY),
        Version(2, MODEL, None, START + DAY, None),
        Version(3, MODEL, ACCOUNT, START + 2 * DAY, START + 3 * DAY),
    ],
    [
        Rate(1, "input", 0, 3),
        Rate(1, "output", 0, 7),
        Rate(1, "input", 1000, 6),
        Rate(1, "output", 1000, 14),
        Rate(1, "cached_input", 1000, 1),
    ],
)


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        (Tokens(0, 0, 0), 0),
        (Tokens(100, 0, 10), 370),
        (Tokens(100, 40, 10), 370),  # No cached price: as input.
        (Tokens(999, 0, 1), 2997 + 7),
        (Tokens(1000, 0, 1), 6000 + 14),  # The band of the prompt prices the whole call.
        (Tokens(1000, 400, 1), 3600 + 400 + 14),
    ],
)
def test_a_cost_is_a_product_of_tokens_and_the_rates_of_the_prompts_band(tokens: Tokens, cost: int) -> None:
    assert TABLE.cost(1, tokens) == cost


@pytest.mark.parametrize(
    ("account", "after", "version"),
    [
        (ACCOUNT, -timedelta(milliseconds=1), None),
        (ACCOUNT, timedelta(0), 1),
        (ACCOUNT, DAY - timedelta(milliseconds=1), 1),
        (ACCOUNT, DAY, 2),
        (ACCOUNT, 2 * DAY, 3),
        (ACCOUNT + 1, 2 * DAY, 2),
        (ACCOUNT, 3 * DAY, 2),
    ],
)
def test_the_contract_price_replaces_the_list_price_in_its_time(
    account: int, after: timedelta, version: int | None
) -> None:
    assert TABLE.in_force(MODEL, account, START + after) == version


def test_a_call_is_priced_at_the_moment_in_its_id() -> None:
    world = sound()
    second = START + timedelta(seconds=1)
    world.prices = PriceTable(
        [Version(PRICE, MODEL, None, START, second), Version(LATER_PRICE, MODEL, None, second, None)],
        [Rate(version, meter, 0, rate) for version in (PRICE, LATER_PRICE) for meter, rate in RATES.items()],
    )
    later = sorted(str(call_id(name)) for name in ("stream", "hung_up", "swept", "unresolved"))
    assert sorted(str(fault.call_id) for fault in verdict_on(world).wrong) == later


def journal_line(event: str, serial: int, **fields: Any) -> bytes:
    line = {"event": event, "boot": "b1", "serial": serial, "call_id": str(call_id("json")), "attempt": "1", **fields}
    return json.dumps(line).encode() + b"\n"


def test_the_journal_is_read_over_all_lives_past_broken_lines_and_probes(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    asked = {"model": "m", "stream": True, "choices": 2, "max_tokens": 10, "prompt_tokens": 5, "cached_tokens": 0}
    accepted: dict[str, Any] = {"accepted_at": "2026-03-04T05:06:07.250000+00:00", **asked}
    served = {"completion_tokens": 4, "tokens_written": 3, "usage": None, "status": 200, "end": "client_gone"}
    journal.write_bytes(
        journal_line("accepted", 1, **accepted)
        + b'{"event":"ended","boot":"b1","ser\n'
        + journal_line("accepted", 1, **accepted, boot="b2", attempt="2")
        + journal_line("ended", 1, ended_at="2026-03-04T05:06:09+00:00", **served, boot="b2", attempt="2")
        + journal_line("ended", 9, ended_at="2026-03-04T05:06:09+00:00", **served)
        + journal_line("refused", 2, boot="b2", status=503)
        + journal_line("accepted", 3, **accepted, boot="b2", call_id=None, attempt=None)
        + journal_line("accepted", 5, **accepted, boot="b2", attempt="0")
        + journal_line("accepted", 4, **(accepted | {"max_tokens": None}), boot="b2")
    )
    running, ended, unbounded = read_journal(journal)
    assert (running.number, running.end, running.ended_at, running.most_output) == (1, None, None, 20)
    assert (unbounded.number, unbounded.most_output) == (1, 0)
    assert running.accepted_at == START.timestamp() + 7.25
    assert (ended.number, ended.end, ended.ended_at) == (2, "client_gone", START.timestamp() + 9)
    assert (ended.completion_tokens, ended.tokens_written, ended.reported) == (4, 3, Tokens(5, 0, 4))


@pytest.mark.parametrize(
    "reported",
    [
        usage(5, 3, 2),
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 3},
        {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 3},
        usage(5, 2, 2) | {"cached_tokens": 3},
    ],
)
def test_usage_is_read_as_any_backend_words_it(reported: dict[str, Any]) -> None:
    assert attempt("json", 30, usage=reported).reported == Tokens(5, 3, 2)


@pytest.mark.parametrize("cached", [-1, 6, "many", None])
def test_a_count_of_cached_tokens_that_cannot_be_true_is_none(cached: Any) -> None:
    assert attempt("json", 30, usage=usage(5, cached, 2)).reported == Tokens(5, 0, 2)


@pytest.mark.parametrize("reported", [None, "NaN", {"prompt_tokens": 5}, {"completion_tokens": 5}])
def test_what_is_no_usage_is_replaced_by_what_the_backend_knows(reported: Any) -> None:
    assert attempt("json", 30, cached_tokens=64, usage=reported).reported == Tokens(100, 64, 30)


def test_the_client_ledger_is_read_for_the_accounts_that_are_judged(tmp_path: Path) -> None:
    ledger = tmp_path / "clients.jsonl"
    line: dict[str, Any] = {
        "fault": "none", "account_id": ACCOUNT, "call_id": call_id("json").hex, "stream": False, "sent_at": 1.0,
        "first_at": 2.0, "ended_at": 3.0, "status": 200, "tokens": 30, "end": "done", "code": None,
        "retry_after": None, "usage": None,
    }  # fmt: skip
    lines = [line, line | {"account_id": ACCOUNT + 1}, line | {"call_id": None}]
    ledger.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert [client.call_id for client in read_clients(ledger, {ACCOUNT})] == [call_id("json"), None]
    assert len(read_clients(ledger, None)) == 3


def test_the_judge_imports_nothing_of_the_product_nor_of_other_tests() -> None:
    allowed = {*sys.stdlib_module_names, "psycopg"}
    for module in Path(judge.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.startswith("tests.chaos.judge") or name.split(".")[0] in allowed, (module.name, name)
