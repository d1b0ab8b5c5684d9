"""The data folder, the ports and the faults a newcomer meets: one sentence each, through the real command."""

import os
import pwd
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flint.sandbox import bootstrap, commands, embedded, folder, ports, stack
from flint.sandbox.trouble import Trouble

# The command itself, without its first part that makes the virtual environment: we are in one.
RUN = """
import sys
from flint.sandbox import bootstrap, commands
bootstrap.enter = lambda kind: None
sys.exit(commands.carry_out(sys.argv[1], []))
"""


def free_port() -> str:
    with socket.create_server((ports.LOOPBACK, 0)) as probe:
        return str(probe.getsockname()[1])


def run(command: str, data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, command],
        cwd=bootstrap.ROOT,
        env={**os.environ, "FLINT_ENV": "sandbox", "FLINT_DATA": str(data), "PORT": free_port(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a refused command said: one line, and no traceback."""
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    said = sentence(run("run", tmp_path / "data"))
    assert said.startswith(f"The data folder {tmp_path / 'data'} cannot be used")
    assert "FLINT_DATA=" in said


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in sentence(run("run", tmp_path / "file" / "data"))


def test_a_part_of_the_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "demo-backend").touch()
    assert "demo-backend" in sentence(run("run", tmp_path))


@pytest.mark.parametrize("command", ["run", "reset"])
def test_a_folder_of_another_user_is_refused_before_anything_is_done(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(bootstrap, "enter", pytest.fail)
    monkeypatch.setenv("FLINT_ENV", "sandbox")
    monkeypatch.setenv("FLINT_DATA", str(tmp_path))
    assert commands.carry_out(command, []) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"The data folder {tmp_path} belongs to {owner}, and you are ")
    assert f"Run this as {owner}, or choose another folder: FLINT_DATA=" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can give a folder away.")
def test_root_is_refused_in_a_users_folder_and_may_own_one_with_parts_of_another(tmp_path: Path) -> None:
    os.chown(tmp_path, 65_534, -1)
    assert "and you are root" in sentence(run("run", tmp_path))
    os.chown(tmp_path, 0, -1)
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 65_534, -1)
    folder.insist_on_owner(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"two words"])
@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_a_damaged_password_is_told_with_its_file(tmp_path: Path, server: str, content: bytes) -> None:
    (tmp_path / server).mkdir()
    path = tmp_path / server / "password"
    path.write_bytes(content)
    with pytest.raises(Trouble, match=rf"The file {path} cannot be used: .*Put it back, or start afresh: .*make reset"):
        embedded.secret_of(path.parent)


def test_a_damaged_password_is_one_sentence_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "password").write_bytes(b"\xff")
    said = sentence(run("run", tmp_path, DATABASE_URL="postgresql://there/flint", REDIS_URL=""))
    assert f"FLINT_DATA={tmp_path} make reset" in said


def test_a_password_that_was_put_back_with_a_newline_is_taken(tmp_path: Path) -> None:
    password = embedded.secret_of(tmp_path)
    (tmp_path / "password").write_text(password + "\n")
    assert embedded.secret_of(tmp_path) == password


def test_a_file_that_may_not_be_read_is_not_answered_with_a_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Trouble, match="may not be read by") as caught:
        folder.text_of(tmp_path / "sandbox.env")
    assert "reset" not in str(caught.value)


def test_a_second_supervisor_is_told_about_the_first(tmp_path: Path) -> None:
    first = folder.DataFolder(tmp_path)
    first.say_who_runs("http://127.0.0.1:8123/")
    said = sentence(run("run", tmp_path))
    assert f"process {os.getpid()}, http://127.0.0.1:8123/" in said
    first.lock.close()


def test_a_taken_port_names_who_has_it_and_the_next(tmp_path: Path) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        said = sentence(run("run", tmp_path, PORT=str(port)))
    assert said.startswith(f"Port {port} is taken by ")
    assert f"(process {os.getpid()})" in said
    assert f"PORT={port + 1} make run" in said


@pytest.mark.parametrize("port", ["eight", "-1", "0", "00000", "²", "65536", "100000"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    with pytest.raises(Trouble, match=rf"PORT={port} is not a port\. Give a number from 1 to 65535"):
        ports.public(port)


def test_a_port_that_is_none_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "PORT=0 is not a port" in sentence(run("run", tmp_path, PORT="0"))


def test_production_is_refused(tmp_path: Path) -> None:
    assert "FLINT_ENV is production" in sentence(run("run", tmp_path, FLINT_ENV="production"))


def test_an_unreadable_settings_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "sandbox.env").write_bytes(b"\xff\xfe")
    assert "make reset" in sentence(run("run", tmp_path))


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    data = folder.DataFolder(tmp_path)
    first = data.secrets()
    data.keep({**first, "SITE_URL": "http://127.0.0.1:8000"})
    assert data.secrets() == {**first, "SITE_URL": "http://127.0.0.1:8000"}
    assert set(first) == {"SECRET_KEY", "FLINT_CREDENTIAL_KEYS"}
    assert len(first["SECRET_KEY"]) >= 50
    assert stat.S_IMODE((tmp_path / "sandbox.env").stat().st_mode) == 0o600
    data.lock.close()


def test_lost_keys_matter_only_beside_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLINT_CREDENTIAL_KEYS", raising=False)
    (tmp_path / "sandbox.env").write_text("SECRET_KEY=kept\nFLINT_CREDENTIAL_KEYS=\n")
    data = folder.DataFolder(tmp_path)
    assert data.kept() == {"SECRET_KEY": "kept"}
    assert stack.keys_are_lost(data.kept(), tmp_path)
    assert not stack.keys_are_lost(data.kept(), tmp_path / "none")
    assert not stack.keys_are_lost(data.secrets(), tmp_path)
    data.lock.close()


def test_reset_is_refused_while_a_sandbox_runs(tmp_path: Path) -> None:
    data = folder.DataFolder(tmp_path)
    data.keep({})
    assert "Ctrl-C" in sentence(run("reset", tmp_path))
    assert (tmp_path / "sandbox.env").exists()
    data.lock.close()


def test_reset_deletes_what_the_sandbox_wrote_and_nothing_else(tmp_path: Path) -> None:
    data = folder.DataFolder(tmp_path)
    data.keep({})
    data.lock.close()
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run("reset", tmp_path)
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "thesis.txt" in done.stdout


def test_reset_deletes_a_folder_that_is_all_ours(tmp_path: Path) -> None:
    data = folder.DataFolder(tmp_path / "data")
    data.keep({})
    data.lock.close()
    assert run("reset", tmp_path / "data").returncode == 0
    assert not (tmp_path / "data").exists()
    assert run("reset", tmp_path / "data").returncode == 0


def test_a_private_port_is_remembered_until_it_is_taken(tmp_path: Path) -> None:
    port = ports.remembered(tmp_path / "port")
    assert ports.remembered(tmp_path / "port") == port
    with socket.create_server((ports.LOOPBACK, port)):
        assert ports.remembered(tmp_path / "port") != port


@pytest.mark.parametrize("note", ["", "none", "80", "-5"])
def test_a_damaged_note_of_a_port_is_replaced(tmp_path: Path, note: str) -> None:
    (tmp_path / "port").write_text(note)
    assert ports.remembered(tmp_path / "port") in ports.PRIVATE_PORTS


@pytest.mark.parametrize("name", ["WEB_PROCESSES", "FLINT_DRAIN_SECONDS"])
def test_a_setting_that_is_no_number(tmp_path: Path, name: str) -> None:
    assert f"{name}=many" in sentence(run("run", tmp_path, **{name: "many"}))


def test_a_reset_is_named_with_the_folder_that_it_deletes() -> None:
    assert folder.reset_command(bootstrap.ROOT / ".flint") == "make reset"
    assert folder.reset_command(Path("/my data")) == "FLINT_DATA='/my data' make reset"


def test_the_banner_is_short_and_its_curl_line_can_be_pasted() -> None:
    facts: dict[str, object] = {
        "url": "http://127.0.0.1:8000/",
        "api_base": "http://127.0.0.1:8000/v1",
        "admin": {"email": "admin@example.test", "password": "one"},
        "customer": {"email": "demo@example.test", "password": "two"},
        "api_key": "tk-abc",
    }
    text = stack.banner(facts, Path("/data"), 3.21)
    assert len(text.strip().splitlines()) <= 10
    assert "/data   (FLINT_DATA=/data make reset deletes it)" in text
    line = next(line for line in text.splitlines() if "curl" in line)
    words = shlex.split(line.partition("curl")[2])
    assert words[0] == "http://127.0.0.1:8000/v1/chat/completions"
    assert "Authorization: Bearer tk-abc" in words
    assert '"deepseek-v4-flash"' in words[-1]


def test_an_unusable_sandbox_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=r"sandbox\.json is not usable"):
        stack.facts_of(tmp_path)


def test_a_folder_that_others_use_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "somebody's file").touch()

    opened = folder.DataFolder(shared)

    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    opened.lock.close()
