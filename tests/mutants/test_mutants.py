"""Each guarantee has a proof that can fail: the code with one line changed turns the test that proves it red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUARANTEES = "tests/integration/test_guarantees.py::"
OUTCOMES = "tests/integration/test_outcomes.py::"


Edit = tuple[str, str, str]
"""A file, a text that stands in it once, and what replaces it."""


@dataclass(frozen=True)
class Mutant:
    """One line of one file changed; `test` must fail of it, and its report must say `says`.

    Where two lines each guard the same, `other` is the second.
    """

    name: str
    file: str
    original: str
    replacement: str
    test: str
    says: str
    other: Edit | None = None

    @property
    def edits(self) -> list[Edit]:
        first = (self.file, self.original, self.replacement)
        return [first, self.other] if self.other else [first]


AFTER_RESULT = GUARANTEES + "test_a_task_leaves_the_queue_only_after_its_result_is_stored"
AFTER_LETTER = GUARANTEES + "test_a_failed_task_leaves_the_queue_only_after_its_dead_letter_is_stored"
LETTER = GUARANTEES + "test_when_a_failed_task_is_gone_its_dead_letter_stands"
FIRST_STANDS = GUARANTEES + "test_of_two_workers_that_do_one_task_the_first_result_stands_and_both_go_on"
ATTEMPTS = GUARANTEES + "test_only_errors_of_the_handler_use_up_attempts"
EXTENDED = GUARANTEES + "test_a_task_in_hand_stays_in_hand_far_beyond_its_ack_deadline"
ALONE = GUARANTEES + "test_a_task_that_its_worker_vanished_with_runs_alone"
WAITS = GUARANTEES + "test_a_drain_waits_for_what_runs"
HANDED_BACK = OUTCOMES + "test_a_task_that_waits_in_hand_goes_to_another_worker_as_soon_as_its_own_drains"
SAME_ID = OUTCOMES + "test_the_same_id_twice_is_one_task_while_it_waits_and_after_it_ended"
NO_SLOT = OUTCOMES + "test_a_worker_without_a_free_slot_draws_nothing"
RETRIED = GUARANTEES + "test_a_result_that_cannot_be_stored_stays_in_hand_and_its_task_runs_once"

CANCEL_STORED = GUARANTEES + "test_a_cancelled_task_leaves_the_queue_only_after_its_result_is_stored"
CANCEL_STOPS = GUARANTEES + "test_a_running_task_stops_when_it_is_cancelled_and_its_children_with_it"
STORM_VICTIM = GUARANTEES + "test_three_deaths_alone_condemn_a_task_unless_others_die_alone_too[2-succeeded]"
UNSTORED = "tests/integration/test_handing_back.py::"
UNSTORED += "test_a_result_that_cannot_be_stored_for_long_is_no_death_of_its_worker"
FORGOTTEN = "tests/integration/test_dedup.py::"
FORGOTTEN += "test_an_id_that_the_restarted_server_has_forgotten_is_still_one_task"
DEAF = "tests/integration/test_connection_traps.py::"
DEAF += "test_trap_14_a_flush_that_was_given_up_leaves_a_connection_that_hears"
STANDING = "tests/integration/test_pull.py::test_pulls_that_died_with_their_leader_are_stood_anew"
OWN_END = "tests/integration/test_blocking.py::test_an_attempt_that_came_to_an_end_of_its_own_is_not_called_lost"

FOUND_AGAIN = "tests/integration/test_families.py::"
FOUND_AGAIN += "test_children_of_a_handler_that_was_killed_are_found_again_and_run_once"
UNAWAITED = "tests/integration/test_budgets.py::"
UNAWAITED += "test_what_nobody_awaits_is_spent_before_the_task_ends_and_its_error_is_the_task_s"
SPENT_UP = "tests/integration/test_budgets.py::test_a_budget_that_is_used_up_stops_the_whole_tree_and_nobody_else"
PROGRESS = "tests/integration/test_progress.py::"
ALL_SAID = PROGRESS + "test_who_follows_gets_each_number_once_and_in_order_from_any_number_on"
UNHEARD = PROGRESS + "test_what_is_not_heard_is_read"
CHECKPOINTS = "tests/integration/test_checkpoints.py::"
KEPT_WHATEVER = PROGRESS
KEPT_WHATEVER += "test_what_comes_of_a_handler_waits_for_what_it_has_said_for_as_long_as_a_result_and_is_not_changed"
LAST_WORDS = PROGRESS
LAST_WORDS += "test_what_nobody_awaits_is_stored_too_at_the_time_limit_at_an_exit_and_when_a_worker_leaves"
OTHERS = CHECKPOINTS + "test_who_is_superseded_hands_nothing_back_when_it_leaves"
ZOMBIE = CHECKPOINTS + "test_a_worker_that_was_thought_dead_cannot_overwrite_its_successor"
SAID_FIRST = CHECKPOINTS + "test_what_was_said_before_a_save_is_stored_before_it"

URGENT = "tests/integration/test_priorities.py::"
URGENT += "test_a_critical_task_behind_ten_thousand_low_ones_is_the_next_to_start"
REGISTRY = "tests/integration/test_registry.py::"
CONTRADICTS = REGISTRY + "test_what_contradicts_somebody_who_lives_is_refused_and_both_are_named"
AT_ONCE = REGISTRY + "test_two_that_contradict_each_other_at_the_same_moment_are_not_both_let_in"
HANGS = REGISTRY + "test_who_is_killed_or_hangs_is_gone_within_so_many_heartbeats[hangs]"
BLOCKS = REGISTRY + "test_a_handler_that_blocks_the_loop_keeps_its_lease"
FOREIGN = REGISTRY + "test_nobody_takes_or_gives_up_the_lease_of_somebody_else"
VERSIONS = "tests/integration/test_registry_versions.py::"
SIDE_BY_SIDE = VERSIONS + "test_two_versions_of_one_agent_live_side_by_side_whichever_comes_first"
ONE_VERSION = VERSIONS + "test_within_one_version_two_schemas_are_refused_and_the_error_says_what_to_do"
SAME_VIEW = REGISTRY + "test_every_replica_answers_the_same_and_knows_what_its_asker_knows"

RETRIES = "tests/integration/test_retries.py::"
OPENS = RETRIES + "test_while_a_breaker_is_open_nothing_of_its_capability_runs_and_no_attempt_is_burnt"
SUSPECT = RETRIES + "test_a_suspect_that_is_handed_back_without_being_run_stays_one"

PERMISSIONS = "tests/integration/test_permissions.py::"
PUBLISHES = PERMISSIONS
PUBLISHES += "test_a_role_may_publish_nothing_that_is_granted_to_the_others_and_is_told_so_at_once_by_name"
HEARS = PERMISSIONS + "test_a_role_hears_nothing_that_is_meant_for_the_others"
TRICK = PERMISSIONS + "test_the_server_s_answer_is_no_way_around_the_grants_of_an_account_of_its_own"
GUARDED = "tests/integration/test_guarded_mesh.py::"
CANCELS = GUARDED + "test_a_cancel_reaches_the_children_and_nobody_cancels_what_is_another_s[shared]"
REDRIVES = GUARDED + "test_a_dead_letter_is_redriven_and_dropped_by_its_client_and_by_no_other[shared]"
REGISTERS = GUARDED + "test_an_agent_cannot_register_as_another[shared]"
SAME_KEY = GUARDED + "test_the_same_key_is_one_task_also_when_somebody_looks_late[shared]"
READABLE = "tests/integration/test_keys.py::"
READABLE += "test_credentials_that_everybody_may_read_or_that_are_none_are_refused_without_their_text"

LOCKS = "tests/integration/test_locks.py::"
STALE = LOCKS + "test_the_locks_of_the_dead_go_on_after_their_lease_and_a_stale_holder_writes_nothing"
UNANSWERED = LOCKS + "test_the_answers_that_are_lost_neither_lose_a_lock_nor_leave_one"
CANCELLED = LOCKS + "test_a_request_that_is_on_its_way_as_it_is_given_up_comes_too_late_for_ever"
STARVED = "tests/unit/test_locktable.py::test_an_exclusive_waiter_is_not_starved_by_a_stream_of_shared_ones"
STOPPED = "tests/unit/test_holding.py::"
STOPPED += "test_who_was_stopped_for_too_long_knows_by_the_clock_before_anybody_says_so"
MEMORY = "tests/integration/test_memory"
BOTH_HAVE_IT = f"{MEMORY}_twice.py::test_a_write_that_two_coordinators_have_at_once_is_carried_out_as_was_answered"
STORED_ONCE = f"{MEMORY}_twice.py::"
STORED_ONCE += "test_whoever_writes_himself_has_it_stored_once_whatever_the_server_has_forgotten"
COMPARED = MEMORY + ".py::test_many_writers_at_once_lose_nothing"
LATE = MEMORY + "_faults.py::test_who_holds_no_lock_any_more_writes_nothing"
ASKED_TWICE = MEMORY + "_coordinator.py::test_a_write_that_is_asked_for_twice_is_done_once"
MERGE = "tests/unit/test_merge.py::"
COUNTS = MERGE + "test_whoever_counts_meanwhile_no_count_is_lost"
DELETED = MERGE + "test_a_contradiction_says_where_it_is_and_why[base3-ours3-theirs3-rules3-clashes3]"
INSERTED = MERGE + "test_a_contradiction_says_where_it_is_and_why[base7-ours7-theirs7-rules7-clashes7]"
JOINS = "tests/unit/test_strategies.py::"
JOINS += "test_what_contradicts_joins_the_conflict_set_and_what_stood_there_stands[manual-value10-standing10-2-]"

SCHEDULES = "tests/integration/test_schedules.py::"
ROOM = SCHEDULES + "test_a_full_queue_of_one_client_holds_up_nobody_else_and_loses_nothing"
MOVED = SCHEDULES + "test_what_was_moved_and_not_settled_is_the_same_task_when_it_is_moved_again"
NOT_DUE = SCHEDULES + "test_a_task_that_is_not_due_yet_is_cancelled_and_whoever_waits_for_it_hears_so"
HIS_OWN = SCHEDULES + "test_everybody_schedules_what_he_may_submit_and_changes_his_own_alone[shared]"
MISSED = SCHEDULES + "test_what_recurs_and_was_due_while_no_server_ran_is_done_once_when_it_is_up"
MOVING = SCHEDULES + "test_what_is_moved_while_a_steward_looks_for_what_was_missed_is_done_once"
PAUSED = SCHEDULES + "test_what_falls_due_the_instant_that_it_is_paused_is_done_once_and_not_again_when_it_goes_on"
FAIRNESS = "tests/integration/test_fairness.py::"
IN_HAND = FAIRNESS + "test_what_may_be_in_hand_by_now_is_not_taken_away_and_no_copy_is_either"
TWO_STEWARDS = FAIRNESS + "test_two_stewards_that_move_the_same_tasks_at_once_lose_none"
ONE_STEWARD = FAIRNESS + "test_one_steward_at_a_time_moves_and_another_takes_over_when_it_is_silent"
ENDED_COPY = FAIRNESS + "test_what_a_dead_steward_copied_and_has_ended_is_not_run_again"
LANE_PAUSED = FAIRNESS + "test_a_pause_that_comes_while_a_lane_is_made_counts_for_the_lane[True]"
COPY_CANCELLED = FAIRNESS + "test_a_cancel_stops_the_copy_that_runs_while_its_original_is_found"
TOLD_EARLY = FAIRNESS + "test_a_lane_that_is_told_of_while_the_first_pulls_open_is_served"
LOST_COPY = FAIRNESS + "test_the_audit_sees_that_a_moved_task_is_lost"
CARRIED_ON = FAIRNESS + "test_a_move_that_was_interrupted_is_carried_on_by_whoever_comes_next[after the copies]"
IN_TURN = FAIRNESS + "test_a_slot_for_long_tasks_serves_queue_and_lane_in_turn"
CONFORMANCE = "tests/conformance/test_conformance.py::"
CONFORMANCE += "test_a_worker_that_breaks_a_requirement_is_caught_by_its_check"
CONFORMANCE += "[acknowledges before the result is stored]"

_DELETE = "        await jetstream.delete(connection, subjects.TASKS, envelope.sequence)\n"
_STORE = "        standing = await endings.store_result(connection, envelope, ours)\n"
_MAKE_SURE = "        await self._make_sure_of_the_rest(run, standing)\n"
_SETTLE = '        await self._settle(run, Settle.ACK if standing.status == "succeeded" else Settle.TERM)\n'
_FIRST_ONLY = '        EXPECTED_SUBJECT_SEQUENCE: "0",\n        MSG_TTL'

PAYLOADS = "tests/integration/test_payloads.py::"
ITS_OWN = PAYLOADS + "test_a_reference_that_is_not_to_the_tasks_own_payload_fails_the_task_with_a_word"
SWEPT = PAYLOADS + "test_a_sweep_removes_what_nothing_names_and_nothing_else"
READ_ON = PAYLOADS + "test_a_server_that_is_killed_in_the_middle_of_a_payload_loses_nothing_of_it[read back]"

OTHER_WORK = "tests/integration/test_files_of_work.py::test_the_same_line_for_somebody_else_is_other_work"
TAKEN_UP = "tests/integration/test_files_of_work.py::"
TAKEN_UP += "test_work_that_is_taken_up_again_finds_the_results_of_what_was_submitted"
TRACED = "tests/unit/test_schedules.py::test_a_trace_that_could_bring_another_header_is_refused"
MEANS = "tests/unit/test_spec.py::test_what_others_register_means_the_same_too[schema1-values1]"

MUTANTS = [
    Mutant(
        "a large payload that is another is taken for the one",
        "bus/blobs.py",
        "    if digest.hexdigest() != blob.sha256:\n",
        "    if not digest:\n",
        ITS_OWN,
        "('failed', 'decode', 1) == ('failed', 'damaged_blob', 1)",
    ),
    Mutant(
        "a dead letter loses its large message to a sweep",
        "actors/steward/storage.py",
        "        if letter is not None and blobs.id_in(letter.headers) == blob_id:\n",
        "        if letter is not None and not blob_id:\n",
        SWEPT,
        "whoever says that it may go",
    ),
    Mutant(
        "a large value is given up when the server goes away in its middle",
        "bus/blobs.py",
        "        except TransportError:\n            if loop.time() > until:\n                raise\n",
        "        except TransportError:\n            raise\n",
        READ_ON,
        "the connection was lost while waiting for an answer",
    ),
    Mutant(
        "what fell due and found no room in the queue is settled",
        "bus/due.py",
        '            settle = b"%s %s" % (Settle.NAK.value, ',
        "            settle = Settle.ACK.value or (Settle.NAK.value, ",
        ROOM,
        "assert set() >= {",
    ),
    Mutant(
        "what fell due is moved twice as two tasks",
        "bus/due.py",
        '            MSG_ID: f"{client}.{making.address}.{task_id}",\n',
        "",
        MOVED,
        "it was dropped as a double",
    ),
    Mutant(
        "a task that is not due yet is taken away without a result",
        "bus/later.py",
        "        await self._cancel(standing, info, by)\n        await self._take_away(standing.client, task_id",
        "        await self._take_away(standing.client, task_id",
        NOT_DUE,
        "it neither waits nor runs, and it has no result",
    ),
    Mutant(
        "a client changes the schedules of another",
        "actors/steward/scheduling.py",
        '    if caller and client not in ("", caller):\n',
        "    if caller is None:\n",
        HIS_OWN,
        "DID NOT RAISE",
        (
            "actors/steward/scheduling.py",
            '    return caller or (client and subjects.token(client, "client"))\n',
            '    return (client and subjects.token(client, "client")) or caller\n',
        ),
    ),
    Mutant(
        "what occurred is looked for before what is due, and so is missed on its way",
        "bus/later.py",
        'for kind in ("due", "occurred", "later"):',
        'for kind in ("occurred", "due", "later"):',
        MOVING,
        "assert 1 == 0",
    ),
    Mutant(
        "what fell due while it was paused stays paused, to be done again",
        "bus/later.py",
        "            if gone and await self._has_been_due(",
        "            if gone and not await self._has_been_due(",
        PAUSED,
        "paused.due",
    ),
    Mutant(
        "what a killed server forgot is not made up for",
        "bus/due.py",
        "            if expected is not None and expected < now - MISSED:\n",
        "            if expected is None:\n",
        MISSED,
        "not within",
    ),
    Mutant(
        "what may be in hand is moved to a lane all the same",
        "bus/moving.py",
        "        moved = [(sequence, copy) for sequence, copy in copies if sequence > delivered]\n",
        "        moved = list(copies)\n",
        IN_HAND,
        "assert 5 == 0",
    ),
    Mutant(
        "a task that was moved is lost to the audit",
        "bus/moving.py",
        "            await self._note(moved)\n",
        "",
        CARRIED_ON,
        "lost=5",
    ),
    Mutant(
        "a move that was begun is left as it is",
        "bus/moving.py",
        "            await self._carry_on(self._begun)\n",
        "",
        CARRIED_ON,
        "'normal.light': 5",
    ),
    Mutant(
        "the copy of what may be in hand is taken away",
        "bus/moving.py",
        "        moved = [(sequence, copy) for sequence, copy in copies if sequence > delivered]\n",
        "        moved = [(one, copy) if one > delivered else (copy, one) for one, copy in copies]\n",
        TWO_STEWARDS,
        "'normal.light.fair': 5",
    ),
    Mutant(
        "two stewards move at once",
        "bus/moving.py",
        "        if last is not None and self._backlog.server_time < last.stored_at + SILENT:\n",
        "        if last is not None and self._backlog.server_time < last.stored_at:\n",
        ONE_STEWARD,
        "the other has it",
    ),
    Mutant(
        "a copy that has ended does not have its original deleted",
        "bus/moving.py",
        "                if result is not None and result.sequence > original.sequence:\n",
        "                if result is None:\n",
        ENDED_COPY,
        "'normal.light': 5",
    ),
    Mutant(
        "the audit takes a lost copy for an end",
        "bus/audit.py",
        "        if copy > sequence and (copy in known or copy > last or copy in found):\n",
        "        if copy > sequence:\n",
        LOST_COPY,
        "lost=2",
    ),
    Mutant(
        "a pause that comes while a lane is made passes it over",
        "bus/lanes.py",
        "            now = await self._info(queue) or {}\n",
        "            now = info\n",
        LANE_PAUSED,
        "is paused",
    ),
    Mutant(
        "a cancelled task runs on under the sequence of its copy",
        "bus/revoked.py",
        "        runs = [run] if run is not None else self._named(order.task)\n",
        "        runs = [run] if run is not None else []\n",
        COPY_CANCELLED,
        "TimeoutError",
    ),
    Mutant(
        "a lane that is told of while pulls open is left out",
        "bus/pull.py",
        "        if left_out != self._left_out or sources != self._sources:  # a lane came meanwhile\n",
        "        if left_out != self._left_out:\n",
        TOLD_EARLY,
        "not within",
    ),
    Mutant(
        "a lane never has its turn",
        "bus/turns.py",
        "    return (room + 1) // 2 if first else room // 2\n",
        "    return 0 if lane else room\n",
        IN_TURN,
        " <= 3",
    ),
    Mutant(
        "a rule that stands beside a reference is lost in the document of the wire",
        "revo/spec/shapes.py",
        """        return {**made, "allOf": [*made.get("allOf", []), there]} if made else there""",
        """        return {**made, **there} if made else there""",
        MEANS,
        "assert False == True",
    ),
    Mutant(
        "a trace in a schedule may bring another header",
        "bus/schedules.py",
        'pattern=r"^[0-9a-f-]*$")',
        'pattern=r"^[0-9a-f-]*")',
        TRACED,
        "DID NOT RAISE",
    ),
    Mutant(
        "a line is the same work whoever is to do it",
        "revo/cli/source.py",
        '"line", self.to, work, str(n))',
        '"line", work, str(n))',
        OTHER_WORK,
        "assert 1 == 3",
    ),
    Mutant(
        "a line of a file of work is another task each time",
        "revo/cli/reader.py",
        "            item.task_id = tasks.task_id_of_key(key, self._secret)\n",
        "            item.task_id = tasks.new_task_id()\n",
        TAKEN_UP,
        "assert 40 == 20",
    ),
    Mutant(
        "the suite does not mind when a worker acknowledges first",
        "revo/conformance/checks/heard.py",
        'if not any(seen.order < settled.order for seen in bench.tap.all("done", task.name)):',
        'if not any(seen.order for seen in bench.tap.all("done", task.name)):',
        CONFORMANCE,
        "it acknowledges before the result is stored",
    ),
    Mutant(
        "who holds a lock no more may write by it",
        "actors/memory/fencing.py",
        "        raise StaleFenceError(keys[0], fence.key, fence.token)\n",
        "        return standing.revision\n",
        STALE,
        "assert 'written' == 'refused",
    ),
    Mutant(
        "a lock whose answer was lost is taken twice",
        "actors/memory/locktable.py",
        "    if table.knows(claim.id) or ",
        '    if table.knows("") or ',
        UNANSWERED,
        "Left contains one more item",
    ),
    Mutant(
        "a request that comes after it was given up takes the lock",
        "actors/memory/locks.py",
        "table.change(release, surely=True)",
        "table.change(release)",
        CANCELLED,
        "DID NOT RAISE WrongSequenceError",
    ),
    Mutant(
        "a shared lock goes before an exclusive one that waits",
        "actors/memory/locktable.py",
        "    if next(_blockers(claim, table.holders, table.waiters), None) is None:\n",
        "    if next(_blockers(claim, table.holders, ()), None) is None:\n",
        STARVED,
        "Left contains 20 more items",
    ),
    Mutant(
        "a lock is held for longer than its lease",
        "actors/memory/leasing.py",
        "        return not self.over and self._loop.time() < self.until\n",
        "        return not self.over\n",
        STOPPED,
        "assert not True",
    ),
    Mutant(
        "a task in hand starts although its breaker is open",
        "bus/worker.py",
        "        if not self._recovery.admit(run):",
        "        if self._recovery.admit(run) is None:",
        OPENS,
        "assert not [1",
    ),
    Mutant(
        "a task that is handed back without being run is suspected no more",
        "bus/settling.py",
        "suspect = attempts.suspects(record, envelope) if run.record is NEW else run.record.suspect",
        "suspect = run.record.suspect",
        SUSPECT,
        "(False, 2) == (True, 2)",
    ),
    Mutant(
        "an agent may store results of any capability",
        "bus/roles.py",
        'result, attempt = f"revo.result.*.{address}.*",',
        'result, attempt = "revo.result.>",',
        PUBLISHES + "[shared-echo]",
        "revo.result.bob.other.x1",
    ),
    Mutant(
        "a client hears the results of all",
        "bus/roles.py",
        "hears = [subjects.done(user)] if",
        'hears = ["revo.done.>"] if',
        HEARS + "[own-alice]",
        "DID NOT RAISE",
    ),
    Mutant(
        "a user to be isolated shares the account of the streams",
        "bus/accounts.py",
        "if member.isolated and member.role not in TRUSTED else tenant",
        "if member is None else tenant",
        TRICK,
        "StoredMessage(",
        ("actors/keyring.py", "credentials.OWN if isolated", "credentials.OWN if role is None"),
    ),
    Mutant(
        "the steward cancels for whoever asks",
        "actors/steward/actor.py",
        '        if caller not in ("", client):',
        "        if caller is None:",
        CANCELS,
        "DID NOT RAISE",
    ),
    Mutant(
        "the steward redrives and drops for whoever asks",
        "actors/steward/actor.py",
        '    if caller not in ("", task.client) and task.client:',
        "    if caller is None:",
        REDRIVES,
        "DID NOT RAISE",
    ),
    Mutant(
        "an agent registers under any name",
        "actors/registry/actor.py",
        '        if CALLER.get() not in ("", registration.agent):',
        "        if CALLER.get() is None:",
        REGISTERS,
        "DID NOT RAISE",
    ),
    Mutant(
        "everybody can tell what an idempotency key stands for",
        "bus/tasks.py",
        "hashlib.blake2b(key.encode(), digest_size=16, key=secret)",
        "hashlib.blake2b(key.encode(), digest_size=16)",
        SAME_KEY,
        "nobody can guess",
    ),
    Mutant(
        "credentials that everybody may read are taken",
        "bus/credentials.py",
        "& stat.S_IROTH:",
        "& 0:",
        READABLE,
        "DID NOT RAISE",
    ),
    Mutant(
        "the task is acknowledged before its result is stored",
        "bus/settling.py",
        "        assert outcome.result is not None\n        result =",
        "        assert outcome.result is not None\n        await self._settle(run, Settle.ACK)\n        result =",
        AFTER_RESULT,
        "the worker died with the only copy",
    ),
    Mutant(
        "a result is stored although there is one",
        "bus/endings.py",
        _FIRST_ONLY,
        "        MSG_TTL",
        FIRST_STANDS,
        "the second worker cannot be rid of its task",
    ),
    Mutant(
        "a result replaces the one that stands",
        "bus/endings.py",
        _FIRST_ONLY,
        "        MSG_TTL",
        FIRST_STANDS,
        "the second result replaced it",
        ("bus/streams.py", '"discard": "new", "discard_new_per_subject": True}', '"discard": "old"}'),
    ),
    Mutant(
        "deliveries are counted as attempts",
        "bus/running.py",
        "run.envelope.attempt = run.record.errors + 1",
        "run.envelope.attempt = run.envelope.deliveries",
        ATTEMPTS,
        "('failed', 3, 3)",
    ),
    Mutant(
        "a failed task is settled before its dead letter is stored",
        "bus/settling.py",
        _MAKE_SURE + _SETTLE,
        _SETTLE + _MAKE_SURE,
        AFTER_LETTER,
        "the worker died and nobody will write the dead letter",
    ),
    Mutant(
        "a redelivered task that had failed gets no dead letter",
        "bus/settling.py",
        "                await self._make_sure_of_the_rest(run, payload)\n",
        "",
        AFTER_LETTER,
        "assert await buried(mesh, handle.task_id)",
    ),
    Mutant(
        "a failed task gets no dead letter",
        "bus/settling.py",
        _MAKE_SURE + _SETTLE,
        _SETTLE,
        LETTER,
        "assert await buried(mesh, handle.task_id)",
    ),
    Mutant(
        "a redelivered task that has its result runs again",
        "bus/running.py",
        "if envelope.deliveries > 1 or envelope.named:",
        "if envelope.named:",
        AFTER_LETTER,
        "a task that had its result ran again",
    ),
    Mutant(
        "a task whose chosen id has a result runs again",
        "bus/running.py",
        "if envelope.deliveries > 1 or envelope.named:",
        "if envelope.deliveries > 1:",
        SAME_ID,
        "assert runs == 1",
    ),
    Mutant(
        "the ack deadline is not extended",
        "bus/extender.py",
        'await connection.publish(reply, b"+WPI")',
        "pass",
        EXTENDED,
        "DID NOT RAISE",
    ),
    Mutant(
        "a suspect task runs beside others",
        "bus/running.py",
        "        await self._seclude(run)\n",
        "",
        ALONE,
        "it runs beside another that would die with it",
    ),
    Mutant(
        "a drain keeps what waits in hand",
        "bus/worker.py",
        "for run in self._held.clear():",
        "for run in ():",
        HANDED_BACK,
        "ResultTimeoutError",
    ),
    Mutant(
        "a drain does not wait for what runs",
        "bus/worker.py",
        "        await self._until_idle(timeout)\n",
        "",
        WAITS,
        "it stopped a handler that had time left",
    ),
    Mutant(
        "a worker without a free slot pulls on",
        "bus/worker.py",
        "wanted = max(0, self._concurrency - len(self._active) + ahead - len(self._held))",
        "wanted = self._concurrency",
        NO_SLOT,
        "busy._puller.quiet",
    ),
    Mutant(
        "a result that cannot be stored is not tried again",
        "bus/settling.py",
        "standing = await self.persist(run, lambda: store(self._connection, run.envelope, result), first)",
        "raise",
        RETRIED,
        "it ran again although its worker had the result",
    ),
    Mutant(
        "a cancelled task leaves the queue before its result is stored",
        "bus/early.py",
        _STORE,
        _DELETE + _STORE,
        CANCEL_STORED,
        "the task is neither queued nor ended",
    ),
    Mutant(
        "a worker is not told that its task was cancelled",
        "bus/revoked.py",
        "            self._let_go(one, why)\n        if runs:\n",
        "            continue\n        if runs:\n",
        CANCEL_STOPS,
        "worker.in_hand == 0",
    ),
    Mutant(
        "a cancel forgets the children",
        "bus/early.py",
        'if standing.status == "cancelled":\n            children',
        'if standing.status == "never":\n            children',
        CANCEL_STOPS,
        "its child goes on",
    ),
    Mutant(
        "a hand-back for want of room is taken for a death",
        "bus/settling.py",
        '            update |= {"suspect": False, "alone": 0}\n',
        "            update = {}\n",
        UNSTORED,
        "len(runs) == 6",
    ),
    Mutant(
        "whoever is killed three times alone is poison, also in a storm",
        "bus/suspicion.py",
        "    if await others_die(own, RECENT * policy.ack_wait):",
        "    if False:",
        STORM_VICTIM,
        "an innocent task pays for it",
    ),
    Mutant(
        "a nak with a pause overtakes the extensions",
        "bus/settling.py",
        "await self._extender.give_back(self._connection, run.envelope.reply, body)",
        "await self._connection.publish(run.envelope.reply, body)",
        "tests/integration/test_handing_back.py::test_a_late_extension_does_not_undo_the_pause_of_a_retry",
        "ResultTimeoutError",
    ),
    Mutant(
        "a double is not noted",
        "bus/settling.py",
        "            await self.persist(run, lambda: endings.note_double(self._connection, run.envelope, result))\n",
        "            pass\n",
        FORGOTTEN,
        "lost=1",
    ),
    Mutant(
        "a result is stored before all that its handler has said",
        "bus/handling.py",
        "                await self._settler.persist(run, bench.flush)\n",
        "                pass\n",
        ALL_SAID,
        "test_progress.py",
    ),
    Mutant(
        "the time limit runs on while what was said is stored",
        "bus/handling.py",
        "            run.alarm.clear()\n",
        "            pass\n",
        KEPT_WHATEVER,
        "test_progress.py",
    ),
    Mutant(
        "what could not be stored while there was no server is not sent again",
        "bus/emitting.py",
        "if self._task.done() and self._untold and isinstance(self._failure, TransportError):",
        "if False:",
        KEPT_WHATEVER,
        "test_progress.py",
    ),
    Mutant(
        "what nobody awaits is dropped when a worker leaves",
        "bus/handling.py",
        "                await self._last_word(run, bench)\n",
        "                pass\n",
        LAST_WORDS,
        "test_progress.py",
    ),
    Mutant(
        "a superseded run hands back what is another's",
        "bus/running.py",
        "return Happening.SUPERSEDED, run.bench.superseded  # there",
        "pass  # there",
        OTHERS,
        "the delivery is another's",
    ),
    Mutant(
        "whoever listens does not see that he has missed something",
        "bus/following.py",
        "if link != self._position:",
        "if False:",
        UNHEARD,
        "nothing is lost",
    ),
    Mutant(
        "a later run numbers what it says from one on again",
        "bus/emitting.py",
        "self.number = 1 + (number_of(standing) if standing is not None else 0)",
        "self.number = 1",
        ZOMBIE,
        "test_checkpoints.py",
    ),
    Mutant(
        "what an attempt says that was thought dead is shown",
        "bus/following.py",
        "if run < self._run or not number:",
        "if not number:",
        ZOMBIE,
        "test_checkpoints.py",
    ),
    Mutant(
        "a checkpoint is written whatever stands there",
        "bus/checkpoints.py",
        "            EXPECTED_SUBJECT_SEQUENCE: str(expected),\n",
        "",
        ZOMBIE,
        "not within",
    ),
    Mutant(
        "a state is stored before what was shown before it",
        "bus/checkpoints.py",
        "while save.mark is not None and not save.mark.done:",
        "while False:",
        SAID_FIRST,
        "of two that wait only the newer is stored",
    ),
    Mutant(
        "a flush that is given up cancels its future",
        "bus/connection.py",
        "await asyncio.wait((pong,))  # which does not cancel it",
        "await pong",
        DEAF,
        "InvalidStateError",
    ),
    Mutant(
        "a pull that the server has lost is not missed",
        "bus/pull.py",
        "            self._expired(generation, pull)\n\n    def _on_message",
        "            pass\n\n    def _on_message",
        STANDING,
        "ResultTimeoutError",
    ),
    Mutant(
        "every attempt that a dead worker had told of is called lost",
        "bus/obituary.py",
        "            return False\n        record",
        "            return True\n        record",
        OWN_END,
        "assert done.task_id not in steward.log",
    ),
    Mutant(
        "nothing more urgent comes in while enough is in hand",
        "bus/worker.py",
        "return self._pace.reserve - self._held.count(rank)",
        "return 0",
        URGENT,
        "not within 10 s",
    ),
    Mutant(
        "whoever contradicts a definition is let in",
        "actors/registry/definitions.py",
        "raise DefinitionConflictError(name, ours, against.agent, difference, registration.version)",
        "return False",
        CONTRADICTS,
        "disagree on the capability",
    ),
    Mutant(
        "of two that contradict each other at the same moment both are let in",
        "actors/registry/actor.py",
        "if known is not None and known.conflict:",
        "if False:",
        AT_ONCE,
        "len(refused) == 2",
    ),
    Mutant(
        "no two versions of one agent live side by side",
        "actors/registry/model.py",
        "(self.agent != other.agent or self.version == other.version)",
        "True",
        SIDE_BY_SIDE,
        "painter 2.0.0 lives with another schema",
    ),
    Mutant(
        "one agent has two schemas in one version",
        "actors/registry/model.py",
        "(self.agent != other.agent or self.version == other.version)",
        "(self.agent != other.agent)",
        ONE_VERSION,
        "DID NOT RAISE",
    ),
    Mutant(
        "a lease that ran out is not taken again",
        "actors/registry/registrar.py",
        "            await self._take_again()\n",
        "            pass\n",
        HANGS,
        "not within 10 s",
    ),
    Mutant(
        "the lease of an instance whose loop is blocked is not renewed",
        "actors/endpoints.py",
        "            pulse=self._registrar.pulse,\n",
        "",
        BLOCKS,
        "it lives",
    ),
    Mutant(
        "anybody gives up anybody's lease",
        "actors/registry/actor.py",
        "if held.owner != owner_of(lease.secret):",
        "if False:",
        FOREIGN,
        "DID NOT RAISE",
    ),
    Mutant(
        "who compares and swaps swaps without comparing",
        "actors/memory/writing.py",
        '{EXPECTED_SUBJECT_SEQUENCE: f"{first.base or 0}"}',
        "{}",
        COMPARED,
        "== 15",
    ),
    Mutant(
        "whether a lock is still held is looked at, but is no condition of the write",
        "actors/memory/writing.py",
        "plain_part(job, one, condition)",
        "plain_part(job, one, {})",
        LATE,
        "DID NOT RAISE",
    ),
    Mutant(
        "what was stored is not looked for when it is asked for again",
        "actors/memory/writing.py",
        "if job.asked and (done := await self._earlier",
        "if False and (done := await self._earlier",
        ASKED_TWICE,
        "the answer was lost",
    ),
    Mutant(
        "what one coordinator refused another may carry out later",
        "actors/memory/writing.py",
        "if not await self._sender.forgo(job):",
        "if False:",
        f"{BOTH_HAVE_IT}[a first one that is none]",
        "stored 1 times",
    ),
    Mutant(
        "what a coordinator stores has no id by which the server knows it again",
        "actors/memory/sending.py",
        "{**parts[0].headers, MSG_ID: job.id}",
        "parts[0].headers",
        f"{BOTH_HAVE_IT}[a first one that is none]",
        "stored 1 times",
    ),
    Mutant(
        "a server that was started anew is taken for the one that knows what it stored",
        "actors/memory/sending.py",
        "if not decisive and connection.server_id != server:",
        "if False:",
        f"{STORED_ONCE}[pushed out-]",
        "DID NOT RAISE",
    ),
    Mutant(
        "of two who counted one is not counted",
        "actors/memory/merge.py",
        "total = numbers[2] + numbers[1] - numbers[0]",
        "total = max(numbers[2], numbers[1])",
        COUNTS,
        "Failing test case",
    ),
    Mutant(
        "what one deleted and the other changed is gone",
        "actors/memory/merge.py",
        "both = ours is theirs",
        "both = True",
        DELETED,
        "[] == ['a']",
    ),
    Mutant(
        "of two that put something in at one place one is taken",
        "actors/memory/lists.py",
        "elif same(they, was) or same(we, they):",
        "elif same(they, was) or same(we, they) or not old:",
        INSERTED,
        "[] == ['a']",
    ),
    Mutant(
        "a second contradiction takes the place of the first",
        "actors/memory/strategies.py",
        "alternatives = (*alternatives, Alternative(value, *more))",
        "alternatives = (Alternative(value, *more),)",
        JOINS,
        "() == (Alternative(",
    ),
    Mutant(
        "a replica answers before it knows what its asker knows",
        "actors/registry/actor.py",
        """of one agent, by name, in pages.\"""
        await self._catalog.reached(query.known)
""",
        """of one agent, by name, in pages.\"""
""",
        SAME_VIEW,
        "DID NOT RAISE",
    ),
    Mutant(
        "children that wait or run are not looked for",
        "bus/submitting.py",
        'sequence = family.standing.get(f"{capability}.{task_id}", 0)',
        "sequence = 0",
        FOUND_AGAIN,
        "== (11, 0, True)",
    ),
    Mutant(
        "a named child of a repeated run is charged again",
        "bus/submitting.py",
        "(sealed.child is None and family.wallet is None)",
        "sealed.child is None",
        "tests/integration/test_budgets.py::"
        "test_what_a_killed_handler_spent_is_spent_and_its_children_count_once[True]",
        "{'tasks': 4} != {'tasks': 7}",
    ),
    Mutant(
        "submit_many sends a thousand messages at once, however large",
        "bus/submitting.py",
        "while len(sent) >= _WINDOW or size > _WINDOW_BYTES:",
        "while len(sent) >= _WINDOW:",
        "tests/integration/test_payloads.py::"
        "test_many_messages_are_submitted_without_holding_more_than_a_few[False-400000]",
        "MiB of 64",
    ),
    Mutant(
        "what a handler submits after it has resumed begins anew",
        "bus/workbench.py",
        "self.family.go_on(self._checkpoint.children)",
        "self.family.so_far()",
        "tests/integration/test_families.py::"
        "test_a_handler_that_goes_on_from_what_it_saved_submits_the_next_child_and_not_an_earlier_one",
        "== [4, 5, 6, 7]",
    ),
    Mutant(
        "children that have ended are not looked for",
        "bus/submitting.py",
        "if not sequence and not arrival.done:",
        "if not sequence and arrival.done:",
        FOUND_AGAIN,
        "== (11, 0, True)",
    ),
    Mutant(
        "what nobody awaits is not waited for",
        "bus/handling.py",
        "                await self._settler.persist(run, family.wallet.settle)\n",
        "                pass\n",
        UNAWAITED,
        "DID NOT RAISE",
    ),
    Mutant(
        "who is of a family without a budget left goes on",
        "actors/steward/families.py",
        "if _over(child, told, spent) is None:",
        "if True:",
        SPENT_UP,
        "not within",
    ),
]


