"""The data folder, the ports and the faults a newcomer meets: one sentence each, through the real command."""

import os
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flint.sandbox import bootstrap, folder, ports, stack
from flint.sandbox.trouble import Trouble

# The command itself, without its first part that makes the virtual environment: we are in one.
RUN = """
import sys
from flint.sandbox import bootstrap, commands
bootstrap.enter = lambda kind: None
sys.exit(commands.carry_out(sys.argv[1], []))
"""


def run(command: str, data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, command],
        cwd=bootstrap.ROOT,
        env={**os.environ, "FLINT_ENV": "sandbox", "FLINT_DATA": str(data), "PORT": "0", **variables},
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


@pytest.mark.parametrize("port", ["eight", "-1", "70000"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    assert f"PORT={port} is not a port" in sentence(run("run", tmp_path, PORT=port))


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
    line = next(line for line in text.splitlines() if "curl" in line)
    words = shlex.split(line.partition("curl")[2])
    assert words[0] == "http://127.0.0.1:8000/v1/chat/completions"
    assert "Authorization: Bearer tk-abc" in words
    assert '"deepseek-v4-flash"' in words[-1]


def test_an_unusable_sandbox_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=r"sandbox\.json is not usable"):
        stack.facts_of(tmp_path)
