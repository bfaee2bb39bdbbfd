"""What a process counts, in the form that Prometheus reads.

Nothing is counted until somebody asks for it: `Metrics` does nothing, and `Counted`, which takes 20 ms and 2 MB to
import what it needs, is made where the metrics are served. Names follow Prometheus's conventions: a unit at the end,
`_total` for what only grows. Counts are of this process and begin at 0 with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_NAMES: Final = 500
"""Capabilities, and reasons: whoever submits may make them up. Beyond so many the rest is counted as `other`."""
OTHER: Final = "other"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
_LAG: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class Metrics:
    """Counts nothing: every call does nothing."""

    counting: bool = False

    def ran(
        self, capability: str, priority: str, outcome: str, *, waited: float | None, took: float | None, trace_id: str
    ) -> None:
        """A delivery came to its end here. It waited so many seconds, unless it was delivered before, and its handler
        took so many, if it ran.
        """

    def ended(self, capability: str, priority: str, outcome: str) -> None:
        """A task was ended without being run."""

    def died(self, capability: str, reason: str) -> None:
        """A task failed for good, and has a dead letter."""

    def prompted(self, outcome: str, *, waited: float | None, took: float | None, trace_id: str) -> None:
        """A prompt came to its end. It waited so many seconds for its turn, and its handler took so many, if it ran."""

    def faulted(self, capability: str, kind: str, recovery: str) -> None:
        """An attempt failed, or something beneath all of them did, by its class and what is done about it."""

    def remembered(self, operation: str, outcome: str, took: float) -> None:
        """A coordinator carried out an operation on shared memory, or not, in so many seconds."""

    def lagged(self, seconds: float) -> None:
        """The event loop came so much later to something than it should have."""

    def watch(self, name: str, text: str, read: Callable[[], float], *, grows: bool = False) -> None:
        """Show a value that is read when somebody asks for the metrics; `grows` is for those that never shrink."""

    def text(self, accept: str) -> tuple[bytes, str]:  # noqa: ARG002
        """All of them as a body and its content type, in the best form that an `Accept` header takes."""
        return b"", "text/plain"


class Counted(Metrics):
    """Counts, from 0."""

    counting = True

    def __init__(self, service: str, instance: str, version: str) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, Info, disable_created_metrics  # noqa: PLC0415
        from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415

        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which says what `process_start_time_seconds` says
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # CPU, memory and open files, where there is a /proc
        about = Info("revo_actor", "The actor that this process is.", registry=registry)
        about.info({"actor": service, "actor_instance": instance, "version": version})  # `instance` is Prometheus's own
        which = ("capability", "priority")
        self._tasks = Counter(
            "revo_tasks", "Deliveries that ended here, by what became of them.", (*which, "outcome"), registry=registry
        )
        self._waited = Histogram(
            "revo_task_queue_seconds",
            "From being stored to being started, of first deliveries.",
            which,
            buckets=_SECONDS,
            registry=registry,
        )
        self._took = Histogram(
            "revo_task_run_seconds", "From start to end of a handler.", which, buckets=_SECONDS, registry=registry
        )
        self._again = Counter(
            "revo_task_redeliveries", "Deliveries that were not the task's first.", ("capability",), registry=registry
        )
        self._dead = Counter(
            "revo_dead_letters", "Tasks that failed for good, by why.", ("capability", "reason"), registry=registry
        )
        self._prompts = Counter(
            "revo_prompts", "Prompts that ended here, by what became of them.", ("outcome",), registry=registry
        )
        self._turn = Histogram(
            "revo_prompt_wait_seconds", "From its arrival to its turn.", buckets=_SECONDS, registry=registry
        )
        self._answered = Histogram(
            "revo_prompt_run_seconds", "From start to end of its handler.", buckets=_SECONDS, registry=registry
        )
        self._faults = Counter(
            "revo_faults",
            "Faults, by class and by what is done about them.",
            ("capability", "class", "recovery"),
            registry=registry,
        )
        self._memory = Histogram(
            "revo_memory_seconds",
            "From an operation's being asked of a coordinator to its answer, waits included.",
            ("operation", "outcome"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._lag = Histogram("revo_loop_lag_seconds", "How late the event loop is.", buckets=_LAG, registry=registry)
        self._capabilities = _Names()
        self._reasons = _Names()

    def ran(
        self, capability: str, priority: str, outcome: str, *, waited: float | None, took: float | None, trace_id: str
    ) -> None:
        """A delivery came to its end here. It waited so many seconds, unless it was delivered before, and its handler
        took so many, if it ran.
        """
        capability = self._capabilities.known(capability)
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._tasks.labels(capability, priority, outcome).inc(exemplar=exemplar)
        if took is not None:
            self._took.labels(capability, priority).observe(took, exemplar)
        if waited is None:
            self._again.labels(capability).inc()
        else:
            self._waited.labels(capability, priority).observe(waited, exemplar)

    def ended(self, capability: str, priority: str, outcome: str) -> None:
        """A task was ended without being run."""
        self._tasks.labels(self._capabilities.known(capability), priority, outcome).inc()

    def died(self, capability: str, reason: str) -> None:
        """A task failed for good, and has a dead letter."""
        self._dead.labels(self._capabilities.known(capability), self._reasons.known(reason)).inc()

    def prompted(self, outcome: str, *, waited: float | None, took: float | None, trace_id: str) -> None:
        """A prompt came to its end. It waited so many seconds for its turn, and its handler took so many, if it ran."""
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._prompts.labels(outcome).inc(exemplar=exemplar)
        if waited is not None:
            self._turn.observe(waited, exemplar)
        if took is not None:
            self._answered.observe(took, exemplar)

    def faulted(self, capability: str, kind: str, recovery: str) -> None:
        """An attempt failed, or something beneath all of them did, by its class and what is done about it."""
        self._faults.labels(self._capabilities.known(capability), kind, recovery).inc()

    def remembered(self, operation: str, outcome: str, took: float) -> None:
        """A coordinator carried out an operation on shared memory, or not, in so many seconds."""
        self._memory.labels(operation, outcome).observe(took)

    def lagged(self, seconds: float) -> None:
        """The event loop came so much later to something than it should have."""
        self._lag.observe(seconds)

    def watch(self, name: str, text: str, read: Callable[[], float], *, grows: bool = False) -> None:
        """Show a value that is read when somebody asks for the metrics; `grows` is for those that never shrink."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric  # noqa: PLC0415
        from prometheus_client.registry import Collector  # noqa: PLC0415

        family = CounterMetricFamily if grows else GaugeMetricFamily

        class Watched(Collector):
            def collect(self) -> list[Metric]:
                return [family(name, text, value=read())]

        self._registry.register(Watched())

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of them as a body and its content type, in the best form that an `Accept` header takes.

        Exemplars, which name a trace, are in the OpenMetrics form only.
        """
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Names:
    """The first that were heard of."""

    def __init__(self) -> None:
        self._heard: set[str] = set()

    def known(self, name: str) -> str:
        """The name, or `other` when there are too many."""
        if name in self._heard:
            return name
        if len(self._heard) >= MAX_NAMES:
            return OTHER
        self._heard.add(name)
        return name


NOT_COUNTED: Final = Metrics()
