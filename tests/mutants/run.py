"""The run: every mutant in a copy of the tree of its own, where its named test must fail.

The copies share one PostgreSQL and one Valkey. Each has a database of its own there, empty until it migrates it, and
Redis databases of its own: so a mutant may change a migration, but no named test may flush all of Redis.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier
from redis.asyncio import Redis

from flint.sandbox.bootstrap import ROOT
from tests.mutants.mutant import Mutant, Stale

AT_ONCE = min(os.cpu_count() or 1, 7)  # Each needs two of the sixteen databases of a Redis; the first two are taken.
LONGEST_SECONDS = 600  # Of one run of pytest. A test that hangs is ended long before, by pytest-timeout.
LAST_LINES = 25
Job: TypeAlias = Mutant | Sequence[str]  # To be caught; or tests, to pass on the tree as it is.
CAUGHT, SURVIVED, BROKEN, SOUND = "caught", "SURVIVED", "BROKEN", "sound"
# What begins with a dot belongs to tools; a compiled module that is being written this moment has a number at its end.
NOT_COPIED = shutil.ignore_patterns(".*", "*.pyc.*")
PYTEST = (
    *(sys.executable, "-m", "pytest", "-p", "no:tests.servers", "-p", "no:cacheprovider"),
    *("--quiet", "--no-header", "--tb=short", "--maxfail=1", "-rfE"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant, or of named tests on the tree as it is. `words` say why."""

    name: str
    ending: str
    words: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.ending in (CAUGHT, SOUND)


@dataclass(frozen=True, slots=True)
class Tested:
    """How pytest ended. Without a code, it was ended for taking too long."""

    code: int | None
    output: str
    seconds: float

    @property
    def failure(self) -> str | None:
        """What the failed test said, in a line. A fixture that breaks is an error, not a failure."""
        return next((line for line in self.output.splitlines() if line.startswith("FAILED ")), None)

    @property
    def last_lines(self) -> str:
        how = f"It took longer than {LONGEST_SECONDS} s." if self.code is None else f"pytest ended with {self.code}."
        return "\n".join([how, *self.output.splitlines()[-LAST_LINES:]])


class Run:
    """`environment` is what the tests need; it names the servers. `tell` hears each verdict as it comes."""

    def __init__(self, folder: Path, environment: Mapping[str, str], tell: Callable[[Verdict], None]) -> None:
        self._folder = folder
        self._environment = environment
        self._tell = tell
        self._tree = shutil.copytree(ROOT, folder / "tree", ignore=NOT_COPIED)  # Others may edit ours meanwhile.
        self._jobs: deque[Job] = deque()
        self._verdicts: list[Verdict] = []

    async def judge(self, jobs: Iterable[Job]) -> list[Verdict]:
        """Whether each mutant is caught, and whether tests pass on the tree as it is; a few at a time."""
        self._jobs.extend(jobs)
        async with asyncio.TaskGroup() as workers:
            for number in range(AT_ONCE):
                workers.create_task(self._work(number))
        return self._verdicts

    async def _work(self, number: int) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            verdict = await (self._mutant(job, number) if isinstance(job, Mutant) else self._as_it_is(job, number))
            self._verdicts.append(verdict)
            self._tell(verdict)

    async def _as_it_is(self, tests: Sequence[str], number: int) -> Verdict:
        done = await self._pytest(self._tree, tests, number)
        name = f"no mutant, {_folder_of(tests[0])}"
        if done.code == 0:
            return Verdict(name, SOUND, f"{len(tests)} named tests pass", done.seconds)
        return Verdict(name, BROKEN, done.last_lines, done.seconds)

    async def _mutant(self, mutant: Mutant, number: int) -> Verdict:
        tree = shutil.copytree(self._tree, self._folder / mutant.name, ignore=NOT_COPIED)
        try:
            mutant.apply(tree)
        except Stale as stale:
            return Verdict(mutant.name, BROKEN, str(stale), 0)
        done = await self._pytest(tree, [mutant.test], number)
        shutil.rmtree(tree)
        if done.code == 1 and done.failure is not None:
            return Verdict(mutant.name, CAUGHT, done.failure, done.seconds)
        if done.code == 0:
            return Verdict(mutant.name, SURVIVED, f"{mutant.breaks} And {mutant.test} passes.", done.seconds)
        return Verdict(mutant.name, BROKEN, done.last_lines, done.seconds)

    async def _pytest(self, tree: Path, tests: Sequence[str], number: int) -> Tested:
        started = time.monotonic()
        environment = await self._servers_of(number)
        with tempfile.TemporaryFile() as words:
            process = await asyncio.create_subprocess_exec(
                *PYTEST, *tests, cwd=tree, env=environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=words, stderr=words, start_new_session=True,
            )  # fmt: skip
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await process.wait()
            except TimeoutError:
                pass
            finally:
                # With everything that a mutant may have left behind.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            words.seek(0)
            output = words.read().decode(errors="replace")
        return Tested(process.returncode, output, time.monotonic() - started)

    async def _servers_of(self, number: int) -> dict[str, str]:
        """The environment of a run: a new database, and two Redis databases that are empty."""
        environment = {**os.environ, **self._environment, "FLINT_DATA": str(self._folder / "data"), "COLUMNS": "200"}
        name = f"mutants_{number}"
        async with await AsyncConnection.connect(environment["DATABASE_URL"], autocommit=True) as database:
            await database.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
            await database.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        environment["DATABASE_URL"] = _numbered(environment["DATABASE_URL"], name)
        redis = environment["REDIS_URL"]
        for variable, at in (("REDIS_URL", 2 + 2 * number), ("CELERY_BROKER_URL", 3 + 2 * number)):
            environment[variable] = _numbered(redis, str(at))
            async with Redis.from_url(environment[variable]) as client:
                await client.flushdb()
        return environment


def named_tests(mutants: Iterable[Mutant]) -> list[list[str]]:
    """The tests of the mutants, by folder."""
    return [list(tests) for _, tests in groupby(sorted({mutant.test for mutant in mutants}), key=_folder_of)]


def _folder_of(test: str) -> str:
    return str(Path(test.partition("::")[0]).parent)


def _numbered(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()
