"""`make compose-up|compose-test|compose-down`: the mesh of docker-compose.yml, and the proof that it loses nothing.

The test submits through a plain NATS client, kills a container in the middle of its tasks, counts the results, reads
the trace of a task that was redelivered from Jaeger's API, and sees that all are well and may do what they must.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.load import CLIENT, Load, say, see_no_violation, see_well, sum_of, trace_of, until

ROOT = Path(__file__).parents[2]
NATS, JAEGER, PROMETHEUS = "nats://127.0.0.1:4222", "http://127.0.0.1:16686", "http://127.0.0.1:9090"
AGENT = 10001
"""The user that containers run as where we are root, who must not be theirs."""


class Compose:
    """One project of docker-compose, with keys of its own."""

    def __init__(self, home: Path, mesh: Path, files: list[str]) -> None:
        self.home = home.absolute()
        self.keys = self.home / "keys"
        self._mesh = mesh
        self._tool = _tool()
        self._files = [part for name in files for part in ("-f", name)]
        uid, gid = (AGENT, AGENT) if os.getuid() == 0 else (os.getuid(), os.getgid())
        self.env = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": f"revo-{self.home.name.strip('.')}",
            "REVO_KEYS": str(self.keys),
            "REVO_DATA": str(self.home / "nats"),
            "REVO_TOPOLOGY": str(self.home / "topology.json"),
            "REVO_UID": str(uid),
            "REVO_GID": str(gid),
        }
        self._owner = (uid, gid)

    def prepare(self) -> None:
        """Make the keys and folders that the containers are given."""
        home = {"REVO_HOME": str(self.home)}
        self._revo("keys", "init", "--mesh", str(self._mesh), env=home)
        self._revo("keys", "add", CLIENT, "--role", "submitter", "--submits", "*", env=home)
        (self.home / "topology.json").write_text(self._revo("topology", "export", str(self._mesh), env=home))
        (self.home / "nats").mkdir(exist_ok=True)
        if os.getuid() == 0:
            for path in [self.home, *self.home.rglob("*")]:
                os.chown(path, *self._owner)

    def _revo(self, *arguments: str, env: dict[str, str]) -> str:
        command = [sys.executable, "-m", "revo", *arguments]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, check=True, text=True, stdout=-1).stdout

    def run(self, *arguments: str) -> str:
        """Run docker-compose; its output."""
        command = [*self._tool, *self._files, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.env, check=False, text=True, stdout=-1, stderr=-1)
        if done.returncode != 0:
            said = done.stdout[-2000:] + done.stderr[-4000:]
            sys.exit(f"compose: {' '.join(arguments)} ended with {done.returncode}:\n{said}")
        return done.stdout

    def up(self) -> None:
        """Build, start, and wait until every container that says how it is says that it is well."""
        self.run("build", "topology")  # before what is made from it: compose does not see that it is
        self.run("build")
        self.run("up", "-d")
        until("containers that are well", self._well)

    def _well(self) -> bool:
        found = self.run("ps", "-q").split()
        states = json.loads(_docker("inspect", *found))
        ended = [state["Name"] for state in states if state["State"].get("ExitCode") and not state["State"]["Running"]]
        assert not ended, f"ended with an error: {ended}"
        health = [state["State"].get("Health", {}).get("Status", "healthy") for state in states]
        return all(one == "healthy" for one in health)


def _tool() -> list[str]:
    if given := os.environ.get("COMPOSE"):
        return given.split()
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        return ["docker", "compose"]
    sys.exit("compose: there is neither docker-compose nor docker here")


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, text=True, stdout=-1).stdout


async def prove(compose: Compose) -> None:
    """Submit, kill, count, look at a trace, at who is well, and at the counts."""
    load = Load(NATS, compose.keys)
    await load.open()
    try:
        await load.submit(200)
        say(f"200 tasks done: {sorted(set(await load.check()))} deliveries each")
        slow = await load.submit(8, seconds=6.0)
        await asyncio.sleep(2)  # noqa: TID251  (they begin)
        victim = compose.run("ps", "-q", "greeter").split()[0]
        _docker("kill", "--signal", "KILL", victim)
        say("killed one of two greeters in the middle of its tasks")
        await load.submit(200)
        deliveries = await load.check()
        again = [one for one, times in zip(load.sent, deliveries, strict=True) if times > 1]
        say(f"{len(deliveries)} tasks, {len(deliveries)} results, {len(again)} of them delivered again after the kill")
        redelivered = [one for one in slow if one in again]
        assert redelivered, "nobody was in the middle of a task"
        announced = sum(load.done.values())
        assert announced == len(load.sent), f"{announced} announced"
        _show_trace(redelivered[0].trace_id)
    finally:
        await load.close()
    system = {"revo-registry", "revo-steward", "revo-memory", "revo-bridge"}
    actors = {*system, "code-analyst", "security-guardian", "greeter"}
    see_well(NATS, compose.home, actors)
    see_no_violation(compose.run("logs", "--no-color"))
    query = 'sum(revo_tasks_total{capability="greet",outcome="succeeded"})'
    counted = until("tasks in Prometheus", lambda: sum_of(PROMETHEUS, query))
    say(f"Prometheus counts {counted:g} greetings in the containers that live; NATS holds {_streams():g} streams")


def _show_trace(trace_id: str) -> None:
    spans = trace_of(JAEGER, trace_id, spans=2)
    for span in spans:
        shown = ("service.instance.id", "revo.deliveries", "revo.queue_wait", "revo.outcome", "error")
        said = "  ".join(f"{key.rpartition('.')[2]} {span['tags'][key]}" for key in shown if key in span["tags"])
        say(f"  {span['service']:12} {span['name']:16} {span['seconds']:7.3f} s  {said}")
    assert {span["service"] for span in spans} == {"greeter"}
    ended = [span for span in spans if span["tags"].get("revo.outcome") == "succeeded"]
    assert len(ended) == 1, spans
    assert ended[0]["tags"]["revo.deliveries"] > 1
    assert ended[0]["tags"]["service.version"] == "1.0.0"
    assert any(span["tags"].get("error") for span in spans), "the attempt that died is part of the story"
    say(f"trace {trace_id} tells of both attempts in Jaeger")


def _streams() -> float:
    return float(until("streams in Prometheus", lambda: sum_of(PROMETHEUS, "max(jetstream_server_total_streams)")))


def main() -> int:
    """0 when all of it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("up", "test", "down"))
    parser.add_argument("--keep", action="store_true", help="leave it running after the test")
    given = parser.parse_args()
    testing = given.what == "test"
    home = ROOT / (".revo/compose-test" if testing else ".revo/compose")
    home.mkdir(parents=True, exist_ok=True)
    mesh = ROOT / ("deploy/compose/test.toml" if testing else "deploy/compose/mesh.toml")
    compose = Compose(home, mesh, ["docker-compose.yml", *(["deploy/compose/test.yml"] if testing else [])])
    if given.what == "down":
        compose.run("down")
        return 0
    compose.prepare()
    if not testing:
        compose.up()
        say(f"up: NATS on 4222, Jaeger on {JAEGER}, Prometheus on {PROMETHEUS}")
        return 0
    try:
        compose.up()
        say("every container is well")
        asyncio.run(prove(compose))
        say("compose-test: nothing lost, nothing twice")
    except BaseException:
        print(compose.run("logs", "--tail", "15"), file=sys.stderr)  # noqa: T201
        raise
    finally:
        if not given.keep:
            compose.run("down", "--volumes")
            shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
