"""Settings come from the environment, once; a wrong one names its variable and shows no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bus.errors import BusError, ConfigError, NoMeshError
from bus.settings import Settings, redact


def test_a_setting_is_read_from_its_variable_and_empty_means_the_default() -> None:
    settings = Settings.from_env({"REVO_DEADLINE": "12.5", "REVO_BACKOFF": "", "REVO_UNKNOWN": "x"})
    assert (settings.deadline, settings.backoff) == (12.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("REVO_DEADLINE", "soon"), ("REVO_DEADLINE", "-1"), ("REVO_DEADLINE", "inf"), ("REVO_MAX_ATTEMPTS", "0")],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        Settings.from_env({name: value})


def test_an_illegal_client_is_refused() -> None:
    with pytest.raises(BusError, match="client"):
        Settings.from_env({"REVO_CLIENT": "a.b"})


def test_a_password_in_a_url_is_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"REVO_NATS_URL": "http://me:secret-word@host"})
    assert "secret-word" not in str(caught.value)
    assert redact("nats://me:secret-word@host:4222") == "nats://host:4222"
    assert redact("nats://host:4222") == "nats://host:4222"


def test_the_mesh_is_found_by_setting_else_by_its_file(tmp_path: Path) -> None:
    assert Settings(nats_url="nats://there:1", home=tmp_path).find_url() == "nats://there:1"
    with pytest.raises(NoMeshError, match="revo up"):
        Settings(home=tmp_path).find_url()
    (tmp_path / "mesh.json").write_text(json.dumps({"url": "nats://here:2"}))
    assert Settings(home=tmp_path).find_url() == "nats://here:2"
    (tmp_path / "mesh.json").write_text("{")
    with pytest.raises(NoMeshError):
        Settings(home=tmp_path).find_url()
