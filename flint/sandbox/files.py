"""Small files that must never be seen half written."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replace the file in one step; only its owner may read it."""
    unfinished = path.with_name(path.name + ".unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
