"""What a coordinator and those who ask it make of names, errors and bounds; no network."""

from __future__ import annotations

import pytest

from actors.memory import crossing, errors
from actors.memory.actor import import_merger
from actors.memory.asking import message
from actors.memory.guests import check, shown
from actors.memory.messages import Listing, Writes
from actors.memory.model import Entry, LockState, Mode, Namespace, agent_of
from actors.memory.waits import Waits
from bus import endings, grants
from bus import errors as bus_errors
from bus.errors import BusError, ConfigError, InvalidSubjectError, RemoteError

CROSSING: list[BusError] = [
    errors.NoSuchVersionError("a", 7, "it never had"),
    errors.TooManyConflictsError("a", 16),
    errors.StaleFenceError("a/b", "a", 7),
    errors.WrongFenceError("the lock on n/a", "does not protect n/b"),
    errors.InvalidTtlError("a", "a ttl of -1 is none"),
    errors.InvalidRuleError("most", "there is none"),
    errors.LockLostError("a", "its session has ended"),
    errors.DeadlockError("a", "exclusive", "x waits for y"),
    errors.NotYourSessionError("ana-1", "ben"),
    errors.TooManyWaitersError("locks of ana", 192),
    errors.OutcomeUnknownError("a"),
    errors.OvertakenError("a", 12, 15.0),
    bus_errors.BatchTooLargeError(1001, 1000),
    bus_errors.EncodeError("a", "a set"),
    bus_errors.InvalidKeyError("a//b", "a part of it is empty"),
    bus_errors.PayloadTooLargeError("a", 2_000_000, 1_000_000),
    bus_errors.QueueFullError("a", "maximum bytes exceeded"),
]


@pytest.mark.parametrize("error", CROSSING, ids=lambda error: error.code)
def test_an_error_is_at_the_other_end_what_it_was_at_this(error: BusError) -> None:
    vars(error)["details"] = crossing.details_of(error)
    info = endings.error_info(error)
    found = crossing.received(RemoteError(info.code, info.message, info.retryable, info.details))
    assert (type(found), str(found), found.args) == (type(error), str(error), error.args)


def test_of_a_conflict_travels_which_version_stands_there_and_neither_value() -> None:
    theirs = Entry("a", 7, "x" * 100_000, 1.5, "ben")
    details = crossing.details_of(errors.ConflictError("a", 3, theirs, "y" * 100_000, "both changed it"))
    assert details["theirs"] == {"version": 7, "at": 1.5, "by": "ben", "deleted": False}
    assert len(str(details)) < 200
    unknown = RemoteError("conflict", "text", details=details)
    assert crossing.received(unknown) is unknown, "who asked makes it, for he has his own value"


def test_nobody_has_the_rank_of_another_by_how_his_instance_is_called() -> None:
    how = Namespace(strategy="highest_rank", ranks={"code": 1, "code-analyst": 9, "my-shop": 5})
    assert [how.rank_of(by) for by in ("code-1a2b3c4d", "code-analyst-1a2b3c4d", "my-shop")] == [1, 9, 5]
    assert how.rank_of("code-other") == 0
    assert agent_of("code-analyst") == "code-analyst", "a user, and no instance of code"


def test_a_session_is_of_use_to_whose_it_is_and_to_operators() -> None:
    check("ana-1a2b3c4d-0123456789abcdef", "ana")
    check("ana-0123456789abcdef", "")
    for session in ("ana-0123456789abcdef", "ana-1a2b3c4d-0123456789abcdef", "ben-ana-0123456789abcdef"):
        with pytest.raises(errors.NotYourSessionError):
            check(session, "ben")
    lock = LockState("notes", "a", Mode.SHARED, "l1", "ana-1a2b3c4d-0123456789abcdef", "ana-1a2b3c4d", 1.0, 7)
    assert shown(lock, "ana") == shown(lock, "") == lock
    assert (shown(lock, "ben").id, shown(lock, "ben").session, shown(lock, "ben").token) == ("", "", 7)


def test_of_all_that_wait_half_are_one_user_s_at_the_most() -> None:
    waits = Waits("locks", 4)
    with waits.place("ana"), waits.place("ana"):
        with pytest.raises(errors.TooManyWaitersError, match="2 requests wait for locks of ana"), waits.place("ana"):
            pass
        with waits.place("ben"), waits.place("cleo"):
            with pytest.raises(errors.TooManyWaitersError, match="4 requests wait for locks already") as refused:
                waits.place("dan").__enter__()
            assert refused.value.retryable
    with waits.place("ana"):
        pass


def test_what_is_granted_of_a_namespace_is_single_subjects() -> None:
    both = grants.remembers("ana", ("notes", "plans:ro"))
    assert "revo.scoped.revo-memory.write.notes.ana" in both
    assert "revo.rpc.revo-memory.open_session.ana" in both
    only = set(grants.remembers("ana", ("plans:ro",)))
    assert only == {f"revo.scoped.revo-memory.{method}.plans.ana" for method in grants.READS}
    assert "revo.scoped.revo-memory.read.*.ana" in grants.remembers("ana", ("*:ro",))
    for wrong in ("a.b", "a:rw", ":ro", "", ">"):
        with pytest.raises(InvalidSubjectError):
            grants.namespace_of(wrong)


def test_what_cannot_be_asked_is_said_before_it_is_sent() -> None:
    with pytest.raises(ConfigError, match="limit"):
        message(Listing, limit=0)
    with pytest.raises(ConfigError, match="id"):
        message(Writes, writes=[], id="short")
    with pytest.raises(ConfigError, match="does not import"):
        import_merger("no.such.module:f")
    with pytest.raises(ConfigError, match="has no function none"):
        import_merger("actors.memory.merge:none")
