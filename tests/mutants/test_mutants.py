"""The safeguards that money hangs on most are taken out, one at a time; all others with `python -m tests.mutants`."""

from __future__ import annotations

import ast
import asyncio
import os
from pathlib import Path

import pytest

from flint.sandbox.bootstrap import ROOT
from tests.mutants import MUTANTS
from tests.mutants.mutant import Edit, Mutant, Stale
from tests.mutants.run import BROKEN, CAUGHT, SURVIVED, Run, Verdict

ALWAYS = (
    "settle-before-record",
    "record-after-done",
    "record-after-answer",
    "settle-lock",
    "usage-key",
    "cause-key",
    "guard",
    "clamp",
)

CLAMP = "tests/billing/test_usage.py::test_a_charge_is_never_more_than_was_held"
_IMPORT = "from __future__ import annotations\n"
HARMLESS = Mutant("harmless", "Nothing.", CLAMP, (Edit("billing/usage.py", _IMPORT, f"{_IMPORT}# Changed.\n"),))
UNREADABLE = Mutant("unreadable", "Everything.", CLAMP, (Edit("billing/usage.py", _IMPORT, "from"),))
GONE = Mutant("gone", "Nothing.", CLAMP, (Edit("billing/usage.py", "words that are not there", ""),))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """All are run at once, on the servers of this session."""
    chosen = [mutant for mutant in MUTANTS if mutant.name in ALWAYS]
    run = Run(tmp_path_factory.mktemp("mutants"), os.environ, tell=lambda verdict: None)
    return {verdict.name: verdict for verdict in asyncio.run(run.judge([*chosen, HARMLESS, UNREADABLE, GONE]))}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALWAYS)
def test_a_safeguard_that_is_taken_out_is_missed_by_its_test(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].ending == CAUGHT, verdicts[name].words


@pytest.mark.timeout(600)
def test_only_a_test_that_fails_has_caught_a_mutant(verdicts: dict[str, Verdict]) -> None:
    endings = {name: verdicts[name].ending for name in ("harmless", "unreadable", "gone")}
    assert endings == {"harmless": SURVIVED, "unreadable": BROKEN, "gone": BROKEN}
    assert "gone: its text occurs 0 times in billing/usage.py" in verdicts["gone"].words


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code_and_its_test_is_there(mutant: Mutant) -> None:
    for path, text in mutant.changed(ROOT).items():
        assert text != path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            ast.parse(text)
    file, *names = mutant.test.partition("[")[0].split("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert all(f"def {name}(" in text or f"class {name}:" in text for name in names)


def test_a_text_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("one\none\n")
    with pytest.raises(Stale, match="twice: its text occurs 2 times"):
        Mutant("twice", "", "", (Edit("twice.py", "one", "two"),)).apply(tmp_path)


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert set(ALWAYS) <= set(names)
