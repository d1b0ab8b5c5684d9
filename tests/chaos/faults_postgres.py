"""Faults of PostgreSQL: restarted, crashed, away, frozen, slow, full, locked, cut off."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import quantiles

import psutil
import psycopg
from psycopg import errors

from tests.chaos.ledger import Call
from tests.chaos.scene import Fault, Scene, Skipped, frozen

DATABASE_WAIT = 9.0  # A hung one is given up after 2 s of the pool and 6 s of an answer.
SMALL_DISK_BYTES = 2 * 2**30
MIGRATION_LOCK_SECONDS = 5  # lock_timeout of manage.py, so that a migration fails before customers do.


def restarted(scene: Scene) -> None:
    """pg_ctl restart -m fast."""
    scene.product.postgres.restart("fast")


def crashed(scene: Scene) -> None:
    """pg_ctl stop -m immediate, and its recovery."""
    scene.product.postgres.stop("immediate")
    scene.hold(full=2, short=1)
    scene.wait_for_refusal()
    scene.product.postgres.start()


def killed(scene: Scene) -> None:
    """kill -9 of the postmaster."""
    scene.product.postgres.kill()
    scene.hold(full=2, short=1)
    scene.wait_for_refusal()
    scene.product.postgres.start()


def down_for_seconds(scene: Scene) -> None:
    _down(scene, full=10)


def down_for_a_minute(scene: Scene) -> None:
    _down(scene, full=60)


def _down(scene: Scene, *, full: float) -> None:
    """Away; calls get 503 at once, streams end by the rule, records wait."""
    scene.product.postgres.stop("fast")
    scene.hold(full=full, short=6)
    scene.product.postgres.start()


def host_frozen(scene: Scene) -> None:
    """Postmaster and backends stand still: connections stay open and nobody answers."""
    with frozen(scene.product.postgres.pid, family=True):
        scene.hold(full=20, short=6)


def backends_frozen(scene: Scene) -> None:
    """Only the backends stand still; new connections are answered, but meet the locks of the old."""
    backends = [process.pid for process in _backends(scene)]
    with ExitStack() as stopped:
        for pid in backends:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                stopped.enter_context(frozen(pid))
        scene.note(f"{len(backends)} backends")
        scene.hold(full=15, short=5)


def slow(scene: Scene) -> None:
    """Each answer comes half a second late, to gateway one."""
    scene.product.database_proxy.delay(0.5)
    try:
        scene.hold(full=10, short=4)
    finally:
        scene.product.database_proxy.restore()


def cut_off(scene: Scene) -> None:
    """The network resets all connections of gateway one and refuses new ones."""
    scene.product.database_proxy.cut()
    try:
        scene.hold(full=10, short=3)
    finally:
        scene.product.database_proxy.restore()


def connections_exhausted(scene: Scene) -> None:
    """Strangers take every connection, also those that the gateways had, or are about to have again."""
    url = scene.product.postgres.url
    with ExitStack() as strangers:
        first = strangers.enter_context(psycopg.connect(url, autocommit=True))
        taken = 1 + _take_connections(url, strangers)
        ends_at = time.monotonic() + (3 if scene.short else 12)
        while time.monotonic() < ends_at:
            first.execute(_EVICT)
            taken += _take_connections(url, strangers)
            time.sleep(0.01)
    scene.note(f"{taken} connections taken")


def _take_connections(url: str, strangers: ExitStack) -> int:
    """All that there are; how many."""
    for taken in itertools.count():
        try:
            strangers.enter_context(psycopg.connect(url))
        except psycopg.OperationalError:
            return taken
    raise AssertionError


def wallet_locked(scene: Scene) -> None:
    """One wallet is locked for long: its customer is refused soon, the others notice nothing."""
    begun_at = time.time()
    with psycopg.connect(scene.product.postgres.url) as database:
        database.execute(_LOCK_WALLET, [scene.cast.streams.account_id])
        locked_at = time.time()
        scene.hold(full=30, short=5)
        healed_at = time.time()
        database.rollback()
    others = scene.cast.questions.account_id
    before = _slowest_twentieth(scene.calls_sent_in(0, begun_at), others)
    during = _slowest_twentieth(scene.calls_sent_in(locked_at, healed_at), others)
    scene.note(f"others' p95 {before * 1000:.0f} ms before, {during * 1000:.0f} ms during")
    scene.expect(during < max(3 * before, before + 0.5), "one locked wallet slows other customers down")


def migration_wants_a_lock(scene: Scene) -> None:
    """ALTER TABLE behind a long reader: the migration gives up, customers wait no longer than it does."""
    with psycopg.connect(scene.product.postgres.url) as reader, psycopg.connect(scene.product.postgres.url) as database:
        reader.execute("SELECT count(*) FROM billing_hold")
        database.execute(f"SET lock_timeout = '{MIGRATION_LOCK_SECONDS}s'")
        try:
            database.execute("ALTER TABLE billing_hold ADD COLUMN chaos integer")
            scene.expect(False, "the migration got its lock beside a reader")
        except errors.LockNotAvailable:
            scene.note("the migration gave up")
        database.rollback()
        reader.rollback()


def disk_full(scene: Scene) -> None:
    """No byte is left for PostgreSQL's data, write-ahead log included. Comes last: the data stay on the small disk."""
    place = _move_to_small_disk(scene)
    used = shutil.disk_usage(place).used
    with _size(place, used):
        scene.hold(full=15, short=6)
    _start_if_it_gave_up(scene)


