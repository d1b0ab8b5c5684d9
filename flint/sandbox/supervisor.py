"""The supervisor: starts children in order, keeps them running, and stops them in the order of its list.

A child that dies is reported and started again after a delay that doubles while it keeps dying. A signal only
asks for the stop; everything else happens in one loop of the main thread.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flint.sandbox import children
from flint.sandbox.children import Child
from flint.sandbox.trouble import Trouble

SIGNALS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_SECONDS = 0.5
LOG_LOOK_SECONDS = 60.0


class StopAsked(Exception):
    """A signal to stop came while something was waited for."""


@dataclass
class Watch:
    """What the supervisor knows of one running child."""

    child: Child
    started: float
    delay: float
    due: float | None = None  # When a dead child is started again.
    announce: bool = False  # Whether its next readiness is to be told.


def say(line: str) -> None:
    """Print for the person at the terminal, who may have closed it."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  It stays for the rest of the process.


class Supervisor:
    """Owns running children; `record` is where their process ids are written for the next start."""

    def __init__(
        self,
        record: Path,
        *,
        first_delay: float = 1.0,
        longest_delay: float = 30.0,
        calm_seconds: float = 60.0,
    ) -> None:
        self.record = record
        self.first_delay = first_delay
        self.longest_delay = longest_delay
        self.calm_seconds = calm_seconds
        self.watches: list[Watch] = []
        self.stops_asked = 0
        self.hurried = False  # Whether the person asked again while children were stopping.
        self.waker, self.woken = socket.socketpair()
        self.logs_looked_at = time.monotonic()

    def listen_to_signals(self) -> None:
        """From now on a signal is an entry in the loop instead of an interruption anywhere."""
        for end in (self.waker, self.woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS_TO_STOP:
            signal.signal(number, self.note_stop)
        # The death of a child wakes the loop; the default would ignore it.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def note_stop(self, number: int, frame: object) -> None:
        self.stops_asked += 1

    def pause(self, seconds: float) -> None:
        """Sleep until a signal comes, at most so long."""
        select.select([self.woken], [], [], seconds)
        try:
            while self.woken.recv(1000):
                pass
        except BlockingIOError:
            return

    def start(self, *starting: Child, within: float) -> None:
        """Start these together and wait until all are ready.

        Raises Trouble when one dies or is not ready in time, StopAsked when a signal came.
        """
        for child in starting:
            child.spawn()
            self.watches.append(Watch(child, started=time.monotonic(), delay=self.first_delay))
            self.write_record()
        deadline = time.monotonic() + within
        waiting = list(starting)
        while waiting := [child for child in waiting if not child.is_ready()]:
            self.insist_on_life(starting)
            if time.monotonic() > deadline:
                late = waiting[0]
                raise Trouble(
                    f"{late.name} was not ready within {within:.0f} s: {late.last_words()}",
                    late.advice(),
                )
            self.pause(0.05)

    def insist_on_life(self, starting: Sequence[Child]) -> None:
        if self.stops_asked:
            raise StopAsked
        for child in starting:
            if not child.is_alive():
                raise Trouble(f"{child.name} ended while starting ({child.fate()}).", child.advice())

    def finish(self, job: Child, *, told: Callable[[str], None], within: float) -> None:
        """Run a program that ends by itself, passing on its lines. Raises Trouble when it fails, or StopAsked."""
        job.spawn()
        watch = Watch(job, started=time.monotonic(), delay=self.first_delay)
        self.watches.append(watch)
        self.write_record()
        try:
            with job.log.open(errors="replace") as log:
                log.seek(job.log_begins_at)
                unfinished = ""
                while True:
                    alive = job.is_alive()
                    *lines, unfinished = (unfinished + log.read()).split("\n")
                    for line in lines:
                        told(line)
                    if not alive:
                        break
                    if self.stops_asked:
                        raise StopAsked
                    if time.monotonic() > watch.started + within:
                        raise Trouble(f"{job.name} took longer than {within:.0f} s.", f"Read {job.log}.")
                    self.pause(0.05)
        finally:
            job.stop()
            self.watches.remove(watch)
        if job.process is None or job.process.returncode != 0:
            raise Trouble(f"{job.name} failed ({job.fate()}).", f"Read {job.log}.")

    def watch(self) -> None:
        """Keep everything running until a signal asks for the stop."""
        while not self.stops_asked:
            now = time.monotonic()
            for watch in self.watches:
                self.look_after(watch, now)
            if now - self.logs_looked_at > LOG_LOOK_SECONDS:
                self.logs_looked_at = now
                for watch in self.watches:
                    watch.child.bound_log()
            self.pause(TICK_SECONDS)

    def look_after(self, watch: Watch, now: float) -> None:
        """One look at one child: notice its death, start it again when due, tell when it is back."""
        child = watch.child
        if watch.due is None and not child.is_alive():
            if now - watch.started > self.calm_seconds:
                watch.delay = self.first_delay
            watch.due = now + watch.delay
            say(f"{child.name} died ({child.fate()}). Starting it again in {watch.delay:g} s.")
            watch.delay = min(watch.delay * 2, self.longest_delay)
        elif watch.due is not None and now >= watch.due:
            self.start_again(watch, now)
        elif watch.announce and child.is_ready():
            watch.announce = False
            say(f"{child.name} runs again.")

    def start_again(self, watch: Watch, now: float) -> None:
        watch.due, watch.started, watch.announce = None, now, True
        try:
            watch.child.spawn()
        except (Trouble, OSError) as error:
            watch.due = now + watch.delay
            say(f"{watch.child.name} cannot be started: {error} Trying again in {watch.delay:g} s.")
            watch.delay = min(watch.delay * 2, self.longest_delay)
        self.write_record()

    def write_record(self) -> None:
        try:
            children.write_record(self.record, [watch.child for watch in self.watches])
        except OSError as error:
            say(f"Cannot write {self.record}: {error.strerror}.")

    def stop(self, *groups: Sequence[Child]) -> None:
        """Stop the children group by group; those of a group together. One more signal kills the rest."""
        asked_before = self.stops_asked
        for group in groups:
            for child in group:
                child.ask_to_stop()
            begun = time.monotonic()
            while alive := [child for child in group if child.is_alive()]:
                hurry = self.stops_asked > asked_before
                self.hurried = self.hurried or hurry
                for child in alive:
                    if hurry or time.monotonic() - begun > child.stop_seconds:
                        if not hurry:
                            say(f"{child.name} did not stop in time and was killed.")
                        child.kill()
                self.pause(0.05)
        self.write_record()

    def farewell(self, seconds: float) -> str:
        """The last line for the person, who knows why what was killed was killed."""
        return "Stopped at once." if self.hurried else f"Stopped in {seconds:.1f} s."
