"""Every stream that a mesh stands on, as data. Creating and comparing them is `bus.topology`'s."""

from __future__ import annotations

from typing import Any, Final

from bus import subjects
from bus.messages import HEADROOM, MAX_DEADLINE
from bus.settings import Settings

NS: Final = 1_000_000_000
MAX_CONSUMERS: Final = 100_000
"""Said outright: since 2.15 the server's own default is 1,000 a stream, and every capability takes five."""
DEDUP_WINDOW: Final = 120 * NS
MEMORY_DEDUP: Final = 60 * NS
"""A write is sent again for a quarter of that (the setting `publish_timeout`); every id costs memory meanwhile."""
MARKER_TTL: Final = 600.0
"""Seconds for which the server says that a lease has run out, also to a reader that was away meanwhile."""

SESSION_MARKER_TTL: Final = 60.0
"""The same of sessions: every client that takes locks leaves one behind, and keepers look for what they missed."""

PROBE_AGE: Final = 5.0
"""Seconds that a probe waits for somebody to do it."""
MAX_PROBES: Final = 1000
"""Probes of one agent that wait."""

Config = dict[str, Any]


def streams(settings: Settings, max_payload: int) -> list[Config]:
    """Every stream that a mesh stands on, as the server's API takes it."""
    common: Config = {"num_replicas": settings.replicas, "storage": "file", "max_consumers": MAX_CONSUMERS}
    kept: Config = {**common, "retention": "limits", "allow_msg_ttl": True}
    return [
        *_of_tasks(settings, max_payload, common, kept),
        *_beside_tasks(settings, common, kept),
        *_of_memory(settings, kept),
        *_of_the_system(settings, common, kept),
    ]


def _of_tasks(settings: Settings, max_payload: int, common: Config, kept: Config) -> list[Config]:
    one_each: Config = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
    return [
        {
            "name": subjects.TASKS,
            "description": "tasks that wait for, or are with, a worker",
            "subjects": list(subjects.TASK_FORMS),
            "subject_transform": {"src": subjects.BARE_TASKS, "dest": subjects.CLIENT_TASKS},
            "retention": "workqueue",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": settings.client_queue,  # a subject is one client's, for one capability and priority
            "max_bytes": settings.tasks_max_bytes,
            "max_msg_size": max_payload - HEADROOM,
            "allow_direct": True,  # who looks through the queue reads it in batches (bus.backlog)
            "duplicate_window": DEDUP_WINDOW,
            **common,
        },
        {
            "name": subjects.RESULTS,
            "description": "the one result of every task",
            "subjects": [subjects.RESULT_SUBJECTS],
            "republish": {"src": subjects.RESULT_SUBJECTS, "dest": subjects.DONE_SUBJECTS},
            "allow_direct": True,  # who may read some results alone reads them by their subjects
            "max_bytes": settings.results_max_bytes,
            **one_each,
            **kept,
        },
        {
            "name": subjects.DEAD,
            "description": "tasks that failed for good, as they were submitted",
            "subjects": [subjects.DEAD_SUBJECTS],
            "max_bytes": settings.dead_max_bytes,
            "max_age": int(settings.dead_max_age * NS),
            **one_each,
            **kept,
        },
        {
            "name": subjects.ATTEMPTS,
            "description": "what is known of tasks that did not end at the first try",
            "subjects": [subjects.ATTEMPT_SUBJECTS],
            "max_bytes": settings.attempts_max_bytes,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": False,  # with one such header who may write one key could wipe all
            "allow_direct": True,
            "deny_delete": True,
            **kept,
        },
        {
            "name": subjects.AUDIT,
            "description": "what an audit must know and no other stream says",
            "subjects": [subjects.AUDIT_SUBJECTS],
            "discard": "old",
            "max_bytes": settings.audit_max_bytes,
            "max_age": int(max(settings.audit_max_age, 2 * settings.result_ttl) * NS),
            "retention": "limits",
            **common,
        },
    ]


