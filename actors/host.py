"""Runs one actor in this process: start, ready, serve, drain.

SIGTERM and Ctrl-C drain within the setting `drain_timeout`; a second one stops at once, unless there is a supervisor,
who kills. The process ends by itself when its supervisor is gone (the lifeline) or when it can serve no more, so that a
new one takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from actors import logs, parent
from actors.actor import Actor, check_class
from actors.endpoints import Endpoints
from actors.enrolment import registration_of
from actors.loading import actor_settings, load
from actors.mailbox import Mailbox
from actors.registry.registrar import Registrar
from actors.runtime import Threads
from actors.selfreport import SelfReport
from actors.vitals import DRAINING, READY, Vitals
from bus import topology
from bus.connection import Connection
from bus.credentials import OPERATOR
from bus.errors import BusError, ConfigError
from bus.mesh import Mesh
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.worker import Worker

log = logging.getLogger(__name__)

GC_THRESHOLDS: Final = (25_000, 10, 10)
"""A message leaves some objects behind but no cycles, so the collector need not look as often as by default."""
LAST_WORDS: Final = 1.5
"""Seconds for what an actor says of its end."""

Runner = Callable[[Coroutine[Any, Any, int]], int]


class ActorStartError(BusError):
    """The actor's own `on_start` failed."""

    def __init__(self, actor: str, reason: str) -> None:
        super().__init__(actor, reason)
        self.actor = actor
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.actor} did not start: {self.reason}"


def run(
    target: str,
    *,
    name: str | None = None,
    settings: Settings | None = None,
    runner: Runner = asyncio.run,
    json_logs: bool = False,
) -> int:
    """Run one actor until it is told to stop and return the process's exit status: 0 when it drained in order.

    `target` is `package.module:Class` or `path/to/file.py:Class`; `runner` is `asyncio.run` or uvloop's. It logs to
    stderr, from the level `REVO_LOG` on (info).

    Raises:
        ConfigError: the target, its class or its settings cannot be used.
        ServerUnreachableError: no server within the setting `connect_timeout`.
    """
    logs.configure("info", "%(asctime)s %(levelname)s %(name)s: %(message)s", as_json=json_logs)
    actor = load(target)
    if name is not None:
        same = {"__module__": actor.__module__, "__doc__": actor.__doc__}
        actor = type(actor.__name__, (actor,), {"name": name, **same})
    host = Host(actor, settings or Settings.from_env())
    logs.identify(actor=actor.name, instance=host.instance)
    # What the imports made stays. Without this the collector looks through it again and again, 19 ms each time.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    status = runner(host.serve())
    if host.threads.busy:
        # A handler's thread ignored its stop event; the interpreter would wait for it for ever.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)
    return status


