from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.demo_backend.process import AT_ONCE, DemoBackend


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBackend]:
    """One demo backend for all tests, as fast as it can."""
    backend = DemoBackend(tmp_path_factory.mktemp("demo") / "journal.jsonl", *AT_ONCE)
    yield backend
    backend.stop()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., DemoBackend]]:
    """Starts a demo backend with these options; the same journal for all that one test starts."""
    journal = tmp_path_factory.mktemp("demo") / "journal.jsonl"
    started: list[DemoBackend] = []

    def start_one(*options: str) -> DemoBackend:
        started.append(DemoBackend(journal, *options))
        return started[-1]

    yield start_one
    for backend in started:
        if backend.process.poll() is None:
            backend.stop()
