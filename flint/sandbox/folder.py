"""The data folder: what the sandbox keeps between two starts, and the lock that one supervisor holds.

Standard library only: `make reset` works without a virtual environment.
"""

import base64
import fcntl
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import IO

from flint.sandbox import bootstrap, files, privileges
from flint.sandbox.trouble import Trouble

# What the sandbox writes. `make reset` deletes these names and nothing else: FLINT_DATA may point anywhere.
CONTENTS = (
    "sandbox.env",
    "sandbox.json",
    "children.json",
    "postgres",
    "valkey",
    "demo-backend",
    "celerybeat-schedule*",
    "logs",
    "*.unfinished",
    "lock",
)


def chosen() -> Path:
    """The folder that FLINT_DATA names, or .flint in the checkout."""
    return Path(os.environ.get("FLINT_DATA") or bootstrap.ROOT / ".flint").expanduser().resolve()


class DataFolder:
    """An open data folder. It is open, and locked, until the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises Trouble when the folder cannot be written or another supervisor has it."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            # The unprivileged account that PostgreSQL runs as must be able to pass through, not to look.
            path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self.lock = (path / "lock").open("a+")
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Trouble(
                f"The data folder {path} cannot be used: {error.strerror}.",
                "Make it a folder that you may write, or choose another: FLINT_DATA=~/flint-data make run",
            ) from None
        if not take(self.lock):
            raise Trouble(
                f"A sandbox already runs on {path} ({owner_of(self.lock)}).",
                "Use that one, stop it, or start a second one: PORT=8001 FLINT_DATA=.flint2 make run",
            )

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def say_who_runs(self, url: str) -> None:
        """Let a second supervisor tell who has the folder."""
        self.lock.truncate(0)
        self.lock.write(f"process {os.getpid()}, {url}")
        self.lock.flush()

    def secrets(self) -> dict[str, str]:
        """What was kept in sandbox.env, and the secrets that were not there yet. Raises Trouble."""
        path = self.path / "sandbox.env"
        try:
            lines = path.read_text().splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise Trouble(
                f"The file {path} cannot be read: {error}.", "Put it back, or start afresh: make reset"
            ) from None
        kept = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        kept.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
        kept.setdefault("FLINT_CREDENTIAL_KEYS", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        return kept

    def keep(self, values: dict[str, str]) -> None:
        """Write sandbox.env, which lets manage.py in another terminal find the running sandbox."""
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        files.write(self.path / "sandbox.env", "# Written by make run at every start.\n" + text)


def take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def owner_of(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read().strip() or "it is just starting"


def reset(path: Path) -> int:
    """Delete what the sandbox wrote. Raises Trouble while a sandbox runs on it."""
    if not path.is_dir():
        print(f"There is no data folder at {path}: nothing to delete.")
        return 0
    with (path / "lock").open("a+") as lock:
        if not take(lock):
            raise Trouble(
                f"A sandbox runs on {path} ({owner_of(lock)}).", "Stop it with Ctrl-C first, then make reset."
            )
        privileges.remove_outside(path / "postgres")
        for entry in [found for pattern in CONTENTS for found in path.glob(pattern)]:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    strangers = sorted(entry.name for entry in path.iterdir())
    if strangers:
        print(f"Deleted the sandbox in {path}; left what is not its own: {', '.join(strangers)}.")
        return 0
    # A folder that cannot be removed itself (a mount point) is as good when it is empty.
    try:
        path.rmdir()
    except OSError as error:
        print(f"Emptied {path} (it stays: {error.strerror}).", file=sys.stderr)
        return 0
    print(f"Deleted {path}.")
    return 0
