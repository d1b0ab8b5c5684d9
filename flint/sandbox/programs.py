"""Programs of the operating system that only tests need: used where found, installed where that is allowed.

Where they can be neither found nor installed, the tests that need them skip and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Program:
    """`package` is what Debian and Ubuntu call it."""

    package: str
    names: tuple[str, ...]

    @property
    def path(self) -> str | None:
        return next((path for name in self.names if (path := shutil.which(name))), None)

    @property
    def missing(self) -> str:
        """For a skipped test: what to do."""
        return f"there is no program {self.names[0]} (Debian: apt install {self.package})"


CHROMIUM = Program(
    "chromium",
    (
        *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
)
FAKETIME = Program("faketime", ("faketime",))
CURL = Program("curl", ("curl",))
# For the clients of /v1 in other languages.
NODE = Program("nodejs", ("node",))
NPM = Program("npm", ("npm",))
GO = Program("golang-go", ("go",))


def install(*wanted: Program) -> None:
    """Install what is missing with apt-get, as root; otherwise, or if that fails, say what will be left out."""
    missing = [program for program in wanted if program.path is None]
    if not missing:
        return
    packages = [program.package for program in missing]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {', '.join(packages)} with apt-get ...", flush=True)
        if _apt_get("update") and _apt_get("install", "--yes", "--no-install-recommends", *packages):
            return
        print(f"apt-get could not install {', '.join(packages)}.", flush=True)
    print(f"Some tests will be skipped: {'; '.join(program.missing for program in missing)}.", flush=True)


def _apt_get(*arguments: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", "--quiet=2", *arguments],  # noqa: S607  Wherever the system has it.
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
