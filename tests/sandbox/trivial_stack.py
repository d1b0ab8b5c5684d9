"""A supervisor over children from a file, for tests: python -m tests.sandbox.trivial_stack FOLDER.

FOLDER/children.txt has one child a line: name, a tab, seconds it may take to stop, a tab, a shell command that
says "up" when it is ready.
"""

import sys
from functools import partial
from pathlib import Path

from flint.sandbox import children, folder
from flint.sandbox.supervisor import Supervisor, say
from flint.sandbox.trouble import Trouble


def has_said_up(child: children.Child) -> bool:
    return "up" in child.written()


def main() -> int:
    data = folder.DataFolder(Path(sys.argv[1]))
    record = data.path / "children.json"
    for name in children.end_leftovers(record, patience_seconds=0.5):
        say(f"ended {name}")
    supervisor = Supervisor(record, first_delay=0.2, longest_delay=0.8)
    supervisor.listen_to_signals()
    starting = []
    for line in (data.path / "children.txt").read_text().splitlines():
        name, stop_seconds, command = line.split("\t")
        child = children.Child(
            name=name,
            command=["/bin/sh", "-c", command],
            log=data.logs / f"{name}.log",
            folder=data.path,
            stop_seconds=float(stop_seconds),
        )
        child.is_ready = partial(has_said_up, child)
        starting.append(child)
    try:
        supervisor.start(*starting, within=10)
        say("ready")
        supervisor.watch()
    except Trouble as trouble:
        say(str(trouble))
        return 1
    finally:
        supervisor.stop(*[[child] for child in starting])
    say(supervisor.farewell(0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
