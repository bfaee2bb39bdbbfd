"""Single violations, written out: each is caught, and what looks like it but is allowed is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.history import recording
from tests.history.locks import excludes
from tests.history.recording import Recorder
from tests.history.records import Change, History, Hold, Op, Seen, Shown, Watcher
from tests.history.verdict import violations

NOTHING = Seen(None, None)


def put(  # noqa: PLR0917  (as a line of a table)
    client: str, start: float, end: float, value: str, version: int, base: int | None = None
) -> Op:
    return Op(client, "put", "k", start, end, value=value, base=base, seen=Seen(version, value))


def lost(client: str, start: float, value: str | None, base: int | None = None) -> Op:
    return Op(client, "put" if value else "delete", "k", start, outcome="unknown", value=value, base=base)


def get(client: str, start: float, end: float, seen: Seen) -> Op:
    return Op(client, "get", "k", start, end, seen=seen)


X, Y = Seen(3, "x"), Seen(5, "y")
PUT_X, PUT_Y = put("ann", 0, 1, "x", 3), put("bob", 2, 3, "y", 5)
DELETE = Op("bob", "delete", "k", 2, 3, seen=Seen(5, None))
HOLD = Hold("ann", "k", "exclusive", 2, 0, 4)


def rules(*ops: Op, final: tuple[Seen, ...] | None = None, depth: int = 16, **more: object) -> list[str]:
    """The rules that are broken by these calls; the store holds what they wrote, if nothing else is said."""
    written = {op.seen for op in ops if op.writes and op.outcome == "done" and op.seen}
    kept = tuple(sorted(written, key=lambda seen: seen.version or 0)) if final is None else final
    found = violations(History(ops=ops, final={"k": kept}, depth=depth, **more))  # type: ignore[arg-type]
    return sorted({violation.rule for violation in found})


@pytest.mark.parametrize(
    ("ops", "good"),
    [
        pytest.param([PUT_X, PUT_Y, get("cat", 4, 5, Y)], True, id="the newest is read"),
        pytest.param([PUT_X, PUT_Y, get("cat", 4, 5, X)], False, id="a stale read"),
        pytest.param([PUT_X, PUT_Y, get("cat", 2.5, 5, X)], True, id="a read beside the write may be of before it"),
        pytest.param(
            [PUT_X, put("bob", 2, 9, "y", 5), get("cat", 3, 4, Y), get("dan", 5, 6, X)],
            False,
            id="what one has read, another does not miss later",
        ),
        pytest.param([PUT_X, PUT_Y, get("cat", 4, 5, NOTHING)], False, id="a lost write"),
        pytest.param([PUT_X, DELETE, get("cat", 4, 5, NOTHING)], True, id="a delete"),
        pytest.param([PUT_X, DELETE, get("cat", 4, 5, X)], False, id="a delete that did nothing"),
        pytest.param([PUT_X, lost("bob", 2, None), get("cat", 9, 10, NOTHING)], True, id="a delete without an answer"),
        pytest.param(
            [PUT_X, lost("bob", 2, None), get("cat", 9, 10, NOTHING), get("cat", 11, 12, X)],
            False,
            id="a delete without an answer that is undone",
        ),
        pytest.param(
            [PUT_X, lost("bob", 2, None, 7), get("cat", 9, 10, NOTHING)], False, id="a delete of what was not"
        ),
        pytest.param(
            [PUT_X, lost("bob", 2, "y"), get("cat", 9, 10, X)], True, id="a write that may never have happened"
        ),
        pytest.param(
            [PUT_X, lost("bob", 2, "y"), get("cat", 9, 10, X), get("cat", 11, 12, Y)],
            True,
            id="a write that happened long after its start",
        ),
        pytest.param(
            [PUT_X, lost("bob", 2, "y"), get("cat", 9, 10, Y), get("cat", 11, 12, X)],
            False,
            id="a write without an answer that is undone",
        ),
        pytest.param([PUT_X, get("cat", 0.2, 0.5, Y), PUT_Y], False, id="a read of the future"),
        pytest.param([PUT_X, get("cat", 2, 3, Seen(4, "z"))], False, id="what nobody wrote"),
        pytest.param([PUT_X, get("cat", 2, 3, Seen(4, "x"))], False, id="what was written once, in two versions"),
        pytest.param([PUT_X, put("bob", 2, 3, "y", 2)], False, id="a later write with an older version"),
        pytest.param([PUT_X, put("bob", 2, 3, "y", 3)], False, id="two writes with one version"),
        pytest.param([PUT_X, put("bob", 2, 3, "y", 5, 3)], True, id="compared and swapped"),
        pytest.param(
            [PUT_X, put("bob", 2, 3, "y", 5, 3), put("cat", 2, 3, "z", 6, 3)], False, id="two swaps of one version"
        ),
        pytest.param([PUT_X, put("bob", 2, 3, "y", 5, 0)], False, id="created although it stood there"),
        pytest.param([PUT_X, DELETE, put("cat", 4, 5, "z", 6, 0)], True, id="created after a delete"),
        pytest.param(
            [PUT_X, Op("bob", "put", "k", 2, 3, "refused", "y", 2, X), get("cat", 4, 5, X)], True, id="a conflict"
        ),
        pytest.param(
            [PUT_X, Op("bob", "put", "k", 2, 3, "refused", "y", 3, X)], False, id="a conflict with what it is based on"
        ),
        pytest.param(
            [PUT_X, PUT_Y, Op("cat", "put", "k", 4, 5, "refused", "z", 0, X)], False, id="a conflict with what was"
        ),
        pytest.param(
            [PUT_X, Op("bob", "put", "k", 2, 3, "refused", "y", 2), get("cat", 4, 5, Y)], False, id="refused, and there"
        ),
    ],
)
def test_calls_about_one_key_can_be_told_in_an_order_or_not(ops: list[Op], good: bool) -> None:
    broken = rules(*ops)
    assert not broken if good else "linearizable" in broken


@pytest.mark.parametrize(
    ("final", "depth", "good"),
    [
        ((X, Y), 16, True),
        ((Y,), 1, True),
        ((Y,), 2, False),
        ((X,), 1, False),
        ((), 16, False),
        ((X, Seen(5, None)), 16, False),
        ((Y, X), 16, False),
    ],
    ids=["all", "pushed out", "the older is lost", "the newer is lost", "nothing", "another value", "out of order"],
)
def test_what_was_answered_is_kept_until_newer_ones_push_it_out(
    final: tuple[Seen, ...], depth: int, good: bool
) -> None:
    assert ("kept" in rules(PUT_X, PUT_Y, final=final, depth=depth)) is not good


@pytest.mark.parametrize(
    ("other", "good"),
    [
        (Hold("bob", "k", "exclusive", 3, 5, 6), True),
        (Hold("bob", "k", "exclusive", 3, 3, 6), False),
        (Hold("bob", "k", "shared", 3, 3, 6), False),
        (Hold("bob", "k/l", "shared", 3, 3, 6), False),
        (Hold("bob", "kk", "exclusive", 3, 3, 6), True),
        (Hold("bob", "k", "exclusive", 1, 5, 6), False),
        (Hold("ann", "k", "shared", 3, 3, 6), True),
    ],
    ids=["after", "both at once", "shared", "under it", "elsewhere", "a smaller token", "his own"],
)
def test_who_excludes_others_is_alone(other: Hold, good: bool) -> None:
    assert rules(holds=(HOLD, other)) == ([] if good else ["alone"])


def test_the_matrix_is_that_of_multiple_granularity_locking() -> None:
    modes = ("intent-shared", "intent-exclusive", "shared", "exclusive")
    assert ["".join("x."[not excludes("k", one, "k", other)] for other in modes) for one in modes] == [
        "...x",
        "..xx",
        ".x.x",
        "xxxx",
    ]
    above = ["".join("x."[not excludes("k", one, "k/l/m", other)] for other in modes) for one in modes]
    assert above == ["....", "....", ".x.x", "xxxx"]
    below = ["".join("x."[not excludes("k/l/m", one, "k", other)] for other in modes) for one in modes]
    assert below == ["...x", "..xx", "...x", "..xx"]


@pytest.mark.parametrize(
    ("token", "version", "good"),
    [(2, 3, True), (2, 9, False), (7, 9, True), (7, 6, False)],
    ids=["in time", "another was granted it meanwhile", "the other's own", "older than its token"],
)
def test_no_fenced_write_lands_late(token: int, version: int, good: bool) -> None:
    write = Op("ann", "put", "k", 1, 9, value="x", seen=Seen(version, "x"), fence=Shown("k", token))
    other = Hold("bob", "k", "exclusive", 7, 5, 6)
    assert rules(write, holds=(HOLD, other)) == ([] if good else ["fenced"])
    silent = Op("ann", "put", "k", 1, outcome="unknown", value="x", fence=Shown("k", token))
    late = rules(silent, final=(Seen(version, "x"),), holds=(HOLD, other))
    assert late == ([] if good else ["fenced"]), "also where no answer came"


@pytest.mark.parametrize(
    ("told", "replay", "good"),
    [
        ([(X, 1), (Y, 3)], False, True),
        ([(Y, 3)], False, False),
        ([(Y, 3)], True, True),
        ([(X, 1)], False, False),
        ([], False, False),
        ([(Y, 3), (X, 4)], False, False),
        ([(X, 1), (X, 2), (Y, 3)], False, False),
        ([(X, 1), (Y, 1.5)], False, False),
        ([(X, 1), (Seen(5, "z"), 3)], False, False),
    ],
    ids=["all", "skipped", "it came late", "not the last", "nothing", "order", "twice", "too early", "another"],
)
def test_every_watcher_is_told_all_of_it_in_order(told: list[tuple[Seen, float]], replay: bool, good: bool) -> None:
    watcher = Watcher("eye", "", tuple(Change("k", *one) for one in told), replay=replay)
    assert ("told" in rules(PUT_X, PUT_Y, watchers=(watcher,))) is not good


def test_a_watcher_may_miss_what_was_pushed_out_while_it_was_away_and_nothing_else() -> None:
    writes = [put("ann", number, number + 0.5, f"v{number}", number) for number in range(1, 10)]
    told = [Change("k", Seen(number, f"v{number}"), 9.9) for number in (1, 6, 7, 8, 9)]
    assert not rules(
        *writes, depth=4, final=tuple(one.seen for one in told[1:]), watchers=(Watcher("e", "", tuple(told)),)
    )
    early = [told[0], told[1]._replace(at=6.1), *told[2:]]
    watcher = Watcher("eye", "", tuple(early))
    assert rules(*writes, depth=4, final=tuple(one.seen for one in told[1:]), watchers=(watcher,)) == ["told"]


def test_lines_of_clients_are_a_history_also_where_one_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "ann", "ann")
    value = recorder.next()
    call = recorder.called("put", "k", value=value, base=0, fence=("k", 2))
    recorder.answered(call, "done", (3, value))
    recorder.called("delete", "k")
    recorder.called("get", "k")
    recorder.say("renewed", session="s", asked=1.0, lease=math.inf)
    recorder.say("granted", id="l1", session="s", lock="k", mode="exclusive", token=2)
    recorder.say("releasing", id="l1")
    recorder.say("watching", id="eye", prefix="", replay=True)
    recorder.say("told", id="eye", key="k", version=3, value=value)
    recorder.close()
    with (tmp_path / "ann").open("a") as file:
        file.write('{"what": "told", "id"')
    found = recording.history(recording.read([tmp_path / "ann"]), {"k": [Seen(3, value)]}, 16)
    written, silent = found.ops
    assert (written.client, written.value, written.base, written.seen) == ("ann", value, 0, Seen(3, value))
    assert written.start <= written.end < silent.start
    assert (silent.kind, silent.outcome, silent.end) == ("delete", "unknown", math.inf)
    assert [(hold.lock, hold.token) for hold in found.holds] == [("k", 2)]
    assert [(watcher.replay, watcher.complete, len(watcher.changes)) for watcher in found.watchers] == [
        (True, False, 1)
    ]
    assert not violations(found)


@pytest.mark.parametrize(
    ("renewals", "released", "until"),
    [
        ([(0, 1)], None, 6.0),
        ([(0, 1), (2, 3)], None, 8.0),
        ([(0, 1), (2, 3)], 5.0, 5.0),
        ([(0, 1), (5, 7)], None, 6.0),
        ([(0, 1), (5, 7), (8, 9)], None, 6.0),
    ],
    ids=["never renewed", "renewed", "given back", "renewed too late", "and again"],
)
def test_a_holder_s_time_ends_with_his_lease_as_he_knows_it(
    renewals: list[tuple[float, float]], released: float | None, until: float
) -> None:
    lines = [
        {"what": "renewed", "client": "ann", "at": at, "session": "s", "asked": asked, "lease": 6.0}
        for asked, at in renewals
    ]
    lines.append({"what": "granted", "client": "ann", "at": 1.5, "id": "l", "session": "s", "lock": "k", "token": 2})
    lines[-1]["mode"] = "exclusive"
    if released is not None:
        lines.append({"what": "releasing", "client": "ann", "at": released, "id": "l"})
    (hold,) = recording.history(json.loads(json.dumps(lines)), {}, 16).holds
    assert (hold.start, hold.end) == (1.5, until)
