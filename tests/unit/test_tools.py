"""The checks of `tools/` turn red for what they are there to find, and name file and line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.check import main as check
from tools.check_hosts import HOSTS

ROOT = Path(__file__).resolve().parents[2]


def run(tool: str, root: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A copy of what `check_lock` reads."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty git repository."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, capture_output=True)
    return tmp_path


# ------------------------------------------------------------------------------------------------ check_lock
def test_the_locks_are_in_step_with_pyproject() -> None:
    assert run("check_lock.py", ROOT) == (0, "")


def test_a_lock_that_lags_behind_pyproject_is_reported(locked: Path) -> None:
    edit(locked / "pyproject.toml", '"rich>=', '"a-new-dependency>=1",\n    "rich>=')
    code, report = run("check_lock.py", locked)
    assert code == 1
    for lock in ("requirements/lock.txt", "requirements/runtime.txt"):
        assert f"{lock}:1: made from other dependencies" in report
        assert f"{lock}:1: no pin for `a-new-dependency>=1`" in report


def test_a_pin_below_what_pyproject_asks_for_is_reported_with_both_versions(locked: Path) -> None:
    edit(locked / "pyproject.toml", '"rich>=', '"rich>=9')
    code, report = run("check_lock.py", locked)
    assert code == 1
    assert "does not satisfy `rich>=9" in report


def test_the_digest_alone_does_not_make_a_lock_good(locked: Path) -> None:
    edit(locked / "pyproject.toml", '"rich>=', '"rich>=9')
    code, report = run("check_lock.py", locked, "--write")
    assert code == 1
    assert "made from other dependencies" not in report
    assert "does not satisfy" in report


def test_a_change_of_tool_settings_leaves_the_lock_in_step(locked: Path) -> None:
    edit(locked / "pyproject.toml", "line-length = ", "line-length = 1")
    assert run("check_lock.py", locked) == (0, "")


def test_a_pin_without_a_hash_is_reported(locked: Path) -> None:
    with (locked / "requirements/lock.txt").open("a", encoding="utf-8") as lock:
        lock.write("unhashed==1.0\n")
    code, report = run("check_lock.py", locked)
    assert (code, report.count("\n")) == (1, 1)
    assert report.endswith(": unhashed has no hash\n")


def test_a_requirement_that_is_not_pinned_is_reported(locked: Path) -> None:
    edit(locked / "requirements/runtime.txt", "rich==", "rich>=")
    code, report = run("check_lock.py", locked)
    assert code == 1
    assert "rich is not pinned to one version" in report


def test_an_index_address_in_a_lock_is_reported(locked: Path) -> None:
    with (locked / "requirements/runtime.txt").open("a", encoding="utf-8") as lock:
        lock.write("--extra-index" + "-url https://packages.example/simple\n")
    code, report = run("check_lock.py", locked)
    assert code == 1
    assert "an address; a lock names no index" in report


def test_a_missing_lock_is_reported(locked: Path) -> None:
    (locked / "requirements/runtime.txt").unlink()
    assert run("check_lock.py", locked) == (1, "requirements/runtime.txt:1: missing; run `make lock`\n")


# ----------------------------------------------------------------------------------------------- check_hosts
def test_the_repository_names_no_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository: nothing says which files belong to it")
    assert run("check_hosts.py", ROOT) == (0, "")


@pytest.mark.parametrize("host", HOSTS)
def test_a_registry_host_is_reported_with_file_and_line(repository: Path, host: str) -> None:
    (repository / "deploy").mkdir()
    (repository / "deploy" / "image").write_text(f"FROM scratch\nRUN get https://files.{host}/simple\n", "utf-8")
    assert run("check_hosts.py", repository) == (1, f"deploy/image:2: files.{host}\n")


def test_a_tracked_file_is_searched_as_an_untracked_one_is(repository: Path) -> None:
    (repository / "a.txt").write_text(HOSTS[0], "utf-8")
    subprocess.run(["git", "add", "a.txt"], cwd=repository, check=True)
    assert run("check_hosts.py", repository) == (1, f"a.txt:1: {HOSTS[0]}\n")


@pytest.mark.parametrize("option", ["--index" + "-url {}", "extra-index" + '-url = "{}"', "PIP_INDEX" + "_URL={}"])
def test_an_index_option_is_reported_whatever_its_host(repository: Path, option: str) -> None:
    (repository / "pip.conf").write_text(option.format("https://packages.example/simple"), "utf-8")
    code, report = run("check_hosts.py", repository)
    assert code == 1
    assert report.startswith("pip.conf:1: ")


def test_what_git_ignores_is_not_searched(repository: Path) -> None:
    (repository / ".gitignore").write_text(".venv/\n", "utf-8")
    (repository / ".venv").mkdir()
    (repository / ".venv" / "METADATA").write_text(HOSTS[0], "utf-8")
    assert run("check_hosts.py", repository) == (0, "")


def test_a_name_that_only_ends_alike_is_no_registry(repository: Path) -> None:
    (repository / "a.txt").write_text(f"my-{HOSTS[0]} and {HOSTS[0]}anization, pypi, crates", "utf-8")
    assert run("check_hosts.py", repository) == (0, "")


# ----------------------------------------------------------------------------------------------------- check
def test_every_check_is_told_also_when_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def saying(text: str, status: int) -> list[str]:
        return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({status})"]

    checks = {"good": saying("nothing", 0), "bad": saying("file:1: wrong", 1), "offline": saying("no network", 3)}
    assert check(checks) == 1
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert words == [
        ["good", "ok"],
        ["bad", "FAILED"],
        ["file:1:", "wrong"],
        ["offline", "NOT", "DONE"],
        ["no", "network"],
    ]
    del checks["bad"]
    assert check(checks) == 0
