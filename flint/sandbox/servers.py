"""A real PostgreSQL and a real Valkey from Python wheels, each in a folder of its own, on loopback only.

Both are for laptops and tests: `DATABASE_URL` and `REDIS_URL` name the servers of a production. A server is a
Child with what it needs around it: its data, its password, its port (chosen once, and anew when taken).

    with servers.postgres(folder) as database:
        database.url, database.pid, database.restart("immediate"), database.kill()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flint.sandbox.postgres import Postgres
from flint.sandbox.valkey import Valkey


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running PostgreSQL; its data stays in the folder (`remove()` deletes it)."""
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def valkey(folder: Path) -> Iterator[Valkey]:
    """A running Valkey; its data stays in the folder (`remove()` deletes it)."""
    server = Valkey(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
