"""`make k8s-test`: overlays/dev in the cluster of kubectl's current context, and the proof that it loses nothing.

Renders the mesh file of examples/pod with its keys, applies it, submits through a plain NATS client, kills a pod in the
middle of its tasks, rolls the Deployments while tasks come in, counts the results, reads a trace from Jaeger's API, and
sees that all are well and may do what they must. The images `revo` and `greeter` must be where the cluster finds them.
KUBECTL names another kubectl.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster import free_ports
from tests.deploy.load import CLIENT, Greeted, Load, fetch, say, see_no_violation, see_well, trace_of, until

ROOT = Path(__file__).parents[2]
MESH = ROOT / "examples/pod/mesh.toml"
NAMESPACE = "revo"
SYSTEM = ("revo-steward", "revo-registry", "revo-memory", "revo-bridge")
OURS = "revo/k8s-test"
"""The label of a namespace that this test may delete."""


def kubectl(*arguments: str, timeout: float = 300.0) -> str:
    """Run it in the namespace; its output."""
    command = [*os.environ.get("KUBECTL", "kubectl").split(), "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, text=True, stdout=-1, stderr=-1, timeout=timeout)
    if done.returncode != 0:
        sys.exit(f"k8s-test: kubectl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def revo(home: Path, *arguments: str) -> None:
    """Run the command line with a home of its own."""
    env = {**os.environ, "REVO_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "revo", *arguments], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)


def claim() -> None:
    """Make the namespace ours. One that is somebody else's is left alone: at the end it is deleted."""
    found = kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "json")
    if found and json.loads(found)["metadata"].get("labels", {}).get(OURS) != "true":
        sys.exit(f"k8s-test: there is a namespace {NAMESPACE} that is not this test's, which would delete it")
    kubectl("apply", "-f", str(ROOT / "deploy/k8s/base/namespace.yaml"))
    kubectl("label", "namespace", NAMESPACE, f"{OURS}=true", "--overwrite")


def apply(home: Path, overlay: str) -> None:
    """Everything from nothing, as docs/deploy.md says it."""
    revo(home, "k8s", "render", "--mesh", str(MESH), "--out", str(home / "k8s"))
    revo(home, "keys", "init", "--mesh", str(MESH))
    revo(home, "keys", "add", CLIENT, "--role", "submitter", "--submits", "*")
    revo(home, "keys", "show", "--kubernetes", str(home / "manifests"))
    kubectl("apply", "-f", str(home / "manifests"))
    kubectl("apply", "-k", str(home / "k8s/overlays" / overlay))
    say("applied")
    kubectl("rollout", "status", "statefulset/nats", "--timeout", "240s")
    kubectl("wait", "--for=condition=Complete", "job", "--all", "--timeout", "240s")
    for name in kubectl("get", "deployments", "-o", "name").split():
        kubectl("rollout", "status", name, "--timeout", "240s")
    say(f"all is ready: {_pods()}")


def _pods() -> str:
    items = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
    names = [item["metadata"]["name"] for item in items if item["status"]["phase"] == "Running"]
    restarts = sum(status["restartCount"] for item in items for status in item["status"].get("containerStatuses", ()))
    return f"{len(names)} pods, {restarts} restarts"