def _beside_tasks(settings: Settings, common: Config, kept: Config) -> list[Config]:
    """What belongs to tasks and is no task, result or record."""
    return [
        {
            "name": subjects.LATER,
            "description": "tasks that fall due later, once or again and again",
            "subjects": [
                *(subjects.SCHEDULE_SUBJECTS, subjects.PAUSED_SUBJECTS),
                *(subjects.DUE_SUBJECTS, subjects.OCCURRED_SUBJECTS),
            ],
            # One message a subject: what falls due anew takes the place of what nobody could take, so that schedules
            # can never evict one another. How many there may be is the stewards' business.
            "max_msgs_per_subject": 1,
            "discard": "old",
            "max_bytes": settings.later_max_bytes,
            "retention": "workqueue",
            "allow_msg_schedules": True,
            "allow_msg_ttl": True,
            "allow_direct": True,
            "duplicate_window": DEDUP_WINDOW,
            **common,
        },
        {
            "name": subjects.PROGRESS,
            "description": "what handlers say while they run",
            "subjects": [subjects.PROGRESS_SUBJECTS],
            "republish": {"src": subjects.PROGRESS_SUBJECTS, "dest": subjects.EMITTED_SUBJECTS},
            "discard": "old",
            "max_bytes": settings.progress_max_bytes,
            "max_age": int(settings.progress_max_age * NS),
            "allow_direct": True,
            "duplicate_window": DEDUP_WINDOW,
            **kept,
        },
        {
            "name": subjects.CHECKPOINTS,
            "description": "what handlers have so far",
            "subjects": [subjects.SAVED_SUBJECTS],
            "max_bytes": settings.checkpoints_max_bytes,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_direct": True,
            "deny_delete": True,
            "duplicate_window": DEDUP_WINDOW,
            **kept,
        },
        {
            "name": subjects.BLOBS,
            "description": "payloads too large for a message, in pieces",
            "subjects": [subjects.BLOB_SUBJECTS],
            "max_bytes": settings.blobs_max_bytes,
            # A task's message is kept with its dead letter; all else is removed long before.
            "max_age": int((MAX_DEADLINE + settings.dead_max_age + 86400.0) * NS),
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "allow_direct": True,
            "duplicate_window": DEDUP_WINDOW,
            **kept,
        },
        {
            "name": subjects.BUDGETS,
            "description": "what families of tasks have spent of their budgets",
            "subjects": [subjects.SPENT_SUBJECTS],
            "max_bytes": settings.budgets_max_bytes,
            "max_age": int((MAX_DEADLINE + 86400.0) * NS),
            "max_msgs_per_subject": 1,
            "discard": "old",  # the server allows counters nothing else
            "allow_msg_counter": True,
            "allow_direct": True,
            "retention": "limits",
            "duplicate_window": DEDUP_WINDOW,
            **common,
        },
    ]


def _of_memory(settings: Settings, kept: Config) -> list[Config]:
    return [
        {
            "name": subjects.bucket(subjects.MEMORY_BUCKET),
            "description": "what agents share, with its versions, and the tables of locks",
            "subjects": [subjects.entry(subjects.MEMORY_BUCKET, ">")],
            "max_bytes": settings.memory_max_bytes,
            "max_msgs_per_subject": settings.memory_history,
            "discard": "new",
            "republish": {
                "src": subjects.entry(subjects.MEMORY_BUCKET, f"{subjects.LOCKS}.>"),
                "dest": subjects.LOCK_NEWS,
            },
            "duplicate_window": MEMORY_DEDUP,
            "allow_rollup_hdrs": False,  # with one such header who may write one key could wipe all
            "allow_atomic": True,
            "allow_direct": True,
            "deny_delete": True,
            **kept,
            "allow_msg_ttl": False,  # an old version would be the newest again: who coordinates ends them
        },
        {
            "name": subjects.bucket(subjects.SESSIONS_BUCKET),
            "description": "leases of those that hold locks of shared memory",
            "subjects": [subjects.entry(subjects.SESSIONS_BUCKET, ">")],
            "max_bytes": settings.sessions_max_bytes,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "subject_delete_marker_ttl": int(SESSION_MARKER_TTL * NS),
            "allow_rollup_hdrs": True,  # the server wants it for its markers
            "allow_direct": True,
            "deny_delete": True,
            **kept,
        },
    ]


def _of_the_system(settings: Settings, common: Config, kept: Config) -> list[Config]:
    return [
        {
            "name": subjects.bucket(subjects.REGISTRY_BUCKET),
            "description": "leases of those that live, and what their capabilities are",
            "subjects": [subjects.entry(subjects.REGISTRY_BUCKET, ">")],
            "max_bytes": settings.registry_max_bytes,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "republish": {"src": subjects.entry(subjects.REGISTRY_BUCKET, ">"), "dest": subjects.REGISTRY_NEWS},
            "subject_delete_marker_ttl": int(MARKER_TTL * NS),
            "allow_rollup_hdrs": True,  # the server wants it for its markers
            "allow_direct": True,  # who renews a lease may read that one alone
            "deny_delete": True,
            **kept,
        },
        {
            "name": subjects.PROBES,
            "description": "what proves that an agent does what it is given",
            "subjects": [subjects.PROBE_SUBJECTS],
            "retention": "workqueue",
            "discard": "old",
            "max_age": int(PROBE_AGE * NS),
            "max_msgs_per_subject": MAX_PROBES,
            "duplicate_window": int(PROBE_AGE * NS),  # every registry sends them, and one of each is enough
            "allow_direct": False,
            **common,
        },
        {
            "name": subjects.EVENTS,
            "description": "what happened to agents and to the system",
            "subjects": [subjects.EVENT_SUBJECTS],
            "discard": "old",
            "max_bytes": settings.events_max_bytes,
            "max_age": int(settings.events_max_age * NS),
            "duplicate_window": int(1.5 * MARKER_TTL * NS),  # whoever reads an old marker again tells nothing twice
            "retention": "limits",
            **common,
        },
        {
            "name": subjects.ADVISORIES,
            "description": "tasks that the server delivers no more, until the steward has ended them",
            "subjects": [subjects.ADVISORY_SUBJECTS],
            "retention": "workqueue",
            "discard": "old",
            "max_bytes": settings.advisories_max_bytes,
            **common,
        },
        {
            "name": subjects.TRACES,
            "description": "spans of processes without a collector",
            "subjects": [subjects.SPAN_SUBJECTS],
            "discard": "old",
            "max_bytes": settings.traces_max_bytes,
            "max_age": int(settings.traces_max_age * NS),
            "retention": "limits",
            **common,
        },
    ]
