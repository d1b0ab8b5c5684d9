"""PostgreSQL refuses to run as root: the account it runs as instead, and a place it can reach.

A checkout or a data folder below a closed folder (a home of mode 0700) is out of reach for that account. Then
the cluster and a copy of the binaries live *outside*, in a folder below /var/lib, and a pointer to it stays
with the data.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from flint.sandbox import files
from flint.sandbox.trouble import Trouble

OUTSIDE = Path("/var/lib/flint-sandbox")
ACCOUNTS = ("postgres", "nobody")
OWN_SERVERS = "Set DATABASE_URL to a PostgreSQL of your own, or start as an ordinary user."


def unprivileged_account() -> str | None:
    """The account for PostgreSQL when we are root; None when we are not and it runs as ourselves."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise Trouble(
                f"PostgreSQL cannot run as user id {os.geteuid()}, which has no account.", OWN_SERVERS
            ) from None
        return None
    for name in ACCOUNTS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise Trouble(f"PostgreSQL cannot run as root, and there is no account {' or '.join(ACCOUNTS)}.", OWN_SERVERS)


def account_name(number: int) -> str:
    """What a person calls the user with this id."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user id {number}"


def can_reach(account: str, paths: Iterable[Path]) -> bool:
    """Whether the account may execute (or pass through) all the paths; the system itself is asked."""
    test = 'for path do test -x "$path" || exit 1; done'
    try:
        asked = subprocess.run(
            ["/bin/sh", "-c", test, "sh", *map(str, paths)],
            user=account,
            group=pwd.getpwnam(account).pw_gid,
            extra_groups=[],
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Trouble(f"Root may not start a program as {account} here ({error}).", OWN_SERVERS) from None
    return asked.returncode == 0


def pointer(folder: Path) -> Path:
    return folder / "outside"


def outside_of(folder: Path) -> Path:
    """The place outside that belongs to this folder; made when there is none."""
    remove_orphans()
    try:
        return Path(pointer(folder).read_text().strip())
    except OSError:
        place = OUTSIDE / secrets.token_hex(6)
    try:
        for made in (OUTSIDE, place):
            made.mkdir(parents=True, exist_ok=True)
            made.chmod(0o755)
    except OSError as error:
        raise Trouble(f"PostgreSQL's account cannot reach {folder}, and {place}: {error}.", OWN_SERVERS) from None
    files.write(place / "belongs-to", f"{folder}\n")
    files.write(pointer(folder), f"{place}\n")
    return place


def remove_outside(folder: Path) -> None:
    """Delete the place outside that belongs to this folder, if there is one."""
    try:
        place = Path(pointer(folder).read_text().strip())
    except OSError:
        return
    # The pointer is only text: nothing but a place of ours is ever deleted.
    if place.parent == OUTSIDE:
        shutil.rmtree(place, ignore_errors=True)


def remove_orphans() -> None:
    """Delete places whose folder is gone; in the temporary folder only: elsewhere it may come back."""
    for note in OUTSIDE.glob("*/belongs-to"):
        folder = Path(note.read_text().strip())
        if folder.is_relative_to(Path(tempfile.gettempdir()).resolve()) and not pointer(folder).exists():
            shutil.rmtree(note.parent, ignore_errors=True)


def copy_binaries(packages: list[Path], version: str, place: Path) -> Path:
    """Copy these folders side by side into the place, for anyone to read; returns the first one's copy."""
    finished = place / f"binaries-{version}"
    if not finished.exists():
        unfinished = place / "binaries.unfinished"
        for old in place.glob("binaries*"):
            shutil.rmtree(old)
        for package in packages:
            shutil.copytree(package, unfinished / package.name)
        for path in [unfinished, *unfinished.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
        unfinished.rename(finished)
    return finished / packages[0].name
