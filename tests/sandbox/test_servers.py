"""PostgreSQL and Valkey from wheels: state, kill -9, and what an earlier life may leave behind."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flint.sandbox import ports, privileges, servers
from flint.sandbox.postgres import Postgres
from flint.sandbox.trouble import Trouble
from flint.sandbox.valkey import Valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder below one that PostgreSQL's account can pass when we are root."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path) / "postgres"
        privileges.remove_outside(Path(path) / "postgres")


@pytest.fixture
def closed_folder(folder: Path) -> Path:
    """A folder below one that nobody but us can pass."""
    folder.parent.chmod(0o700)
    return folder


@pytest.fixture
def database(folder: Path) -> Iterator[Postgres]:
    with servers.postgres(folder) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Valkey]:
    with servers.valkey(tmp_path / "valkey") as server:
        yield server


def write_row(database: Postgres) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('Łódź')")


def read_row(database: Postgres) -> object:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT word FROM kept").fetchone()
    return row[0] if row else None


def setting(database: Postgres, name: str) -> object:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    return row[0] if row else None


def test_rows_survive_a_second_start(folder: Path) -> None:
    with servers.postgres(folder) as database:
        write_row(database)
        first_url = database.url
    with servers.postgres(folder) as database:
        assert read_row(database) == "Łódź"
        assert database.url == first_url


def test_rows_survive_kill_9(database: Postgres) -> None:
    write_row(database)
    database.kill()
    database.start()
    assert read_row(database) == "Łódź"


def test_rows_survive_a_crash_in_front_of_a_new_owner(folder: Path, database: Postgres) -> None:
    write_row(database)
    database.kill()
    # The next owner may come while helpers of the killed server still end.
    with servers.postgres(folder) as second:
        assert read_row(second) == "Łódź"


def test_an_immediate_restart_keeps_rows_and_gives_a_new_process(database: Postgres) -> None:
    write_row(database)
    pid = database.pid
    database.restart("immediate")
    assert read_row(database) == "Łódź"
    assert database.pid != pid


def test_it_is_durable_on_loopback_and_asks_for_the_password(database: Postgres) -> None:
    assert setting(database, "fsync") == "on"
    assert setting(database, "synchronous_commit") == "on"
    assert setting(database, "listen_addresses") == "127.0.0.1"
    assert setting(database, "unix_socket_directories") == ""
    assert setting(database, "TimeZone") == "UTC"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.url.replace(database.password, "wrong"))


def test_a_pid_file_that_names_a_living_stranger_does_not_stop_the_start(folder: Path) -> None:
    with servers.postgres(folder) as database:
        write_row(database)
        pid_file = database.cluster / "postmaster.pid"
        left = pid_file.read_text()
    # The same user, since PostgreSQL ignores the processes of others.
    with subprocess.Popen(["/bin/sleep", "300"], user=database.account, cwd="/") as stranger:
        pid_file.write_text(left.replace(left.split()[0], str(stranger.pid), 1))
        with servers.postgres(folder) as database:
            assert read_row(database) == "Łódź"
        assert stranger.poll() is None
        stranger.kill()


def test_an_empty_pid_file_does_not_stop_the_start(folder: Path) -> None:
    with servers.postgres(folder) as database:
        pid_file = database.cluster / "postmaster.pid"
    pid_file.touch()
    with servers.postgres(folder) as database:
        assert setting(database, "fsync") == "on"


def test_a_half_made_cluster_is_made_anew(folder: Path) -> None:
    server = Postgres(folder)
    (server.home / "cluster.unfinished").mkdir()
    (server.home / "cluster.unfinished" / "PG_VERSION").write_text("18\n")
    server.start()
    assert setting(server, "fsync") == "on"
    server.stop()


@pytest.mark.parametrize("lost", ["PG_VERSION", "global/pg_control", "global"])
def test_a_damaged_cluster_is_one_sentence_with_a_remedy(folder: Path, lost: str) -> None:
    with servers.postgres(folder) as database:
        pass
    (database.cluster / lost).rename(folder / "lost")
    with pytest.raises(Trouble, match=r"is damaged: .*database system is shut down.*make reset"):
        Postgres(folder).start()


def test_a_cluster_that_postgres_refuses_is_told_in_its_own_words(folder: Path) -> None:
    with servers.postgres(folder) as database:
        pass
    (database.cluster / "pg_hba.conf").unlink()
    with pytest.raises(Trouble, match=r"PostgreSQL does not start: .*pg_hba\.conf.*make reset"):
        Postgres(folder).start()


def test_a_taken_port_is_replaced(folder: Path) -> None:
    with servers.postgres(folder) as database:
        port = database.port
    with socket.create_server((ports.LOOPBACK, port)), servers.postgres(folder) as database:
        assert database.port != port
        assert setting(database, "port") == str(database.port)


def test_a_socket_path_would_have_been_too_long(folder: Path) -> None:
    with servers.postgres(folder / ("deep" * 10) / ("deeper" * 10)) as database:
        assert setting(database, "fsync") == "on"
    database.remove()


def test_a_closed_folder_works_for_root_and_is_removed_with_its_place_outside(closed_folder: Path) -> None:
    with servers.postgres(closed_folder) as database:
        write_row(database)
        assert (database.home == closed_folder) == (os.geteuid() != 0)
    with servers.postgres(closed_folder) as database:
        assert read_row(database) == "Łódź"
        database.kill()
        database.start()
    with servers.postgres(closed_folder) as database:
        assert read_row(database) == "Łódź"
    database.remove()
    assert not database.home.exists()
    assert not closed_folder.exists()


def test_a_place_outside_without_its_folder_is_removed_by_the_next(closed_folder: Path) -> None:
    orphan = Postgres(closed_folder / "orphan")
    shutil.rmtree(closed_folder / "orphan")
    Postgres(closed_folder / "next").remove()
    assert not orphan.home.exists()


def test_keys_survive_kill_9_and_a_second_start(tmp_path: Path, store: Valkey) -> None:
    with redis.Redis.from_url(store.url) as client:
        client.set("word", "kept")
        client.execute_command("WAITAOF", 1, 0, 5000)
    store.kill()
    store.start()
    store.restart()
    with redis.Redis.from_url(store.url) as client:
        assert client.get("word") == b"kept"


def test_valkey_asks_for_the_password_and_never_evicts(store: Valkey) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=store.port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(store.url) as client:
        assert client.config_get("*") | {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "bind": "127.0.0.1",
        } == client.config_get("*")


def test_a_damaged_append_only_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "valkey") as store, redis.Redis.from_url(store.url) as client:
        client.set("word", "kept")
    for file in (tmp_path / "valkey" / "appendonlydir").glob("*.manifest"):
        file.write_text("nonsense\n")
    with pytest.raises(Trouble, match=r"Valkey does not start: .*make reset"):
        Valkey(tmp_path / "valkey").start()


def test_two_databases_of_a_valkey_are_apart(store: Valkey) -> None:
    with redis.Redis.from_url(store.url) as first, redis.Redis.from_url(store.numbered(1)) as second:
        first.set("word", "kept")
        assert second.get("word") is None
