"""A **Mutant** is the product without one of its safeguards, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Stale(Exception):
    """A mutant that no longer fits the code, so that nobody knows whether its test can fail."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` stands exactly once in the file; a mutant has `new` in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """`breaks` says what no longer holds. `test` is the pytest node that must go red, in any of its cases."""

    name: str
    breaks: str
    test: str
    edits: tuple[Edit, ...]

    def changed(self, tree: Path) -> dict[Path, str]:
        """The new texts of the files that it changes. Raises Stale."""
        texts: dict[Path, str] = {}
        for edit in self.edits:
            path = tree / edit.file
            text = texts.get(path) or path.read_text(encoding="utf-8")
            found = text.count(edit.old)
            if found != 1:
                raise Stale(f"{self.name}: its text occurs {found} times in {edit.file}: {edit.old!r}")
            texts[path] = text.replace(edit.old, edit.new)
        return texts

    def apply(self, tree: Path) -> None:
        """Take the safeguard out. Raises Stale."""
        for path, text in self.changed(tree).items():
            path.write_text(text, encoding="utf-8")
