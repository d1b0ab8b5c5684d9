"""A Child: one process that the sandbox keeps running, in a session of its own, with its log.

The terminal's Ctrl-C reaches only the supervisor; on Linux the kernel ends a child whose parent was killed.
Elsewhere, and for children that ignore it, the record of process ids lets the next start end what was left.
"""

import contextlib
import ctypes
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flint.sandbox import bootstrap, files

PR_SET_PDEATHSIG = 1
LOG_BYTES = 10_000_000
# PostgreSQL says the second and the third of a cluster with another owner or mode than it wants.
REFUSALS = ("Permission denied", "wrong ownership", "invalid permissions")
# Loaded before any fork: between fork and exec nothing may be imported.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def always() -> bool:
    return True


def nothing() -> None:
    pass


@dataclass(kw_only=True)
class Child:
    """One program: how it is started, known to be ready, and asked to stop."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path = bootstrap.ROOT
    account: str | None = None
    descriptors: tuple[int, ...] = ()
    prepare: Callable[[], None] = nothing  # Done before each start.
    is_ready: Callable[[], bool] = always
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    remedy: str = ""  # What a person can do when it does not start.
    process: "subprocess.Popen[bytes] | None" = None
    log_begins_at: int = 0

    @property
    def pid(self) -> int:
        assert self.process is not None  # noqa: S101  Told to the type checker.
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start the process without waiting until it is ready."""
        self.prepare()
        self.bound_log()
        with self.log.open("ab") as log:
            self.log_begins_at = log.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                user=self.account,
                group=pwd.getpwnam(self.account).pw_gid if self.account else None,
                extra_groups=[] if self.account else None,
                pass_fds=self.descriptors,
                start_new_session=True,
                preexec_fn=die_with_parent(self.stop_signal),
            )

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def kill(self) -> None:
        """End it at once, together with what it started in its session's process group."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Ask it to stop and wait; kill it when it takes longer than it may."""
        self.ask_to_stop()
        if self.process is not None:
            try:
                self.process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def fate(self) -> str:
        """How the process ended, with the last line it wrote."""
        assert self.process is not None  # noqa: S101  Told to the type checker.
        code = self.process.returncode
        if code < 0:
            # It did not see this coming, so its last line says nothing.
            return f"killed by {signal.Signals(-code).name}"
        words = self.last_words()
        return f"exit code {code}; last line: {words}" if words else f"exit code {code}"

    def advice(self) -> str:
        """What a person can do when it does not start; fresh data would not mend permissions."""
        if any(refusal in self.last_words() for refusal in REFUSALS):
            return "Mend the owner or the permissions of what it names, and start again."
        return self.remedy or f"Read {self.log}."

    def last_words(self) -> str:
        """The last line of this process in its log that says what is wrong, shortened."""
        lines = [line.strip() for line in self.written().splitlines() if line.strip()]
        # PostgreSQL writes a few more after the one that matters.
        fatal = [line for line in lines[-5:] if "FATAL" in line or "PANIC" in line]
        return (fatal or lines or [""])[-1][:300]

    def written(self) -> str:
        """The end of what the process has written since it was started."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(min(self.log_begins_at, size), size - 20_000))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def bound_log(self) -> None:
        """Keep the log and one older part, each within bounds."""
        # Emptied in place: the process goes on writing into the same file, at its end.
        try:
            if self.log.stat().st_size > LOG_BYTES:
                self.log.with_name(self.log.name + ".1").write_bytes(self.log.read_bytes()[-LOG_BYTES:])
                os.truncate(self.log, 0)
                self.log_begins_at = 0
        except FileNotFoundError:
            return


def die_with_parent(signal_number: signal.Signals) -> Callable[[], None] | None:
    """Runs in the child after it has changed its user (which would undo it), before it is the program."""
    # The kernel sends the signal when the *thread* that forked ends, and code between fork and exec is safe only
    # in a process of one thread. The supervisor has one; a test with threads does without.
    if LIBC is None or threading.active_count() > 1:
        return None
    libc, parent = LIBC, os.getpid()

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def write_record(record: Path, children: Iterable[Child]) -> None:
    """Write down which processes run, with their time of birth, for the start after a kill -9."""
    alive = []
    for child in children:
        if child.is_alive():
            try:
                born = psutil.Process(child.pid).create_time()
            except psutil.NoSuchProcess:
                continue
            politely = int(child.stop_signal)
            alive.append({"name": child.name, "pid": child.pid, "born": born, "signal": politely})
    files.write(record, json.dumps(alive))


def end_leftovers(record: Path, patience_seconds: float = 5.0) -> list[str]:
    """End the processes of a supervisor that was killed; returns their names."""
    try:
        entries = json.loads(record.read_text())
        left = [(entry, leftover(entry["pid"], entry["born"])) for entry in entries]
        found = [(entry["name"], entry["signal"], process) for entry, process in left if process is not None]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    ending: dict[psutil.Process, int] = {}
    for _, politely, process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            # What it started itself (a worker's pool, a server's helpers) is ended with it, by it.
            ending |= dict.fromkeys(process.children(recursive=True), 0) | {process: politely}
    end_processes(ending, patience_seconds)
    record.unlink(missing_ok=True)
    return [name for name, _, _ in found]


def leftover(pid: int, born: float) -> psutil.Process | None:
    """The process, if it is still the one that was written down: a stranger may have got its id by now."""
    try:
        process = psutil.Process(pid)
        # Boot time, and so the time of birth, can be read with a small error.
        return process if abs(process.create_time() - born) < 1.0 else None
    except psutil.Error:
        return None


def end_processes(ending: Mapping[psutil.Process, int], patience_seconds: float = 5.0) -> None:
    """Send each its signal (0: none), later kill what is still there. They need not be our children."""
    for signals in (ending, dict.fromkeys(ending, signal.SIGKILL)):
        for process, signal_number in signals.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
        if wait_for(lambda: all(map(is_gone, ending)), patience_seconds):
            return


def is_gone(process: psutil.Process) -> bool:
    """Whether it runs no more. A dead one may stay listed: in a container nobody may collect it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
