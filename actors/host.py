"""Runs one actor in this process: start, ready, serve, drain.

SIGTERM and Ctrl-C drain within the setting `drain_timeout`; a second one stops at once. The process ends by itself when
its supervisor is gone (the lifeline) or when it can serve no more, so that a new one takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from actors.actor import Actor, Handler, check_class
from actors.mailbox import Mailbox
from actors.runtime import Threads, rpc_handler, task_handler
from bus import lifeline, subjects, topology
from bus.connection import Connection
from bus.errors import BusError, ConfigError
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.rpc import Service
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.worker import Capability, Worker

log = logging.getLogger(__name__)

READY_FD: Final = "REVO_READY_FD"
LIFELINE_FD: Final = "REVO_LIFELINE_FD"
ACTOR_SETTINGS: Final = "REVO_ACTOR_SETTINGS"

Runner = Callable[[Coroutine[Any, Any, int]], int]


class ActorStartError(BusError):
    """The actor's own `on_start` failed."""

    def __init__(self, actor: str, reason: str) -> None:
        super().__init__(actor, reason)
        self.actor = actor
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.actor} did not start: {self.reason}"


def run(target: str, *, name: str | None = None, settings: Settings | None = None, runner: Runner = asyncio.run) -> int:
    """Run one actor until it is told to stop and return the process's exit status: 0 when it drained in order.

    `target` is `package.module:Class` or `path/to/file.py:Class`; `runner` is `asyncio.run` or uvloop's.

    Raises:
        ConfigError: the target, its class or its settings cannot be used.
        ServerUnreachableError: no server within the setting `connect_timeout`.
    """
    logging.basicConfig(
        level=os.environ.get("REVO_LOG", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    actor = load(target)
    if name is not None:
        actor = type(actor.__name__, (actor,), {"name": name, "__module__": actor.__module__})
    host = Host(actor, settings or Settings.from_env())
    status = runner(host.serve())
    if host.threads.busy:
        # A handler's thread ignored its stop event; the interpreter would wait for it for ever.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)
    return status


def load(target: str) -> type[Actor]:
    """The actor class that `package.module:Class` or `path/to/file.py:Class` names.

    Raises:
        ConfigError: there is no such module, file or class, or it is no actor.
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise ConfigError(target, "an actor is named as package.module:Class or path/to/file.py:Class")
    try:
        module = _load_file(where) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ConfigError(target, f"{error.msg.lower()}") from error
    except BusError:
        raise
    except Exception as error:
        raise ConfigError(target, f"its module does not import: {type(error).__name__}: {error}") from error
    actor = getattr(module, attribute, None)
    if actor is None:
        raise ConfigError(target, f"{where} has no {attribute}")
    if not (isinstance(actor, type) and issubclass(actor, Actor)):
        raise ConfigError(target, f"{attribute} is not an actor; derive it from revo.Agent or revo.Actor")
    return actor


def _load_file(path: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(path, "no such file")
    name = f"revo_actor_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations are resolved through it
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    return module


class Host:
    """One actor and all that it needs to live."""

    def __init__(self, actor: type[Actor], settings: Settings) -> None:
        self._handlers = check_class(actor)
        self._settings = settings
        self.instance = f"{actor.name}-{secrets.token_hex(4)}"
        self.actor = actor()
        self.actor.settings = _actor_settings(actor)
        self.threads = Threads(actor.name, actor.concurrency)
        self._stopping = asyncio.Event()
        self._worker: Worker | None = None
        self._service: Service | None = None

    async def serve(self) -> int:
        """Live until told to stop; returns the exit status."""
        task = asyncio.current_task()
        assert task is not None
        self._listen(task)
        name = self.actor.name
        connection = await Connection.open(self._settings.find_url(), name=self.instance, settings=self._settings)
        telemetry = Telemetry(service=name, instance=self.instance, sample=self._settings.trace_sample)
        telemetry.start(connection.publish)
        self.actor.mesh = Mesh(connection, telemetry, client=name)
        self.actor.failed = asyncio.get_running_loop().create_future()
        started = False
        try:
            for line in await topology.apply(connection):
                log.warning("%s; it is left as it is", line)
            await self._start_actor()
            started = True
            await self._open(connection, telemetry)
            self._say_ready()
            status = await self._live(connection)
            await self._drain()
        except asyncio.CancelledError:
            log.warning("%s stops at once", self.instance)
            return 1
        finally:
            if started:
                await self._stop_actor()
            self.threads.close()
            await self.actor.mesh.close()
        return status

    async def _start_actor(self) -> None:
        try:
            await self.actor.on_start()
        except BusError:
            raise
        except Exception as error:
            raise ActorStartError(self.actor.name, f"{type(error).__name__}: {error}") from error

    async def _stop_actor(self) -> None:
        spawned = list(self.actor.__dict__.get("_spawned", ()))
        for task in spawned:
            task.cancel()
        await asyncio.gather(*spawned, return_exceptions=True)
        try:
            await self.actor.on_stop()
        except Exception:
            log.exception("%s: on_stop failed", self.instance)

    async def _open(self, connection: Connection, telemetry: Telemetry) -> None:
        """Open the actor's doors: requests first, then tasks."""
        actor = self.actor
        mailbox = Mailbox(actor.name, concurrency=actor.concurrency, capacity=self._settings.mailbox)
        answers = [handler for handler in self._handlers if handler.kind == "rpc"]
        if answers:
            description = (type(actor).__doc__ or "").strip().partition("\n")[0]
            self._service = Service(connection, telemetry, actor.name, self.instance, "0.1.0", description)
            for handler in answers:
                self._service.endpoint(handler.name, rpc_handler(actor, handler, mailbox, self.threads))
            await self._service.start()
        capabilities = [
            Capability(
                handler.name,
                task_handler(actor, handler, mailbox, self.threads),
                await self._policy(connection, handler),
            )
            for handler in self._handlers
            if handler.kind == "task"
        ]
        if capabilities:
            self._worker = Worker(
                connection,
                telemetry,
                capabilities,
                agent=actor.name,
                instance=self.instance,
                concurrency=actor.concurrency,
            )
            self._worker.start()

    async def _policy(self, connection: Connection, handler: Handler) -> Policy:
        wanted = handler.policy_over(default_policy(self._settings))
        standing, conflict = await topology.ensure_capability(connection, handler.name, wanted, self.actor.name)
        if conflict is not None:
            log.warning("%s; what %s set up holds", conflict, conflict.theirs)
        return standing

    async def _live(self, connection: Connection) -> int:
        """Wait for a reason to leave; 0 when we were told to, 1 when we cannot go on."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        waits: set[asyncio.Future[Any]] = {stopping, connection.closed, self.actor.failed}
        if self._worker is not None:
            waits.add(self._worker.failed)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._worker is not None and self._worker.failed.done():
            log.error("%s ends: %s", self.instance, self._worker.failed.result())
            return 1
        if self.actor.failed.done():
            error = self.actor.failed.result()
            log.error("%s ends: %s: %s", self.instance, type(error).__name__, error, exc_info=error)
            return 1
        if connection.closed.done():
            log.error("%s ends: %s", self.instance, connection.closed.result())
            return 1
        log.info("%s drains", self.instance)
        return 0

    async def _drain(self) -> None:
        timeout = self._settings.drain_timeout
        async with asyncio.TaskGroup() as group:
            if self._service is not None:
                group.create_task(self._service.drain(timeout))
            if self._worker is not None:
                group.create_task(self._worker.drain(timeout))

    # --- the world outside --------------------------------------------------------------------------------

    def _listen(self, serving: asyncio.Task[Any]) -> None:
        """Hear signals and the end of our supervisor."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stopping.is_set() or self.actor.__dict__.get("mesh") is None:
                serving.cancel()  # the second time, or before there is anything to drain
            self._stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        fd = os.environ.pop(LIFELINE_FD, "")
        if fd:

            def orphaned() -> None:
                log.warning("%s: its supervisor is gone", self.instance)
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._stopping.set)

            lifeline.watch(int(fd), orphaned, grace=self._settings.drain_timeout + 10)

    def _say_ready(self) -> None:
        log.info("%s is ready", self.instance)
        fd = os.environ.pop(READY_FD, "")
        if fd:
            line = {"actor": self.actor.name, "instance": self.instance, "pid": os.getpid()}
            with contextlib.suppress(BrokenPipeError), os.fdopen(int(fd), "w") as pipe:
                pipe.write(json.dumps(line) + "\n")


def default_policy(settings: Settings) -> Policy:
    """How a capability is run when its agent says nothing."""
    return Policy(
        ack_wait=settings.ack_wait,
        max_attempts=settings.max_attempts,
        time_limit=settings.time_limit,
        backoff=settings.backoff,
        backoff_max=settings.backoff_max,
        max_deaths=settings.max_deaths,
    )


def _actor_settings(actor: type[Actor]) -> Any:
    raw = os.environ.pop(ACTOR_SETTINGS, "") or "{}"
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise ConfigError(ACTOR_SETTINGS, f"is not JSON: {error}") from error
    if actor.Settings is None:
        if given:
            raise ConfigError(f"settings of {actor.name}", "this actor takes none")
        return None
    try:
        return actor.Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"settings of {subjects.token(actor.name)}: {key}", first["msg"]) from error
