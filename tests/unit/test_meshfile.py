"""A mesh file says which actors run; every mistake in it is one line with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.meshfile import MeshFile, line_of
from bus.errors import ConfigError

GOOD = """\
[server]
port = 0

[actors.code-analyst]   # reviews
target = "actors.agents.code_analyst:CodeAnalyst"
count = 2

[actors.code-analyst.settings]
root = "src"

[actors."echo"]
target = "examples/echo_agent.py:Echo"

[supervision]
max_restarts = 3
"""


def load(tmp_path: Path, text: str) -> MeshFile:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return MeshFile.load(path)


def test_a_good_file_says_what_runs(tmp_path: Path) -> None:
    mesh = load(tmp_path, GOOD)
    assert mesh.actors["code-analyst"].count == 2
    assert mesh.actors["code-analyst"].settings == {"root": "src"}
    assert mesh.actors["echo"].count == 1
    assert mesh.supervision.max_restarts == 3


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("count = 2", "count = 0"), 6, "actors.code-analyst.count: Input should be greater than or equal to 1"),
        (("count = 2", "cuont = 2"), 6, "actors.code-analyst.cuont: unknown key"),
        (("max_restarts = 3", 'max_restarts = "x"'), 15, "supervision.max_restarts: Input should be a valid integer"),
        (('target = "examples/echo_agent.py:Echo"', ""), 11, "actors.echo.target: is missing"),
        (("port = 0", "port = 99999"), 2, "server.port"),
        (("echo_agent.py:Echo", "echo_agent.py"), 12, "must look like package.module:Class"),
        (("[server]", "[sever]"), 1, "sever: unknown key"),
        (("count = 2", "count = = 2"), 6, "invalid value"),
        (('"echo"', '"no.dots"'), 1, "cannot be used in a subject"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(*change))
    text = str(caught.value)
    assert "\n" not in text
    if "no.dots" not in change[1]:
        assert text.startswith(f"{tmp_path}/mesh.toml:{line}: "), text
    assert says in text


def test_a_file_that_is_not_there_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        MeshFile.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="actors: is missing"):
        load(tmp_path, "")


def test_the_default_is_what_comes_with_revo() -> None:
    assert list(MeshFile.default().actors) == ["code-analyst", "security-guardian"]


def test_dotted_and_inline_keys_are_found_as_near_as_can_be() -> None:
    assert line_of("a.b = 1\na.c = 2\n", ["a", "c"]) == 2
    assert line_of("[a]\nb = {c = 1}\n", ["a", "b", "c"]) == 2
    assert line_of("x = 1\n", ["y"]) == 1
