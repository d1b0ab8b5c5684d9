"""The front door of the sandbox: `python3 -m flint.sandbox COMMAND`.

It starts under whatever Python the machine calls python3, so this file keeps to the syntax of Python 3.6: an
older Python than the product needs must get a sentence, not a SyntaxError. Everything that needs a package
is imported after bootstrap has entered the virtual environment.
"""

import os
import shutil
import sys

OLDEST = (3, 11)
NEWEST_LOOKED_FOR = 14
USAGE = """usage: python3 -m flint.sandbox COMMAND

  run     the whole product on this machine (PORT=8000, FLINT_DATA=.flint)
  test    the tests; what follows goes to pytest
  chaos   the fault matrix against the running product; --short, --list
  lint    all static checks
  reset   delete the data folder
  setup   make the virtual environment for development and nothing else
"""
HELP = ("-h", "--help")


def newer_python() -> str:
    """The path of a Python on PATH that is new enough, or an empty string."""
    for minor in range(NEWEST_LOOKED_FOR, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    return ""


def insist_on_python(version: "tuple[int, ...]", arguments: "list[str]") -> None:
    """Go on only under a Python that is new enough: hand over to one on PATH, or say what is missing."""
    if version >= OLDEST:
        return
    newer = newer_python()
    if newer:
        os.execv(newer, [newer, "-m", "flint.sandbox", *arguments])  # noqa: S606  No shell is wanted.
    raise SystemExit(
        f"Flint needs Python 3.11 or newer, and this is {version[0]}.{version[1]}. "
        "Install one (Debian, Ubuntu: apt install python3.11 python3.11-venv) and start again."
    )


def asks_for_help(arguments: "list[str]") -> bool:
    # What follows `test` goes to pytest, which has a help of its own.
    return any(word in HELP for word in (arguments[:1] if arguments[:1] == ["test"] else arguments))


def main(arguments: "list[str]") -> int:
    if asks_for_help(arguments):
        sys.stdout.write(USAGE)
        return 0
    insist_on_python(tuple(sys.version_info[:2]), arguments)
    from flint.sandbox import commands

    if not arguments or arguments[0] not in commands.COMMANDS:
        sys.stderr.write(USAGE)
        return 2
    return commands.carry_out(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
