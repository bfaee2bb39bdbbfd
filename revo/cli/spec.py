"""`revo spec`: what a mesh says on the wire as AsyncAPI; what its capabilities take and give as JSON schemas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bus import subjects
from bus.errors import ConfigError
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, print_json, quiet_logs, run_async, say_line
from revo.cli.options import SpecForm, SpecWhat
from revo.spec import sources
from revo.spec.shapes import DIALECT
from revo.spec.sources import Capability, Found


def spec(
    what: SpecWhat, capability: str, targets: list[str], to: Path | None, *, url: str | None, form: SpecForm
) -> int:
    """Write the document; returns the exit status."""
    quiet_logs()
    if capability:
        subjects.token(capability, "capability")
    found, server = _offline(targets) if targets else run_async(_ask(capability, url), "asking the registry")
    if capability:
        found = Found([one for one in found.capabilities if one.name == capability], found.methods)
        if not found.capabilities:
            raise ConfigError(f"--capability {capability}", "nobody who was asked has it; `revo ps` shows who lives")
    if what is SpecWhat.SCHEMAS:
        return _schemas(found.capabilities, to, form)
    from revo.spec.document import document

    made = document(Found(found.capabilities, [*found.methods, *sources.system()]), server=server)
    if to is None:
        _print(made, form)
    else:
        _write(to, _text(made, form))
    return DONE


def _offline(targets: list[str]) -> tuple[Found, str]:
    sys.path.insert(0, str(Path.cwd()))  # as in `revo run`
    return sources.of_targets(targets), ""


async def _ask(capability: str, url: str | None) -> tuple[Found, str]:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-spec") as mesh:
        server = urlsplit(mesh.connection.url.partition(",")[0])
        return await sources.of_mesh(mesh, capability), f"{server.hostname}:{server.port or 4222}"


def _schemas(capabilities: list[Capability], to: Path | None, form: SpecForm) -> int:
    """The schemas as agents declare them: in one map by capability, or each in a file of its own."""
    if to is None:
        made = {
            one.name: {
                "agent": one.agent,
                "version": one.version,
                "message": _dated(one, "message"),
                "result": _dated(one, "result"),
            }
            for one in capabilities
        }
        _print(made, form)
        return DONE
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--to {to}", f"is no folder: {(error.strerror or str(error)).lower()}") from error
    written = [to / f"{one.name}.{part}.{form}" for one in capabilities for part in ("message", "result")]
    for one in capabilities:
        for part in ("message", "result"):
            _write(to / f"{one.name}.{part}.{form}", _text(_dated(one, part), form))
    if form is SpecForm.JSON:
        print_json([str(path) for path in written])
    else:
        say_line(f"{len(written)} schemas are in {to}")
    return DONE


def _dated(capability: Capability, part: str) -> dict[str, Any]:
    """A schema that says which dialect it is of."""
    return {"$schema": DIALECT, **getattr(capability, part)}


def _print(made: object, form: SpecForm) -> None:
    if form is SpecForm.JSON:
        print_json(made)
    else:
        sys.stdout.write(_text(made, form))


def _text(made: object, form: SpecForm) -> str:
    if form is SpecForm.JSON:
        return json.dumps(made, indent=2) + "\n"
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes out what stands in several places: other tools need not know YAML's anchors."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (yaml's own name)
            return True

    return yaml.dump(made, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--to {path}", f"cannot be written: {(error.strerror or str(error)).lower()}") from error
