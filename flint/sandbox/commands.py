"""What each command of the front door does, once the Python is new enough."""

import os
import sys
from collections.abc import Callable

from flint.sandbox import bootstrap, folder, programs
from flint.sandbox.trouble import Trouble


def run(arguments: list[str]) -> int:
    if os.environ.get("FLINT_ENV") == "production":
        raise Trouble(
            "FLINT_ENV is production, and the sandbox is not for production.",
            "Unset it to run the sandbox, or serve flint.asgi:application with your own servers.",
        )
    folder.insist_on_owner(folder.chosen())
    bootstrap.insist_on_platform()
    bootstrap.enter("sandbox")
    from flint.sandbox import stack

    return stack.run()


def test(arguments: list[str]) -> int:
    bootstrap.insist_on_platform()
    bootstrap.enter("dev")
    programs.install(programs.CHROMIUM, programs.CURL, programs.NODE, programs.NPM, programs.GO)
    chosen = arguments or ["-n", "logical", "--maxprocesses", "4"]  # One for each core; each has servers of its own.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *chosen])  # noqa: S606  No shell is wanted.


def chaos(arguments: list[str]) -> int:
    bootstrap.insist_on_platform()
    bootstrap.enter("dev")
    if "--list" not in arguments:
        programs.install(programs.FAKETIME)
    os.execv(sys.executable, [sys.executable, "-m", "tests.chaos", *arguments])  # noqa: S606  No shell is wanted.


def lint(arguments: list[str]) -> int:
    bootstrap.enter("dev")
    from flint.sandbox import lint as checks

    return checks.run()


def reset(arguments: list[str]) -> int:
    return folder.reset(folder.chosen())


def setup(arguments: list[str]) -> int:
    bootstrap.enter("dev")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "test": test,
    "chaos": chaos,
    "lint": lint,
    "reset": reset,
    "setup": setup,
}


def carry_out(command: str, arguments: list[str]) -> int:
    """The exit code of the command; trouble becomes one sentence on stderr."""
    try:
        return COMMANDS[command](arguments)
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The system refused: {error}. Mend that (permissions, a full disk) and start again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
