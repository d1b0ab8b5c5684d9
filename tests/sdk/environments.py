"""The locked environment of each client: installed once for a lock file, and found again by the next run.

Those of the inference servers (tests/inference) are made in the same way. They are in .sdk in the checkout, each in a
folder that is named for what it was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from flint.sandbox.bootstrap import ROOT

FOLDER = ROOT / ".sdk"
LOCKS = Path(__file__).parent
INSTALL_SECONDS = 600

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # Clients that share one start at the same time.


def python(name: str, *, locks: Path = LOCKS) -> Path:
    """The folder of a virtual environment with what the requirements.txt of that name locks."""
    lock = locks / name / "requirements.txt"

    def make(folder: Path) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        interpreter = str(folder / "bin" / "python")
        _run([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", interpreter, str(lock)])

    return _made(name, [lock], make, salt=sys.version)


def node(name: str) -> Path:
    """The folder with the client's node_modules."""
    files = [LOCKS / name / "package.json", LOCKS / name / "package-lock.json"]

    def make(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], folder)

    return _made(name, files, make)


def go(name: str) -> Path:
    """The folder of the client's program, `runner`."""
    source = LOCKS / name
    return _made(name, sorted(source.iterdir()), lambda folder: build_go(source, folder / "runner"))


def build_go(source: Path, program: Path) -> None:
    """Never with another toolchain or another version than the one that is here and locked."""
    environment = {
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",  # There may be no compiler of C.
        "GOMODCACHE": os.environ.get("GOMODCACHE", str(FOLDER / "go-modules")),
        "GOFLAGS": os.environ.get("GOFLAGS", "-mod=readonly -modcacherw"),
    }
    _run(["go", "build", "-o", str(program), "."], source, environment)


def _made(name: str, files: list[Path], make: Callable[[Path], None], *, salt: str = "") -> Path:
    """The folder that `make` fills, unless it was filled from the same files before."""
    digest = hashlib.sha256(salt.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = FOLDER / f"{name}-{digest}"
    with _locks[name]:
        return folder if folder.exists() else _filled(folder, make)


def _filled(folder: Path, make: Callable[[Path], None]) -> Path:
    unfinished = FOLDER / f"{folder.name}.{os.getpid()}"
    unfinished.mkdir(parents=True)
    try:
        make(unfinished)
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # Else another run was faster.
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _run(command: list[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
