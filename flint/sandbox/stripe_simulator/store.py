"""The durable store: one SQLite file, so that a restart forgets nothing.

An object is kept as the JSON that Stripe would answer. Beside it are its `notes`: what only the simulator knows of it,
as how a saved card will behave. Every request is one transaction.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]

TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    sequence INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, notes TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS objects_of_kind ON objects (kind, sequence);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY, event TEXT NOT NULL, due_at REAL, attempts INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'pending', answer TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS deliveries_pending ON deliveries (due_at, id) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS deliveries_of_event ON deliveries (event);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL, request_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS later (
    id INTEGER PRIMARY KEY, due_at REAL NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


class Store:
    """`url` is where the simulator answers; `request` is what events say about the request that caused them."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error when the file cannot be used."""
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.row_factory = sqlite3.Row
        # A killed process loses nothing that was committed; only a power failure could.
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.executescript(TABLES)
        self.url = ""
        self.request: Json = {"id": None, "idempotency_key": None}

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def now(self) -> int:
        return int(time.time())

    def add(self, body: Json, **notes: Any) -> Json:
        self.database.execute(
            "INSERT INTO objects (id, kind, body, notes) VALUES (?, ?, ?, ?)",
            (body["id"], body["object"], json.dumps(body), json.dumps(notes)),
        )
        return body

    def save(self, body: Json) -> Json:
        self.database.execute("UPDATE objects SET body = ? WHERE id = ?", (json.dumps(body), body["id"]))
        return body

    def find(self, kind: str, id_: str) -> Json | None:
        row = self.database.execute("SELECT body FROM objects WHERE id = ? AND kind = ?", (id_, kind)).fetchone()
        return None if row is None else json.loads(row["body"])

    def get(self, kind: str, id_: str) -> Json:
        """An object that another one refers to, so it is there."""
        body = self.find(kind, id_)
        if body is None:
            raise LookupError(f"no {kind} {id_}")
        return body

    def notes(self, id_: str) -> Json:
        row = self.database.execute("SELECT notes FROM objects WHERE id = ?", (id_,)).fetchone()
        return {} if row is None else json.loads(row["notes"])

    def note(self, id_: str, **changes: Any) -> None:
        self.database.execute("UPDATE objects SET notes = ? WHERE id = ?", (json.dumps(self.notes(id_) | changes), id_))

    def select(
        self, kind: str, where: Mapping[str, Any] | None = None, *, created: Mapping[str, int] | None = None
    ) -> list[Json]:
        """The objects with these values, the newest first. `created` has the bounds gt, gte, lt and lte."""
        clauses, values = ["kind = ?"], [kind]
        for path, value in (where or {}).items():
            clauses.append("json_extract(body, ?) = ?")
            values += [f"$.{path}", value]
        for bound, moment in (created or {}).items():
            sign = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[bound]
            clauses.append(f"json_extract(body, '$.created') {sign} ?")
            values.append(moment)  # type: ignore[arg-type]
        statement = f"SELECT body FROM objects WHERE {' AND '.join(clauses)} ORDER BY sequence DESC"  # noqa: S608
        return [json.loads(row["body"]) for row in self.database.execute(statement, values)]

    def let_days_pass(self, days: int) -> None:
        """All that there is was made so many days earlier."""
        self.database.execute(
            "UPDATE objects SET body = json_set(body, '$.created', json_extract(body, '$.created') - ?)",
            (days * 24 * 3600,),
        )

    def forget(self) -> None:
        """Begin again with nothing; only where events go to stays."""
        for table in ("objects", "deliveries", "answers", "later"):
            self.database.execute(f"DELETE FROM {table}")  # noqa: S608  # Of the names above.
        self.database.execute("DELETE FROM switches WHERE name <> 'webhook'")

    def switch(self, name: str, default: Any = None) -> Any:
        row = self.database.execute("SELECT value FROM switches WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row["value"])

    def set_switch(self, name: str, value: Any) -> None:
        self.database.execute(
            "INSERT INTO switches VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, json.dumps(value)),
        )

    def plan(self, action: str, object_id: str, *, seconds: float) -> None:
        """Have it done later, also by the next process."""
        self.database.execute(
            "INSERT INTO later (due_at, action, object) VALUES (?, ?, ?)", (time.time() + seconds, action, object_id)
        )

    def take_due(self) -> tuple[str, str] | None:
        """The next thing that is due: its action and its object; it is given once."""
        row = self.database.execute(
            "DELETE FROM later WHERE id = (SELECT id FROM later WHERE due_at <= ? ORDER BY due_at, id LIMIT 1) "
            "RETURNING action, object",
            (time.time(),),
        ).fetchone()
        return None if row is None else (row["action"], row["object"])