@contextlib.contextmanager
def forward(service: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to the service's."""
    (local,) = free_ports(1)
    command = [*os.environ.get("KUBECTL", "kubectl").split(), "--namespace", NAMESPACE, "port-forward"]
    process = subprocess.Popen([*command, f"service/{service}", f"{local}:{port}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "Forwarding" in process.stdout.readline(), f"no way to {service}"
        yield local
    finally:
        process.terminate()
        process.wait()


async def kill_a_pod(load: Load) -> list[Greeted]:
    """In the middle of its tasks: it has one second, and they take six. Returns those that ran again."""
    slow = await load.submit(8, seconds=6.0)
    await asyncio.sleep(2)  # noqa: TID251  (they begin)
    victim = kubectl("get", "pods", "-l", "app.kubernetes.io/name=greeter", "-o", "name").split()[0]
    await asyncio.to_thread(kubectl, "delete", victim, "--grace-period", "1")
    deliveries = await load.check()
    again = [one for one, times in zip(load.sent, deliveries, strict=True) if times > 1 and one in slow]
    assert again, "nobody was in the middle of a task"
    say(f"{victim} killed with tasks in hand: {len(again)} of {len(slow)} ran elsewhere, all have one result")
    return again


async def roll(load: Load) -> None:
    """Every process of the agents and of the system is replaced while tasks come in."""
    before, retries = len(load.sent), load.retries
    rolling = asyncio.create_task(asyncio.to_thread(_roll))
    while not rolling.done():
        await load.submit(5, seconds=0.2)
        await asyncio.sleep(0.2)  # noqa: TID251  (a steady stream)
    await rolling
    deliveries = (await load.check())[before:]
    assert set(deliveries) == {1}, f"a drain hands nothing back that it can finish: {deliveries}"
    assert load.retries == retries, f"{load.retries - retries} submits were not answered"
    say(f"rolled while {len(deliveries)} tasks came in: one result and one delivery each, no error to the submitter")


def _roll() -> None:
    for name in ("greeter", *SYSTEM):
        kubectl("rollout", "restart", f"deployment/{name}")
        kubectl("rollout", "status", f"deployment/{name}", "--timeout", "240s")


def show_trace(jaeger: str, trace_id: str) -> None:
    """Both attempts of a task, in the pods where they ran."""
    spans = trace_of(jaeger, trace_id, spans=2)
    shown = ("service.instance.id", "k8s.pod.name", "revo.deliveries", "revo.queue_wait", "revo.outcome", "error")
    for span in spans:
        said = "  ".join(f"{key.rpartition('.')[2]} {span['tags'][key]}" for key in shown if key in span["tags"])
        say(f"  {span['service']:8} {span['name']:14} {span['seconds']:7.3f} s  {said}")
    (ended,) = [span for span in spans if span["tags"].get("revo.outcome") == "succeeded"]
    tags: dict[str, Any] = ended["tags"]
    assert tags["k8s.namespace.name"] == NAMESPACE
    assert tags["k8s.pod.name"].startswith("greeter-")
    assert tags["service.version"] == "1.0.0"
    assert tags["revo.deliveries"] > 1
    assert any(span["tags"].get("error") for span in spans), "the attempt that died is part of the story"
    say(f"trace {trace_id} tells of both attempts in Jaeger")


async def prove(home: Path) -> None:
    """All of it."""
    with forward("nats", 4222) as nats, forward("jaeger", 16686) as ui:
        jaeger = f"http://127.0.0.1:{ui}"
        load = Load(f"nats://127.0.0.1:{nats}", home / "keys")
        await load.open()
        try:
            await load.submit(200)
            say(f"200 tasks done: {sorted(set(await load.check()))} deliveries each")
            again = await kill_a_pod(load)
            await roll(load)
            show_trace(jaeger, again[0].trace_id)
            until("services in Jaeger", lambda: "greeter" in (fetch(f"{jaeger}/api/services") or {}).get("data", []))
        finally:
            await load.close()
        await asyncio.to_thread(see_well, load.url, home, {"greeter", *SYSTEM})
    see_no_violation("".join(kubectl("logs", pod) for pod in kubectl("get", "pods", "-o", "name").split()))


def main() -> int:
    """0 when all of it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the namespace after the test")
    parser.add_argument("--overlay", default="dev")
    given = parser.parse_args()
    home = ROOT / ".revo/k8s-test"
    home.mkdir(parents=True, exist_ok=True)
    claim()
    try:
        apply(home, given.overlay)
        asyncio.run(prove(home))
        say("k8s-test: nothing lost, nothing twice")
    finally:
        if not given.keep:
            kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout", "120s")
            shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
