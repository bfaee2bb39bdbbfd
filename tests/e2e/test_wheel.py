"""What a user gets: the wheel, installed with the runtime lock into an empty environment, works."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

from tests.wheels import PACKAGES, build, run

ROOT = Path(__file__).resolve().parents[2]
UV = uv.find_uv_bin()
SUPPORTED = tuple((3, minor) for minor in range(11, 15))  # for a newer one the lock may hold no wheels yet
OTHER = "newest other CPython"

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]


def install(python: Path, *arguments: str | Path, cwd: Path) -> None:
    """Install with uv: from its cache where that has everything, from the configured registry otherwise."""
    command = [UV, "pip", "install", "--quiet", "--link-mode", "hardlink", "--python", python, *arguments]
    offline = subprocess.run([*map(str, command), "--offline"], cwd=cwd, capture_output=True, timeout=300, check=False)
    if offline.returncode:
        run(*command, cwd=cwd)


def identify(python: str | Path) -> tuple[tuple[int, int], Path] | None:
    """Version and true path of an interpreter that runs and is a released, ordinary CPython that we support."""
    code = (
        "import json, platform, sys, sysconfig; print(json.dumps([sys.version_info[:2], sys.executable,"
        " platform.python_implementation() == 'CPython' and sys.version_info.releaselevel == 'final'"
        " and not sysconfig.get_config_var('Py_GIL_DISABLED')]))"
    )
    try:
        done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, timeout=30, check=True)
        (major, minor), executable, usable = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # a shim for a version that is not there
    version = (int(major), int(minor))
    return (version, Path(executable)) if usable and version in SUPPORTED else None


@functools.cache
def newest_other() -> Path | None:
    """The newest CPython of this machine that is not the running version, from uv, PATH and pyenv."""
    command = [UV, "python", "list", "--only-installed", "--offline", "--output-format", "json"]
    listed = subprocess.run(command, capture_output=True, timeout=60, check=False)
    candidates: list[str | Path] = [found["path"] for found in json.loads(listed.stdout or "[]")]
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED]
    candidates += [path for name in names if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates += [path for name in names for path in pyenv.glob(f"versions/*/bin/{name}")]
    found = {entry for entry in map(identify, dict.fromkeys(map(str, candidates))) if entry}
    others = sorted(entry for entry in found if entry[0] != sys.version_info[:2])
    return others[-1][1] if others else None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module", params=["the running Python", OTHER])
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the runtime lock and the wheel, and nothing else."""
    interpreter = newest_other() if request.param == OTHER else Path(sys.executable)
    if interpreter is None:
        wanted = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED if (major, minor) != sys.version_info[:2])
        pytest.skip(f"NOT TESTED ON A SECOND PYTHON: this machine has no CPython of {wanted}")
    place = tmp_path_factory.mktemp("installed")
    run(UV, "venv", "--quiet", "--python", interpreter, place / "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    install(python, "--require-hashes", "-r", ROOT / "requirements" / "runtime.txt", cwd=place)
    install(python, "--no-deps", wheel, cwd=place)
    return python


def test_the_wheel_holds_the_three_packages_their_type_markers_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name.partition("/")[0] for name in names} - set(PACKAGES)
    assert len(info) == 1, info
    (dist_info,) = info
    assert dist_info.endswith(".dist-info")
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert f"{dist_info}/licenses/LICENSE" in names


def test_the_runtime_lock_is_all_that_the_wheel_needs(environment: Path) -> None:
    run(UV, "pip", "check", "--python", environment, cwd=environment.parent)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_installed_package_is_imported_from_the_environment_with_its_types(environment: Path, package: str) -> None:
    code = f"import {package}, pathlib; print(pathlib.Path({package}.__file__).parent)"
    place = Path(run(environment, "-I", "-W", "error", "-c", code, cwd=environment.parent).strip())
    assert place.is_relative_to(environment.parents[1])
    assert (place / "py.typed").is_file()


def test_every_name_that_revo_offers_is_there_once_installed(environment: Path) -> None:
    code = "import revo; print([name for name in getattr(revo, '__all__', ()) if not hasattr(revo, name)])"
    assert run(environment, "-I", "-c", code, cwd=environment.parent).strip() == "[]"


def test_the_installed_command_shows_its_help(environment: Path) -> None:
    assert "Usage" in run(environment.with_name("revo"), "--help", cwd=environment.parent)


def test_the_installed_command_knows_its_version(environment: Path) -> None:
    code = "from importlib.metadata import version; print(version('revo-mesh'))"
    version = run(environment, "-I", "-c", code, cwd=environment.parent).strip()
    assert version in run(environment.with_name("revo"), "--version", cwd=environment.parent)
