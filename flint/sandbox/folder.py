"""The data folder: what the sandbox keeps between two starts, and the lock that one supervisor holds.

Standard library only: `make reset` works without a virtual environment.
"""

import base64
import fcntl
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping
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
    "stripe",
    "celerybeat-schedule*",
    "logs",
    "mail",
    "*.unfinished",
    "lock",
)

# What the Stripe simulator and the product share.
STRIPE = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS", "STRIPE_API_BASE")


def chosen() -> Path:
    """The folder that FLINT_DATA names, or .flint in the checkout."""
    return Path(os.environ.get("FLINT_DATA") or default()).expanduser().resolve()


def default() -> Path:
    return bootstrap.ROOT / ".flint"


def reset_command(path: Path) -> str:
    """What deletes this folder and no other."""
    return "make reset" if path == default().resolve() else f"FLINT_DATA={shlex.quote(str(path))} make reset"


def insist_on_owner(path: Path) -> None:
    """Raises Trouble when the folder is another user's: files of two users in it would lock out one of them."""
    # Below it PostgreSQL's account may own files when we are root, so nothing else is looked at.
    try:
        owner = path.stat().st_uid
    except OSError:
        return  # It is not there yet, or its opening tells what is wrong.
    if owner != os.geteuid():
        name = privileges.account_name(owner)
        raise Trouble(
            f"The data folder {path} belongs to {name}, and you are {privileges.account_name(os.geteuid())}.",
            f"Run this as {name}, or choose another folder: FLINT_DATA=~/flint-data make run",
        )


def text_of(path: Path) -> str:
    """A file that the sandbox wrote earlier; empty when there is none. Raises Trouble."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except PermissionError:
        raise Trouble(
            f"The file {path} may not be read by {privileges.account_name(os.geteuid())}.",
            "Mend its owner or its permissions, or choose another folder: FLINT_DATA=~/flint-data make run",
        ) from None
    except UnicodeDecodeError:
        raise unusable(path, "it is not text") from None
    except OSError as error:
        raise unusable(path, str(error.strerror)) from None


def unusable(path: Path, reason: str) -> Trouble:
    return Trouble(
        f"The file {path} cannot be used: {reason}.", f"Put it back, or start afresh: {reset_command(chosen())}"
    )


def is_ours(path: Path) -> bool:
    """Whether nobody else uses the folder, so that its mode is ours to set: FLINT_DATA could name /tmp."""
    return (path / "lock").exists() or not any(path.iterdir())


class DataFolder:
    """An open data folder. It is open, and locked, until the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises Trouble when the folder cannot be written or another supervisor has it."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if is_ours(path):
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

    def kept(self) -> dict[str, str]:
        """What was kept in sandbox.env. Raises Trouble."""
        lines = text_of(self.path / "sandbox.env").splitlines()
        pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
        return {name: value for name, value in pairs if value.strip()}

    def secrets(self) -> dict[str, str]:
        """What was kept, and the secrets that were not there yet. Raises Trouble."""
        kept = self.kept()
        kept.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
        kept.setdefault("FLINT_CREDENTIAL_KEYS", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        return kept

    def keep(self, values: dict[str, str]) -> None:
        """Write sandbox.env, which lets manage.py in another terminal find the running sandbox."""
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        files.write(self.path / "sandbox.env", "# Written by make run at every start.\n" + text)


def stripe_secrets(kept: Mapping[str, str]) -> dict[str, str]:
    """The key of the Stripe simulator and the secret that its events are signed with; made once for a data folder."""
    return {
        "STRIPE_SECRET_KEY": kept.get("STRIPE_SECRET_KEY") or f"sk_sim_{secrets.token_hex(24)}",
        "STRIPE_WEBHOOK_SECRETS": kept.get("STRIPE_WEBHOOK_SECRETS") or f"whsec_{secrets.token_hex(24)}",
    }


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
    if os.geteuid() != 0:  # Root can mend what two users have mixed.
        insist_on_owner(path)
    with (path / "lock").open("a+") as lock:
        if not take(lock):
            raise Trouble(
                f"A sandbox runs on {path} ({owner_of(lock)}).",
                f"Stop it with Ctrl-C first, then {reset_command(path)}",
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
