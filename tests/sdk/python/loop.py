"""The loop of every Python client: an errand a line on stdin, a note of what came of it a line on stdout.

A client runs in an environment of its own, so it knows nothing of the tests but this module.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PIECES_BEFORE_LEAVING = 3
MEGABYTE = 2**20

Note = dict[str, Any]


@dataclass
class Errand:
    """What a customer does: `do` names an operation of the client, `options` go into its request as they are.

    The text is so many megabytes longer.
    """

    do: str
    base_url: str
    key: str
    model: str
    text: str
    retries: int = 0
    megabytes: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text += "x" * self.megabytes * MEGABYTE

    @property
    def messages(self) -> list[Any]:
        return [{"role": "user", "content": self.text}]


def serve(operations: Mapping[str, Callable[[Errand], Note]]) -> None:
    # Some packages write advertisements to stdout.
    notes = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        errand = Errand(**json.loads(line))
        begun = time.monotonic()
        try:
            note = operations[errand.do](errand)
        except Exception as error:
            note = {"error": _described(error)}
        notes.write(json.dumps(note | {"seconds": time.monotonic() - begun}) + "\n")
        notes.flush()


def _described(error: Exception) -> Note:
    facts = {name: getattr(error, name, None) for name in ("status_code", "code", "type", "param", "request_id")}
    return {"class": type(error).__name__, "message": str(error), **facts}
