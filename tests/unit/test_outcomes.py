"""The outcome table, row by row, as the design has it."""

from __future__ import annotations

import pytest

from bus.outcomes import TABLE, Happening, Policy, Settle, decide

POLICY = Policy(max_attempts=3, backoff=1.0, backoff_max=60.0)

DESIGN = [
    # what happens, result, dead letter, how it is settled
    (Happening.RETURNED, "succeeded", False, Settle.ACK),
    (Happening.RAISED_FOR_GOOD, "failed", True, Settle.TERM),
    (Happening.UNENCODABLE, "failed", True, Settle.TERM),
    (Happening.UNREADABLE, "failed", True, Settle.TERM),
    (Happening.KILLED_ITS_PROCESS, "failed", True, Settle.TERM),
    (Happening.EXPIRED, "expired", False, Settle.TERM),
    (Happening.ENDED_BEFORE, None, False, Settle.ACK),
    (Happening.HANDED_BACK, None, False, Settle.NAK),
    (Happening.SUPERSEDED, None, False, Settle.NOTHING),
]


@pytest.mark.parametrize(("happening", "result", "dead", "settle"), DESIGN)
@pytest.mark.parametrize("attempt", [1, 3, 99])
def test_a_row_of_the_table(happening: Happening, result: str | None, dead: bool, settle: Settle, attempt: int) -> None:
    outcome = decide(happening, attempt=attempt, policy=POLICY)
    assert (outcome.result, outcome.dead, outcome.settle) == (result, dead, settle)


def test_a_retryable_error_is_tried_again_until_the_attempts_are_used_up() -> None:
    again = [decide(Happening.RAISED, attempt=n, policy=POLICY).settle for n in (1, 2)]
    assert again == [Settle.NAK, Settle.NAK]
    last = decide(Happening.RAISED, attempt=3, policy=POLICY)
    assert (last.result, last.dead, last.settle) == ("failed", True, Settle.TERM)


def test_the_table_has_a_row_for_everything_that_can_happen() -> None:
    assert set(TABLE) == set(Happening)


def test_only_what_a_handler_did_counts_as_an_attempt() -> None:
    counting = {happening for happening in Happening if TABLE[happening].counts}
    assert counting == {Happening.RAISED, Happening.RAISED_FOR_GOOD, Happening.UNENCODABLE}


def test_the_pause_doubles_has_jitter_and_is_bounded() -> None:
    for errors, full in ((1, 1.0), (2, 2.0), (5, 16.0), (50, 60.0)):
        pauses = [POLICY.pause(errors) for _ in range(200)]
        assert all(full / 2 <= pause <= full for pause in pauses)
        assert max(pauses) - min(pauses) > full / 10
