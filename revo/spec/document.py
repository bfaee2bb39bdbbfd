"""The AsyncAPI 3.0 document of a mesh, as a client sees it: it sends tasks and questions, and receives the rest."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, Final

from bus import subjects
from bus.messages import JSON, Blob, DeadLetter
from bus.schedules import Making
from revo.spec.addresses import PARAMETERS, address, place, task_address
from revo.spec.examples import HEADERS
from revo.spec.shapes import Shapes
from revo.spec.sources import Capability, Found, Method
from revo.spec.ways import RESULT, STORED, Said, Way, ways

ABOUT: Final = (
    "Revo moves tasks and requests over NATS. This document describes the wire from a client's side: an operation "
    "`send` is what a client publishes, `receive` what it may hear or read. Bodies are JSON, or msgpack where "
    "`Content-Type` says so; a channel with `x-revo-stream` is kept in that JetStream stream. Fields and headers that "
    "are not known are to be ignored. The guarantees stand in docs/delivery.md, the whole wire in docs/wire.md."
)
_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")


def document(found: Found, *, server: str = "") -> dict[str, Any]:
    """The document of what was found, and of all that Revo itself says and answers. `server` is host and port."""
    return Writer().write(found, server)


class Writer:
    """Puts one document together."""

    def __init__(self) -> None:
        self._shapes = Shapes()
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._said: dict[str, Said] = {}

    def write(self, found: Found, server: str) -> dict[str, Any]:
        """The document."""
        for model in (DeadLetter, Making, Blob):  # which headers carry
            self._shapes.model(model)
        for way in ways():
            self._way(way)
        for capability in found.capabilities:
            self._capability(capability)
        for method in found.methods:
            self._method(method)
        made: dict[str, Any] = {
            "asyncapi": "3.0.0",
            "info": {"title": "A mesh of Revo", "version": version("revo-mesh"), "description": ABOUT},
            "defaultContentType": JSON,
        }
        if server:
            made["servers"] = {"mesh": {"host": server, "protocol": "nats"}}
        made["channels"], made["operations"] = self._channels, self._operations
        made["components"] = {"messages": self._messages, "schemas": self._shapes.all}
        return made

    def _capability(self, capability: Capability) -> None:
        """Three channels: its tasks, their results, and what is asked of all its instances at once."""
        name, about = capability.name, capability.about or f"what {capability.agent} {capability.version} takes"
        message = self._shapes.schema(f"{name}.message", capability.message)
        value = self._shapes.schema(f"{name}.result", capability.result)
        samples = tuple(one for one in capability.message.get("examples", []) if isinstance(one, dict))
        task = Said(f"{name}.task", about, message, samples, headers="task")
        end = {
            "allOf": [self._shapes.model(RESULT.shape), {"properties": {"value": {"anyOf": [value, {"type": "null"}]}}}]
        }
        result = Said(f"{name}.end", f"the one end of a task for {name}", end, headers="result")
        answer = Said(f"{name}.answer", f"what one instance answers for {name}", value, headers="reply")
        done = subjects.done(place("client")).replace(">", f"{name}.{place('task_id')}")
        self._way(Way(f"task.{name}", task_address(name), task, "client", subjects.TASKS, STORED))
        self._way(Way(f"done.{name}", address(done), result, "server"))
        cast = address(subjects.broadcast(name, place("caller")))
        self._way(Way(f"cast.{name}", cast, task, "client", reply=answer))

    def _method(self, method: Method) -> None:
        name = f"{method.service}.{method.name}"
        shape: dict[str, Any] = {"description": "nothing, or an empty map"}
        if method.message is not None:
            shape = self._shapes.schema(f"{name}.message", method.message)
        result = self._shapes.schema(f"{name}.result", method.result)
        ask = Said(f"{name}.question", method.about, shape, headers="request")
        answer = Said(f"{name}.answer", f"what {method.service} answers", result, headers="reply")
        there = subjects.rpc(method.service, method.name, place("caller"))
        if method.scoped:
            there = subjects.scoped(method.service, method.name, place("scope"), place("caller"))
        self._way(Way(f"rpc.{name}", address(there), ask, "client", reply=answer))

    def _way(self, way: Way) -> None:
        """A channel, what a client does there and, where it is answered, the channel of the answers."""
        names = dict.fromkeys(_PARAMETER.findall(way.address))
        channel: dict[str, Any] = {"address": way.address, "messages": {way.said.name: self._message(way.said)}}
        if names:
            channel["parameters"] = {one: _parameter(one) for one in names}
        channel["x-revo-writer"] = way.writer
        if way.stream:
            channel["x-revo-stream"] = way.stream
        self._channels[way.name] = channel
        action = "send" if way.writer == "client" else "receive"
        operation = {
            "action": action,
            "channel": {"$ref": f"#/channels/{way.name}"},
            "messages": [{"$ref": f"#/channels/{way.name}/messages/{way.said.name}"}],
        }
        if way.reply is not None:
            there = f"{way.name}.reply"
            self._channels[there] = {"address": None, "messages": {way.reply.name: self._message(way.reply)}}
            messages = [{"$ref": f"#/channels/{there}/messages/{way.reply.name}"}]
            operation["reply"] = {"channel": {"$ref": f"#/channels/{there}"}, "messages": messages}
        self._operations[f"{way.name}.{action}"] = operation

    def _message(self, said: Said) -> dict[str, str]:
        """A reference to the message, which stands once."""
        assert self._said.setdefault(said.name, said) == said, f"two messages are called {said.name}"
        if said.name not in self._messages:
            shape = said.shape if isinstance(said.shape, dict) else self._shapes.model(said.shape)
            made: dict[str, Any] = {"name": said.name, "payload": shape}
            if said.about:
                made["summary"] = said.about
            if said.headers:
                made["headers"] = {"type": "object", "properties": HEADERS[said.headers]}
            if said.examples:
                made["examples"] = [{"payload": one} for one in said.examples]
            self._messages[said.name] = made
        return {"$ref": f"#/components/messages/{said.name}"}


def _parameter(name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"description": PARAMETERS[name]}
    if name == "priority":
        made["enum"] = list(subjects.PRIORITIES)
    return made