class Host:
    """One actor and all that it needs to live."""

    def __init__(self, actor: type[Actor], settings: Settings) -> None:
        self._handlers = check_class(actor)
        self._settings = settings
        self.instance = f"{actor.name}-{secrets.token_hex(4)}"
        self.actor = actor()
        self.actor.settings = actor_settings(actor)
        self.threads = Threads(actor.name, actor.concurrency)
        self._stopping = asyncio.Event()
        self._mailbox = Mailbox(actor.name, concurrency=actor.concurrency, capacity=settings.mailbox)
        self._worker: Worker | None = None
        self._registrar: Registrar
        self._vitals = Vitals(actor.name, self.instance, settings)
        self._report = SelfReport(self._mailbox, self.actor.on_probe)

    async def serve(self) -> int:
        """Live until told to stop; returns the exit status."""
        task = asyncio.current_task()
        assert task is not None
        self._listen(task)
        name, version, sample = self.actor.name, self.actor.version, self._settings.trace_sample
        telemetry = Telemetry(service=name, instance=self.instance, version=version, sample=sample)
        try:
            await self._vitals.open(telemetry)
            return await self._serve(telemetry)
        finally:
            await self._vitals.close()

    async def _serve(self, telemetry: Telemetry) -> int:
        name = self.actor.name
        connection = await Connection.open(self._settings.find_url(), name=self.instance, settings=self._settings)
        telemetry.start(connection.publish, connection.user)
        self.actor.mesh = mesh = Mesh(connection, telemetry, client=name)
        self._report.breakers.append(lambda: mesh.breakers)
        self.actor.failed = asyncio.get_running_loop().create_future()
        started = False
        unwatch = self._report.start(self._renew_soon)
        try:
            _check_user(connection, name)
            if topology.is_ours(connection):
                for line in await topology.apply(connection):
                    log.warning("%s; it is left as it is", line)
            registration = registration_of(self.actor, self.instance, self._handlers, self._settings)
            self._registrar = Registrar(connection, registration, self._report.say)
            self._registrar.hurried = lambda: self._report.is_silent
            mesh.on_breaker(self._report.turned)
            self._vitals.know(connection, self._registrar, self._mailbox)
            await self._start_actor()
            started = True
            await self._registrar.start()
            endpoints = await self._open()
            await self._registrar.enter("ready")
            self.actor.spawn(self._registrar.keep())
            log.info("%s is ready", self.instance)
            parent.say_ready(name, self.instance)
            self._vitals.phase = READY
            status = await self._live(connection)
            self._vitals.phase = DRAINING
            await _briefly(self._registrar.enter("draining"))
            await endpoints.drain(self._settings.drain_timeout)
        except asyncio.CancelledError:
            log.warning("%s stops at once", self.instance)
            return 1
        finally:
            unwatch()
            if started:
                await self._stop_actor()
                await _briefly(self._registrar.leave())
            self.threads.close()
            await self.actor.mesh.close()
        return status

    def _renew_soon(self) -> None:
        self._registrar.renew_soon()

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

    async def _open(self) -> Endpoints:
        endpoints = Endpoints(
            self.actor, self._handlers, self._mailbox, self.threads, report=self._report, registrar=self._registrar
        )
        await endpoints.open()
        if endpoints.worker is not None:
            self._worker = endpoints.worker
            self._vitals.know_worker(endpoints.worker)
        return endpoints

    async def _live(self, connection: Connection) -> int:
        """Wait for a reason to leave; 0 when we were told to, 1 when we cannot go on."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        waits: set[asyncio.Future[Any]] = {stopping, connection.closed, self.actor.failed}
        if self._worker is not None:
            waits |= {self._worker.failed, self._worker.shed}
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
        if self._worker is not None and self._worker.shed.done() and not self._stopping.is_set():
            log.warning("%s is idle and makes room: %s", self.instance, self._worker.shed.result())
            return parent.SHED
        log.info("%s drains", self.instance)
        return 0

    # --- the world outside --------------------------------------------------------------------------------

    def _listen(self, serving: asyncio.Task[Any]) -> None:
        """Hear signals and the end of our supervisor."""
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            log.warning("%s: its supervisor is gone", self.instance)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._stopping.set)

        supervised = parent.watch(orphaned, grace=self._settings.drain_timeout + 10)

        def stop() -> None:
            # A supervisor kills who is to end at once. What comes twice is from it and from who tells all processes.
            again = self._stopping.is_set() and not supervised
            if again or self.actor.__dict__.get("mesh") is None:
                serving.cancel()  # the second time, or before there is anything to drain
            self._stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)


async def _briefly(word: Coroutine[Any, Any, None]) -> None:
    """Say something that need not be heard: a server that has just died must not keep us from ending."""
    try:
        async with asyncio.timeout(LAST_WORDS):
            await word
    except TimeoutError:
        log.debug("the last words took too long")


def _check_user(connection: Connection, actor: str) -> None:
    """See that an actor does not run with what another was granted.

    Raises:
        ConfigError: its credentials are not its own, nor an operator's.
    """
    given = connection.credentials
    if given is not None and given.role != OPERATOR and given.user != actor:
        reason = f"are of {given.user}; `revo keys add {actor} --role agent` makes those of {actor}"
        raise ConfigError(f"the credentials {given.path}", reason)