def _move_to_small_disk(scene: Scene) -> Path:
    postgres = scene.product.postgres
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("only root may mount a small disk")
    owner = pwd.getpwnam(postgres.account or "root")
    place = postgres.cluster
    postgres.stop("fast")
    before = place.rename(place.with_name("cluster.before"))
    place.mkdir()
    options = f"size={SMALL_DISK_BYTES},mode=0700,uid={owner.pw_uid},gid={owner.pw_gid}"
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(place)], check=False)  # noqa: S607
        if mounted.returncode != 0:
            place.rmdir()
            before.rename(place)
            raise Skipped("root may not mount a small disk here")
        scene.product.small_disk = place
        subprocess.run(["cp", "-a", f"{before}/.", str(place)], check=True)  # noqa: S607
    finally:
        postgres.start()
    return place


@contextmanager
def _size(place: Path, size: int) -> Iterator[None]:
    """The disk has this size for a while."""

    def remount(wanted: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={wanted}", str(place)], check=True)  # noqa: S607

    remount(size)
    try:
        yield
    finally:
        remount(SMALL_DISK_BYTES)


def _start_if_it_gave_up(scene: Scene) -> None:
    """A full write-ahead log is a PANIC; whoever supervises PostgreSQL starts it again."""
    postgres = scene.product.postgres
    if not postgres.child.is_alive():
        scene.note("PostgreSQL gave up")
        postgres.start()


def _backends(scene: Scene) -> list[psutil.Process]:
    """The processes that serve clients."""
    rows = scene.sql(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return [psutil.Process(pid) for (pid,) in rows if psutil.pid_exists(pid)]


def _slowest_twentieth(calls: Sequence[Call], account_id: int) -> float:
    waits = [call.waited for call in calls if call.account_id == account_id and call.waited is not None]
    return quantiles(waits, n=20)[-1] if len(waits) > 1 else 0.0


_EVICT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name LIKE 'gateway%' AND pid <> pg_backend_pid()
"""

_LOCK_WALLET = "SELECT FROM billing_wallet WHERE account_id = %s FOR UPDATE"


FAULTS = (
    Fault("postgres-restarted", "restart -m fast", restarted),
    Fault("postgres-crashed", "stop -m immediate, start", crashed, refuses=True),
    Fault("postgres-killed", "kill -9 of the postmaster", killed, refuses=True),
    Fault("postgres-down", "away for 10 s", down_for_seconds, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("postgres-down-long", "away for 60 s", down_for_a_minute, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("postgres-frozen", "SIGSTOP of all its processes", host_frozen, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("postgres-stuck", "SIGSTOP of its backends", backends_frozen, longest_wait=DATABASE_WAIT),
    Fault("postgres-slow", "answers half a second late", slow, longest_wait=DATABASE_WAIT),
    Fault("postgres-cut-off", "connections reset and refused", cut_off, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("postgres-crowded", "connections exhausted", connections_exhausted, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("wallet-locked", "one wallet locked for 30 s", wallet_locked, refuses=True, longest_wait=DATABASE_WAIT),
    Fault("migration-lock", "ALTER TABLE behind a reader", migration_wants_a_lock, longest_wait=DATABASE_WAIT),
    Fault("disk-full", "no byte left for PostgreSQL", disk_full, refuses=True),
)
