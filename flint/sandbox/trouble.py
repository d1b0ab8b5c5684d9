"""Trouble: a fault that the person at the terminal can mend, shown as a sentence and never as a traceback."""


class Trouble(Exception):
    """Says what is wrong and then what to do about it."""

    def __init__(self, wrong: str, remedy: str) -> None:
        super().__init__(f"{wrong} {remedy}")
