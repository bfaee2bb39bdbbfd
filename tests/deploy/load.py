"""Load from a plain NATS client, and what became of it: each task's one result, and a trace as Jaeger shows it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from bus.audit import audit
from bus.credentials import Credentials
from bus.mesh import Mesh
from bus.settings import Settings

CLIENT = "shop"
_BEGAN = time.monotonic()


def say(text: str) -> None:
    """A line of the story, with the seconds since it began."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", flush=True)  # noqa: T201  (a script)


@dataclass
class Greeted:
    """One task that was submitted."""

    task_id: str
    trace_id: str
    seconds: float


@dataclass
class Load:
    """Tasks for the greeter, from a client that knows no Revo: nats-py, JSON, and headers."""

    url: str
    keys: Path
    sent: list[Greeted] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """How often each result was announced."""
    client: Client = field(default_factory=Client)
    retries: int = 0
    """How often a submit was not answered and was sent again."""

    async def open(self) -> None:
        """Connect as the user of that name, and hear what is done."""
        credentials = Credentials.load(self.keys / "main" / f"{CLIENT}.nk")
        self.client._public_nkey = credentials.answer("")[0]
        sign = partial(_sign, credentials)
        await self.client.connect(self.url, signature_cb=sign, max_reconnect_attempts=-1)
        await self.client.subscribe(f"revo.done.{CLIENT}.greet.*", cb=self._heard)

    async def close(self) -> None:
        """Leave."""
        await self.client.close()

    async def submit(self, count: int, seconds: float = 0.0) -> list[Greeted]:
        """Submit so many, each so long; returns when all of them are stored. Sent again it is the same task."""
        made = [Greeted(f"t-{secrets.token_hex(8)}", secrets.token_hex(16), seconds) for _ in range(count)]
        await asyncio.gather(*(self._submit(one) for one in made))
        self.sent += made
        return made

    async def _submit(self, one: Greeted) -> None:
        headers = {
            "Revo-Task-Id": one.task_id,
            "Nats-Msg-Id": f"{CLIENT}.greet.{one.task_id}",
            "traceparent": f"00-{one.trace_id}-{secrets.token_hex(8)}-01",
        }
        body = json.dumps({"name": one.task_id, "seconds": one.seconds}).encode()
        for pause in (0.1, 0.5, 1, 2, 4, 8):
            try:
                reply = await self.client.request(f"revo.task.greet.normal.{CLIENT}", body, timeout=5, headers=headers)
                stored = json.loads(reply.data)
                assert stored.get("stream") == "TASKS", stored
            except (OSError, TimeoutError, NoRespondersError):  # the last: the stream has no leader at the moment
                self.retries += 1
                await asyncio.sleep(pause)  # noqa: TID251  (the server may be away)
            else:
                return
        raise AssertionError(f"{one.task_id} could not be stored")

    async def _heard(self, message: Msg) -> None:
        self.done[message.subject.rpartition(".")[2]] += 1

    async def check(self, timeout: float = 120.0) -> list[int]:
        """See that every task succeeded, once, with its own value, and that the mesh's own audit finds nothing; returns
        how often each was delivered.
        """
        settings = Settings(nats_url=self.url, credentials=str(self.keys / "main" / "operator.nk"))
        async with Mesh.connect(settings=settings, client=CLIENT, service="check") as mesh:
            handles = [mesh.handle("greet", one.task_id) for one in self.sent]
            outcomes = await asyncio.gather(*(handle.outcome(timeout=timeout) for handle in handles))
            wrong = [one for one in outcomes if one.status != "succeeded" or one.value != f"Hello, {one.task_id}!"]
            assert not wrong, wrong
            report = await audit(mesh.connection)
            assert report.good, report
        twice = {name: count for name, count in self.done.items() if count > 1}
        assert not twice, f"announced more than once: {twice}"
        return [one.deliveries for one in outcomes]


def see_well(url: str, home: Path, actors: set[str]) -> None:
    """See that these are all the actors there are, and that each instance is idle, says how it is, and is not deaf."""

    def look() -> list[dict[str, Any]]:
        env = {**os.environ, "REVO_HOME": str(home), "REVO_NATS_URL": url, "REVO_CREDENTIALS": "operator"}
        command = [sys.executable, "-m", "revo", "ps", "--output", "json"]
        shown = subprocess.run(command, env=env, check=True, text=True, stdout=-1).stdout
        live = [one for one in json.loads(shown) if one["condition"] != "dead"]
        return live if {one["agent"] for one in live} == actors and all(map(_is_well, live)) else []

    live = until(f"only {', '.join(sorted(actors))}, and all of them idle in `revo ps`", look)
    say(f"{len(live)} instances: all idle, none deaf")


def _is_well(one: dict[str, Any]) -> bool:
    """The deaf are found within 6 s, so it takes longer than that to know."""
    return one["condition"] == "idle" and one["health"] is not None and one["uptime"] > 8


def see_no_violation(logs: str) -> None:
    """See that nobody, the server included, tells of a subject that was refused."""
    found = [line for line in logs.splitlines() if "violation" in line.lower() or "permission denied" in line]
    assert not found, found[:5]


def _sign(credentials: Credentials, nonce: str) -> bytes:
    return credentials.answer(nonce)[1].encode()


def fetch(url: str) -> Any:
    """A JSON document; None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  (the URL is ours)
            return json.load(reply)
    except (OSError, ValueError):
        return None


def until(what: str, look: Any, timeout: float = 90.0) -> Any:
    """The first true value of `look()`."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := look():
            return value
        time.sleep(1)  # noqa: TID251  (another program's HTTP interface announces nothing)
    raise AssertionError(f"{what}: not within {timeout:g} s")


def trace_of(jaeger: str, trace_id: str, spans: int) -> list[dict[str, Any]]:
    """The spans of a trace as Jaeger's API shows it, with the tags of their processes; waits for so many."""

    def look() -> list[dict[str, Any]]:
        answer = fetch(f"{jaeger}/api/traces/{trace_id}")
        if not answer or not answer.get("data"):
            return []
        (trace,) = answer["data"]
        found = [_flat(span, trace["processes"]) for span in trace["spans"]]
        return found if len(found) >= spans else []

    found: list[dict[str, Any]] = until(f"trace {trace_id} with {spans} spans in Jaeger", look)
    return sorted(found, key=lambda span: float(span["start"]))


def _flat(span: dict[str, Any], processes: dict[str, Any]) -> dict[str, Any]:
    process = processes[span["processID"]]
    tags = {tag["key"]: tag["value"] for tag in [*process["tags"], *span["tags"]]}
    named = {"service": process["serviceName"], "name": span["operationName"], "start": span["startTime"]}
    return {**named, "seconds": span["duration"] / 1e6, "events": len(span.get("logs") or []), "tags": tags}


def sum_of(prometheus: str, query: str) -> float:
    """The one value of a query of Prometheus; 0 while there is none."""
    answer = fetch(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    result = answer["data"]["result"] if answer else []
    return float(result[0]["value"][1]) if result else 0.0
