"""No float touches money: it cannot hold a cent exactly. Every file that handles amounts is read for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flint.sandbox.bootstrap import ROOT

FOLDERS = ("billing", "flint/sandbox/stripe_simulator")
# Files with fractions of other things.
OTHERS = {
    "billing/backlog.py": "seconds",
    "billing/books.py": "seconds",
    "billing/call_log.py": "a moment",
    "billing/charts.py": "pixels",
    "billing/chores.py": "seconds",
    "billing/funds.py": "days for which money lasts, by guess",
    "billing/management/commands/backlog.py": "seconds",
    "billing/management/commands/check_books.py": "seconds",
    "billing/payments/reconcile.py": "seconds",
    "billing/payments/stripe_api.py": "seconds",
    "billing/pdf.py": "millimetres",
    "billing/templatetags/figures.py": "milliseconds",
    "flint/sandbox/stripe_simulator/events.py": "seconds",
    "flint/sandbox/stripe_simulator/server.py": "seconds",
    "flint/sandbox/stripe_simulator/store.py": "seconds",
}


def floats(source: str) -> Iterator[str]:
    """What is a float, makes one or may make one, with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=float()):
                yield f"{node.lineno}: {node.value!r}"
            case ast.Name(id="float") | ast.Name(id="round"):
                yield f"{node.lineno}: {node.id}"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.Call(func=ast.Attribute(attr="FloatField")):
                yield f"{node.lineno}: FloatField"
            case ast.Import(names=[ast.alias(name="math"), *_]):
                yield f"{node.lineno}: math"


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if "migrations" not in path.parts]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_float_is_near_money(path: Path) -> None:
    found = list(floats(path.read_text()))
    if str(path.relative_to(ROOT)) in OTHERS:
        assert found, "It has none any more: take it from the list."
    else:
        assert found == []


@pytest.mark.parametrize(
    "line", ["a = b / 2", "a /= 2", "a = 0.5", "a: float", "a = float(b)", "round(a)", "import math"]
)
def test_a_float_is_noticed(line: str) -> None:
    assert list(floats(line))