def copy(to: Path) -> None:
    """Copy what the tests need, with what was compiled from it: that is known by the time and size of its source."""
    ignored = shutil.ignore_patterns("mutants")
    for package in ("bus", "actors", "revo", "tests"):
        shutil.copytree(ROOT / package, to / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", to)


def changed(tree: Path, edit: Edit) -> str:
    """The file as it is to be; a text that does not stand there exactly once is an error in the table."""
    file, original, replacement = edit
    text = (tree / file).read_text(encoding="utf-8")
    count = text.count(original)
    assert count == 1, f"{file} holds this {count} times; the table must follow the code:\n{original}"
    return text.replace(original, replacement)


def mutate(mutant: Mutant, tree: Path) -> None:
    """Change the copy, of which nothing must be compiled then."""
    for edit in mutant.edits:
        file = tree / edit[0]
        file.write_text(changed(tree, edit), encoding="utf-8")
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()


_FEW = {"REVO_TEST_NO_FORKS": "1"}
"""An interpreter for each process costs less than one to fork them from, where there are few."""


def run_tests(tree: Path, *nodes: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run these tests of the copy, whose modules come before the installed ones."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run(
        [*command, "--tb=short", "--timeout", "40", f"--basetemp={tree / 'tmp'}", *nodes],
        cwd=tree,
        env={**outer, "PYTHONPATH": str(tree), "REVO_TEST_PATIENCE": "10", **_FEW, **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


RARELY = frozenset(
    {
        "a large value is given up when the server goes away in its middle",
        "what fell due and found no room in the queue is settled",
        "a client changes the schedules of another",
        "what occurred is looked for before what is due, and so is missed on its way",
        "what fell due while it was paused stays paused, to be done again",
        "what a killed server forgot is not made up for",
        "a move that was begun is left as it is",
        "a copy that has ended does not have its original deleted",
        "two stewards move at once",
        "a pause that comes while a lane is made passes it over",
        "a cancelled task runs on under the sequence of its copy",
        "a lane that is told of while pulls open is left out",
        "a lane never has its turn",
        "a trace in a schedule may bring another header",
        "a line is the same work whoever is to do it",
        "the suite does not mind when a worker acknowledges first",
        "the time limit runs on while what was said is stored",
        "what could not be stored while there was no server is not sent again",
        "what nobody awaits is dropped when a worker leaves",
        "a superseded run hands back what is another's",
        "a later run numbers what it says from one on again",
        "what an attempt says that was thought dead is shown",
        "a state is stored before what was shown before it",
        "a named child of a repeated run is charged again",
        "submit_many sends a thousand messages at once, however large",
        "children that have ended are not looked for",
        "what nobody awaits is not waited for",
        "who is of a family without a budget left goes on",
        "what a coordinator stores has no id by which the server knows it again",
    }
)
"""Are run with `REVO_MUTANTS=all`: each takes seconds of processor time, and the suite has ten minutes."""
EVERY = os.environ.get("REVO_MUTANTS") == "all"
OFTEN = [mutant for mutant in MUTANTS if EVERY or mutant.name not in RARELY]


def test_the_table_follows_the_code() -> None:
    assert {mutant.name for mutant in MUTANTS} >= RARELY
    for mutant in MUTANTS:
        for edit in mutant.edits:
            changed(ROOT, edit)


@pytest.mark.parametrize("mutant", OFTEN, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_changed_line_turns_the_proof_of_its_guarantee_red(mutant: Mutant, tmp_path: Path) -> None:
    copy(tmp_path)
    mutate(mutant, tmp_path)
    done = run_tests(tmp_path, mutant.test)
    report = done.stdout + done.stderr
    assert done.returncode == 1, f"exit status {done.returncode}; 0: it survived; 2 to 5: no test ran\n{report}"
    assert f"FAILED {mutant.test}" in report, report
    assert mutant.says in report, f"it failed of something else:\n{report}"


def test_without_a_change_the_proofs_are_green_and_all_their_processes_run_the_copy(tmp_path: Path) -> None:
    copy(tmp_path)
    witness = tmp_path / "witness"
    with (tmp_path / "bus" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(
            "\nimport os, sys\n"
            "with open(os.environ['WITNESS'], 'a') as file:\n"
            "    file.write(' '.join([__file__, *sys.orig_argv[1:4]]) + '\\n')\n"
        )
    # That all are green is the rest of the suite's to say; here it is that they are of the copy, one of some files.
    nodes = sorted({mutant.test.partition("::")[0]: mutant.test for mutant in OFTEN}.values())[:: 1 if EVERY else 5]
    done = run_tests(tmp_path, *nodes, WITNESS=str(witness))
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= len(nodes), "some of them are tests of several cases"
    seen = witness.read_text(encoding="utf-8").splitlines()
    ours = str(tmp_path / "bus" / "__init__.py")
    assert {line.removeprefix(ours) for line in seen} == {" -m pytest -q", " -m revo run"}
