"""The supervisor over trivial children: real processes, real signals, a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flint.sandbox import bootstrap, children

SLEEP = "echo up; exec sleep 300"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    assert children.wait_for(lambda: bool(condition()), seconds), "it did not happen in time"


class Stack:
    """One run of the trivial stack and what it said."""

    def __init__(self, folder: Path, *rows: tuple[str, float, str]) -> None:
        self.folder = folder
        (folder / "children.txt").write_text("".join(f"{name}\t{stop}\t{line}\n" for name, stop, line in rows))
        self.runs: list[subprocess.Popen[bytes]] = []

    def start(self, *, until_ready: bool = True) -> "Stack":
        self.output = self.folder / f"output-{len(self.runs)}"
        with self.output.open("wb") as output:
            command = [sys.executable, "-m", "tests.sandbox.trivial_stack", str(self.folder)]
            self.runs.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=bootstrap.ROOT)
            )
        if until_ready:
            until(lambda: "ready" in self.said() or self.runs[-1].poll() is not None)
            assert "ready" in self.said()
        return self

    def said(self) -> str:
        return self.output.read_text()

    def signal(self, number: int) -> None:
        self.runs[-1].send_signal(number)

    def end(self) -> int:
        return self.runs[-1].wait(15)

    def children(self) -> dict[str, psutil.Process]:
        entries = json.loads((self.folder / "children.json").read_text())
        return {entry["name"]: psutil.Process(entry["pid"]) for entry in entries}


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(*rows: tuple[str, float, str]) -> Stack:
        made.append(Stack(tmp_path, *rows))
        return made[-1]

    yield make
    for stack in made:
        for run in stack.runs:
            run.kill()
            run.wait()
        children.end_leftovers(stack.folder / "children.json", patience_seconds=0.5)


def test_sigterm_stops_every_child_and_is_a_success(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("one", 5, SLEEP), ("two", 5, SLEEP)).start()
    processes = stack.children()
    stack.signal(signal.SIGTERM)
    assert stack.end() == 0
    assert set(processes) == {"one", "two"}
    assert all(children.is_gone(process) for process in processes.values())
    assert "died" not in stack.said()


def test_a_child_may_finish_its_work_when_asked_to_stop(make_stack: Callable[..., Stack]) -> None:
    drain = "trap 'sleep 0.5; echo finished >> work; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    stack = make_stack(("drains", 10, drain)).start()
    stack.signal(signal.SIGINT)
    assert stack.end() == 0
    assert (stack.folder / "work").read_text() == "finished\n"
    assert "killed" not in stack.said()


def test_a_child_that_does_not_stop_is_killed_after_its_time(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("stubborn", 0.5, STUBBORN)).start()
    stubborn = stack.children()["stubborn"]
    stack.signal(signal.SIGTERM)
    assert stack.end() == 0
    assert children.is_gone(stubborn)
    assert "stubborn did not stop in time and was killed." in stack.said()


def test_a_second_signal_does_not_wait(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("stubborn", 300, STUBBORN)).start()
    stack.signal(signal.SIGINT)
    time.sleep(0.5)  # Two signals at the same moment count as one.
    stack.signal(signal.SIGINT)
    assert stack.end() == 0
    assert stack.said().splitlines() == ["ready", "Stopped at once."]


def test_a_dying_child_is_reported_and_restarted_with_growing_delays(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("steady", 5, SLEEP), ("weak", 5, "echo up; sleep 0.3; echo out of luck; exit 3")).start()
    until(lambda: stack.said().count("weak died") >= 4)
    stack.signal(signal.SIGTERM)
    assert stack.end() == 0
    reports = [line for line in stack.said().splitlines() if "died" in line][:4]
    expected = "weak died (exit code 3; last line: out of luck). Starting it again in {} s."
    assert reports == [expected.format(delay) for delay in ("0.2", "0.4", "0.8", "0.8")]


def test_a_killed_child_comes_back(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("steady", 5, SLEEP), ("victim", 5, SLEEP)).start()
    before = stack.children()
    before["victim"].kill()
    until(lambda: "victim runs again." in stack.said())
    after = stack.children()
    assert after["steady"].pid == before["steady"].pid
    assert after["victim"].pid != before["victim"].pid
    assert "victim died (killed by SIGKILL). Starting it again in 0.2 s." in stack.said()


def test_a_child_that_ends_while_starting_fails_the_start(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("steady", 5, SLEEP), ("broken", 5, "echo no such option; exit 2"))
    stack.start(until_ready=False)
    assert stack.end() == 1
    assert stack.said().startswith("broken ended while starting (exit code 2; last line: no such option). Read ")
    assert stack.children() == {}


def test_kill_9_of_the_supervisor_leaves_nothing_that_stops_the_next_start(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(("obedient", 5, SLEEP), ("stubborn", 0.5, STUBBORN)).start()
    first = stack.children()
    stack.signal(signal.SIGKILL)
    stack.end()
    assert not children.is_gone(first["stubborn"])
    stack.start()
    assert all(children.is_gone(process) for process in first.values())
    assert "ended stubborn" in stack.said()
    stack.signal(signal.SIGTERM)
    assert stack.end() == 0


def test_on_linux_the_kernel_ends_the_children_of_a_killed_supervisor(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("obedient", 5, SLEEP)).start()
    obedient = stack.children()["obedient"]
    stack.signal(signal.SIGKILL)
    stack.end()
    if sys.platform == "linux":
        until(lambda: children.is_gone(obedient))


def test_a_stranger_with_the_process_id_of_a_former_child_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "300"]) as stranger:
        record = tmp_path / "children.json"
        born = psutil.Process(stranger.pid).create_time() - 60
        record.write_text(json.dumps([{"name": "old", "pid": stranger.pid, "born": born, "signal": 15}]))
        assert children.end_leftovers(record) == []
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("damaged", ["", "{", "[1]", '[{"pid": "x", "born": 1}]'])
def test_a_damaged_record_stops_nothing(tmp_path: Path, damaged: str) -> None:
    record = tmp_path / "children.json"
    record.write_text(damaged)
    assert children.end_leftovers(record) == []


def test_it_runs_with_all_standard_streams_closed(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(("steady", 5, SLEEP))
    command = 'exec "$0" -m tests.sandbox.trivial_stack "$1" <&- >&- 2>&-'
    stack.runs.append(
        subprocess.Popen(["/bin/sh", "-c", command, sys.executable, str(stack.folder)], cwd=bootstrap.ROOT)
    )
    until(lambda: (stack.folder / "children.json").exists() and stack.children())
    stack.signal(signal.SIGTERM)
    assert stack.end() == 0


@pytest.mark.parametrize(
    ("word", "advice"), [("Permission denied", "Mend the owner"), ("wrong ownership", "Mend the owner"), ("", "reset")]
)
def test_a_refusal_by_the_system_is_not_answered_with_a_reset(tmp_path: Path, word: str, advice: str) -> None:
    (tmp_path / "log").write_text(f"FATAL: cannot open it: {word}\n")
    child = children.Child(name="one", command=[], log=tmp_path / "log", remedy="make reset")
    assert advice in child.advice()
    assert ("reset" in child.advice()) == (word == "")


def test_a_long_log_is_cut_and_one_older_part_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 1000)
    log = tmp_path / "noisy.log"
    log.write_bytes(b"x" * 5000)
    child = children.Child(name="noisy", command=["/bin/sh", "-c", "echo hello"], log=log, folder=tmp_path)
    child.spawn()
    until(lambda: not child.is_alive())
    assert child.last_words() == "hello"
    assert os.path.getsize(log) < 100
    assert os.path.getsize(tmp_path / "noisy.log.1") == 1000
