"""What becomes of units where a job starts anew, or lives on unknown: after a node was lost, or a controller
was started again and had forgotten something."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from fractal_backends_slurm.scheduler import REST, JobState

from conftest import eventually
from fractal_backends import Cause
from tests.helpers.slurm_pair import DEADLINE_S, Pair, Told, verdicts

CANCELLED = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n"
FORGOTTEN = "srun: error: Unable to create step for job 7: Duplicate job id\n"


BEGUN = "begun n1 9\nbooted n1 1000\njob n1 \n"
"""The controller of this node's cluster may believe that it started later than at 1009 s."""


AGAIN = "begun n1/9 24\nbooted n1/9 1000\njob n1/9 \n"
"""A second start on a node where the first one has not come to its end."""


@pytest.mark.parametrize("attempt", [1, 6])
def test_a_controller_forgot_that_a_job_ran(pair: Pair, attempt: int) -> None:
    """It is shown as waiting, started anew and cancelled, although its script came to its own end."""
    pair.files.words, pair.records.was_restarted = [FORGOTTEN] * 4, True
    pair.tracker.submission.attempt = attempt
    pair.notes(BEGUN + "step a 1 20\nstep b 1 20\nover n1\n")
    assert [pair.told("PENDING"), pair.told("PENDING"), pair.tracker.retry] == [{}, {}, []]
    told = pair.until_all_is_known(cancelled_by=0, started_at=1020.0)
    assert (list(told), pair.retried) == (([], ["a", "b"]) if attempt == 1 else (["a", "b"], []))
    for cause, info in told.values():
        assert cause is Cause.NODE_FAILURE
        assert "controller was started again" in info
        assert FORGOTTEN.strip() in info


def test_what_is_started_anew_has_not_ended(pair: Pair) -> None:
    """Its first start was over; the second one is long in a prolog, or in worker_init."""
    pair.notes(BEGUN + "over n1\n")
    looks = [pair.told("PENDING"), pair.told("PENDING")]
    end = time.monotonic() + 2 * DEADLINE_S
    while time.monotonic() < end:
        looks.append(pair.told("RUNNING"))
    pair.notes("begun n2 9\nbooted n2 2000\n")
    looks.append(pair.told("RUNNING"))
    assert not any(looks)
    assert pair.retried == []
    pair.notes(
        "job n2 \nstarted a n2 20\nended a 25 0 0 1 -1 -1 0\nstarted b n2 26\nended b 30 0 0 1 -1 -1 0\n"
    )
    assert [cause for cause, _ in pair.told("RUNNING").values()] == [Cause.DONE] * 2


def test_a_unit_was_killed_and_its_job_waits_for_another_start(pair: Pair) -> None:
    pair.notes(BEGUN + "started a n1 10\nstep a 137 20\nstep b 1 20\nover n1\n")
    assert [pair.told("PENDING"), pair.told("PENDING")] == [{}, {}]
    pair.notes("begun n2 9\nbooted n2 2000\njob n2 \nrefused a 20 claimed\nover n2\n")
    assert {label: cause for label, (cause, _) in pair.told("COMPLETED").items()} == {"a": Cause.KILLED}
    assert eventually(lambda: not any(pair.told("COMPLETED")) and len(pair.tracker.retry) == 1, 10)


def test_a_unit_is_killed_in_a_job_that_was_started_again_and_waits_once_more(pair: Pair) -> None:
    pair.notes(BEGUN + "over n1\n")
    assert [pair.told("PENDING"), pair.told("PENDING")] == [{}, {}]
    pair.notes("begun n2 9\nbooted n2 2000\njob n2 \nstarted a n2 10\nended a 20 0 9 5 -1 0 0\n")
    assert eventually(lambda: pair.told("PENDING").get("a", (None,))[0] is Cause.NODE_FAILURE, 10)


def test_a_script_that_lives_on_starts_no_unit_that_is_submitted_again(pair: Pair) -> None:
    """Its node failed, SLURM says. What it has started meanwhile is its own."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\n")
    assert pair.told("NODE_FAIL") == {}
    assert pair.files.written == ["b.cancelled"]
    pair.notes("ended a 20 0 0 5 -1 0 0\nstarted b n1 20\nended b 30 0 0 5 -1 0 0\nover n1\n")
    assert [cause for cause, _ in pair.told("NODE_FAIL").values()] == [Cause.DONE] * 2
    assert pair.retried == []


def test_a_script_that_lives_on_starts_no_unit_of_a_job_that_somebody_cancelled(pair: Pair) -> None:
    """The controller had forgotten that it ran. It stays cancelled."""
    pair.records.was_restarted = True
    pair.notes(BEGUN + "started a n1 10\n")
    assert pair.told("CANCELLED", nodes="") == {}
    assert pair.files.written == ["b.cancelled"]
    pair.notes("ended a 20 0 0 5 -1 0 0\nrefused b 20 cancelled\nover n1\n")
    told: Told = {}
    assert eventually(lambda: told.update(pair.told("CANCELLED", nodes="")) or len(told) == 2, 10)
    assert (told["a"][0], told["b"][0]) == (Cause.DONE, Cause.CANCELLED)
    assert pair.retried == []


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_script_that_lives_on_comes_to_a_unit_that_is_to_be_submitted_again(
    pair: Pair, is_cancelled: bool
) -> None:
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\n")
    assert pair.told("NODE_FAIL") == {}
    pair.notes("ended a 20 0 0 5 -1 0 0\nrefused b 20 cancelled\nover n1\n")
    if is_cancelled:
        assert verdicts(pair.tracker.give_up())["b"][0] is Cause.CANCELLED
    else:
        assert eventually(lambda: "b" not in pair.told("NODE_FAIL") and bool(pair.tracker.retry), 10)
    assert pair.retried == ([] if is_cancelled else ["b"])


def test_a_unit_runs_that_another_start_was_told_not_to_start(pair: Pair) -> None:
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\n")
    pair.notes("job n2 \nbooted n2 1000\nrefused a 20 cancelled\n")
    assert pair.told("RUNNING") == {}
    pair.notes("ended a 30 0 0 5 -1 0 0\n")
    assert pair.told("RUNNING")["a"][0] is Cause.DONE


def test_a_unit_is_started_by_the_second_job_of_a_submission(pair: Pair) -> None:
    """As its first answer was lost; that one is killed before it can write down its end."""
    pair.notes("job n2 \nbooted n2 1000\nstarted a n2 9\n", job="8")
    assert pair.tracker.submission.jobs == ["7", "8"]
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 claimed\n")
    states = {7: {0: JobState("RUNNING", nodes="n1")}, 8: {0: JobState("NODE_FAIL", nodes="n2")}}
    assert eventually(lambda: pair.told_of(states).get("a", (None,))[0] is Cause.NODE_FAILURE, 10)


@pytest.mark.parametrize("state", ["POWER_UP_NODE", "EXPEDITING", "A_NEW_ONE"])
def test_a_state_that_is_not_known_is_no_end(pair: Pair, state: str) -> None:
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nended a 20 0 9 5 -1 0 0\n")
    end = time.monotonic() + 3 * DEADLINE_S
    while time.monotonic() < end:
        assert pair.told(state) == {}
    assert pair.told("CANCELLED")["a"][0] is Cause.CANCELLED


def test_units_of_a_job_that_is_preempted(pair: Pair) -> None:
    """What was not started is submitted again."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\n")
    told: Told = {}
    assert eventually(lambda: told.update(pair.told("PREEMPTED")) or len(pair.tracker.retry) == 1, 10)
    assert told["a"][0] is Cause.CANCELLED
    assert "PREEMPTED" in told["a"][1]
    assert pair.retried == ["b"]


def test_a_job_that_is_over_is_held(pair: Pair) -> None:
    """Where the controller has forgotten nothing, it is not waited for, but cancelled in the end."""
    pair.notes("begun n1 9\nover n1\n")
    told = pair.told("PENDING", reason="JobHeldAdmin") | pair.told("PENDING", reason="JobHeldAdmin")
    assert [cause for cause, _ in told.values()] == [Cause.LAUNCH_FAILED] * 2
    assert pair.tracker.array_tasks.are_left


def test_a_waiting_array_task_is_cancelled_that_a_controller_forgot_to_have_started(pair: Pair) -> None:
    """Nothing is left of it, but other array tasks of its job are known. Its script may go on for minutes."""
    pair.records.was_restarted = True
    pair.notes(BEGUN + "started a n1 10\n")
    assert pair.told("PENDING") == {}
    told: Told = {}
    others = {7: {1: JobState("RUNNING", nodes="n2")}}
    assert pair.told_of(others) == {}
    assert pair.files.written == ["b.cancelled"]
    assert eventually(lambda: told.update(pair.told_of(others)) or len(told) == 2, 10)
    assert {cause for cause, _ in told.values()} == {Cause.CANCELLED}
    assert "may take minutes to end it" in told["a"][1]
    assert (pair.files.written, pair.tracker.retry) == (["b.cancelled"], [])


def test_a_waiting_array_task_is_cancelled_of_which_there_is_no_record(pair: Pair) -> None:
    """Its receipt might be late: that it is waited for is told, once."""
    others = {1: JobState("RUNNING", nodes="n2")}
    events = pair.events({7: {0: JobState("PENDING", "Priority"), **others}})
    told: Told = {}

    def all_is_told() -> bool:
        events.extend(new := pair.events({7: others}))
        told.update(verdicts(new))
        return len(told) == 2

    assert eventually(all_is_told, 10)
    infos = [event.info for event in events if event.unit.label == "a" and event.outcome is None]
    assert infos == ["Priority", "SLURM has no record of it; receipts may be late"]
    assert {cause for cause, _ in told.values()} == {Cause.CANCELLED}
    assert all("cancelled while it waited" in info for _, info in told.values())


def test_all_array_tasks_that_wait_are_cancelled_one_by_one(pair: Pair) -> None:
    """As `scancel --name` does. There is one record of all of them."""
    rest = JobState("CANCELLED", "Priority", cancelled_by=1000)
    pair.records.found = {REST: rest}
    assert pair.told("PENDING", nodes="") == {}
    since = time.monotonic()
    told: Told = {}
    assert eventually(lambda: told.update(pair.told_of({7: {REST: rest}})) or len(told) == 2, 10)
    assert time.monotonic() - since < DEADLINE_S
    assert {cause for cause, _ in told.values()} == {Cause.CANCELLED}
    assert all("CANCELLED by" in info for _, info in told.values())


def test_what_had_begun_is_not_among_those_that_were_cancelled_while_they_waited(pair: Pair) -> None:
    pair.notes(BEGUN)
    rest = {7: {REST: JobState("CANCELLED", "Priority")}}
    assert eventually(lambda: not any(pair.told_of(rest)) and len(pair.retried) == 2, 10)


def test_a_node_refuses_what_a_controller_has_forgotten(pair: Pair) -> None:
    """It may say that the job failed; by itself, it would have failed in a start that it knew of."""
    pair.records.was_restarted = True
    pair.notes(BEGUN + "started a n1 10\n")
    told: Told = {}
    details = {"of_controller": True, "exit_code": 1, "reason": "NonZeroExitCode", "started_at": 1020.0}
    assert eventually(lambda: told.update(pair.told("FAILED", **details)) or len(pair.tracker.retry) == 1, 10)
    assert told["a"][0] is Cause.NODE_FAILURE
    assert pair.retried == ["b"]


@pytest.mark.parametrize(
    ("was_restarted", "details", "cause"),
    [
        (True, {"started_at": 1020.0, "signal": 15}, Cause.NODE_FAILURE),
        (True, {"started_at": 1020.0, "cancelled_by": 1000}, Cause.CANCELLED),
        (True, {"started_at": 1020.0, "nodes": ""}, Cause.CANCELLED),
        (True, {"started_at": 1009.0}, Cause.CANCELLED),
        (True, {"started_at": None}, Cause.CANCELLED),
        (False, {"started_at": 1020.0}, Cause.CANCELLED),
    ],
)
def test_a_job_that_runs_is_cancelled(
    pair: Pair, was_restarted: bool, details: dict[str, Any], cause: Cause
) -> None:
    """By somebody, or by a controller that forgot that it ran: it believes that it started it later."""
    pair.files.words, pair.records.was_restarted = [CANCELLED], was_restarted
    pair.notes(BEGUN + "started a n1 10\nstep a 137 20\n")
    told = pair.until_all_is_known(**details)
    assert told["a"][0] is cause
    assert pair.retried == (["b"] if cause is Cause.NODE_FAILURE else [])


@pytest.mark.parametrize(
    ("notes", "details", "is_tried_again"),
    [
        ("", {"signal": 0}, True),
        ("", {"signal": 15}, False),
        ("", {"signal": 0, "cancelled_by": 1000}, False),
        ("", {"signal": 0, "nodes": ""}, False),
        ("begun n1 9\nbooted n1 1000\n", {"signal": 15, "started_at": 1020.0}, True),
        ("begun n1 9\nbooted n1 1000\nover n1\n", {"signal": 15, "started_at": 1008.0}, False),
        (BEGUN + "begun n2 9\nbooted n2 1015\n", {"signal": 15, "started_at": 1024.0}, True),
        (BEGUN + "over n1\n" + AGAIN, {"signal": 15, "started_at": 1024.0}, False),
        (BEGUN + AGAIN, {"signal": 15, "started_at": 1024.0}, True),
    ],
)
def test_a_job_is_cancelled_before_its_units_start(
    pair: Pair, notes: str, details: dict[str, Any], is_tried_again: bool
) -> None:
    """By somebody, while it is being started or in worker_init; or its node takes it for one that the
    controller has forgotten, or the controller itself has forgotten it."""
    pair.records.was_restarted = True
    pair.notes(notes)
    told = pair.until_all_is_known(**details)
    assert pair.retried == (["a", "b"] if is_tried_again else [])
    assert all(cause is Cause.CANCELLED for cause, _ in told.values())


def test_the_array_is_cancelled_for_its_last_task_that_a_node_takes_for_a_forgotten_one() -> None:
    """The last one has the number of the whole array. Others of it had just begun; nobody cancelled them."""
    pair = Pair("ab", tasks=2)
    pair.records.was_restarted = True
    pair.notes(BEGUN)
    ended = JobState("CANCELLED", nodes="n1", cancelled_by=0, started_at=1009.0, of_controller=True)
    pair.records.found = {0: ended, 1: ended}
    assert eventually(lambda: pair.told_of({7: {0: ended, 1: ended}}) != {} or len(pair.retried) == 2, 10)
    assert pair.retried == ["a", "b"]


def test_a_controller_forgets_what_it_had_ended_for_a_number_that_it_gave_away() -> None:
    """It is started again before its records are asked for."""
    pair = Pair("ab", tasks=2)
    pair.notes(BEGUN)
    ended = JobState("CANCELLED", nodes="n1")
    assert pair.told_of({7: {0: ended, 1: ended}}) == {}
    pair.records.was_restarted = True
    assert eventually(lambda: pair.told_of({}) != {} or len(pair.retried) == 2, 10)
    assert sorted(pair.retried) == ["a", "b"]


def test_somebody_cancels_one_task_of_an_array_whose_last_one_was_forgotten() -> None:
    pair = Pair("ab", tasks=2)
    pair.records.was_restarted = True
    pair.notes(BEGUN)
    ended = JobState("CANCELLED", nodes="n1", cancelled_by=0, started_at=1009.0, of_controller=True)
    states = pair.records.found = {0: replace(ended, cancelled_by=1000), 1: ended}
    told: Told = {}
    assert eventually(lambda: told.update(pair.told_of({7: states})) or pair.tracker.is_over, 10)
    assert (told["a"][0], pair.retried) == (Cause.CANCELLED, ["b"])


@pytest.mark.parametrize("state", ["TIMEOUT", "COMPLETED", "NODE_FAIL"])
def test_a_second_job_of_a_submission_starts_no_unit_that_is_submitted_again(pair: Pair, state: str) -> None:
    """It is in worker_init."""
    pair.notes(BEGUN + "started a n1 10\nended a 20 0 0 5 -1 0 0\nover n1\n")
    pair.notes("begun n2 9\nbooted n2 1000\n", job="8")
    states = {7: {0: JobState(state, nodes="n1")}, 8: {0: JobState("RUNNING", nodes="n2")}}
    assert eventually(lambda: pair.told_of(states) == {} and pair.retried == ["b"], 10)
    assert pair.files.written == ["b.cancelled"]
    assert pair.tracker.array_tasks.are_left


def test_a_unit_is_started_by_the_second_job_while_the_first_one_comes_to_none(pair: Pair) -> None:
    pair.notes("begun n1 9\nbooted n1 1000\n")
    pair.notes("job n2 \nbooted n2 1000\nstarted b n2 9\n", job="8")
    states = {7: {0: JobState("RUNNING", nodes="n1")}, 8: {0: JobState("NODE_FAIL", nodes="n2")}}
    assert eventually(lambda: pair.told_of(states).get("b", (None,))[0] is Cause.NODE_FAILURE, 10)


def test_a_script_begins_after_its_node_was_lost(pair: Pair) -> None:
    """It is long in a prolog, or its receipt does not show up."""
    assert pair.until_all_is_known("NODE_FAIL") == {}
    assert sorted(pair.retried) == ["a", "b"]
    assert pair.files.written == ["a.cancelled", "b.cancelled"]


@pytest.mark.parametrize("state", ["NODE_FAIL", None])
def test_what_was_just_started_shows_before_it_is_submitted_again(pair: Pair, state: str | None) -> None:
    """Its script may have looked for the file just before that was written."""
    pair.notes(BEGUN + "started a n1 10\n")
    assert eventually(lambda: "b" not in pair.told(state) and pair.files.written == ["b.cancelled"], 10)
    pair.notes("ended a 20 0 0 5 -1 0 0\nstarted b n1 20\n")
    pair.told(state)
    assert pair.retried == []


def test_what_was_kept_from_starting_late_is_given_time_then(pair: Pair) -> None:
    """There was no room for the file at first."""
    pair.files.are_full = True
    pair.notes(BEGUN + "started a n1 10\n")
    end = time.monotonic() + DEADLINE_S / 2
    while time.monotonic() < end:
        assert pair.told("NODE_FAIL") == {}
    pair.files.are_full = False
    assert eventually(lambda: pair.told("NODE_FAIL") == {} and pair.files.written == ["b.cancelled"], 10)
    pair.notes("ended a 20 0 0 5 -1 0 0\nstarted b n1 20\n")
    pair.told("NODE_FAIL")
    assert pair.retried == []


def test_a_unit_that_cannot_be_kept_from_starting_is_not_submitted_again(pair: Pair) -> None:
    pair.files.are_full = True
    pair.notes(BEGUN + "started a n1 10\n")
    told = pair.until_all_is_known("NODE_FAIL")
    assert {cause for cause, _ in told.values()} == {Cause.NODE_FAILURE}
    assert pair.retried == []


def test_a_unit_that_was_kept_from_starting_too_often(pair: Pair) -> None:
    pair.tracker.submission.attempt = 3
    pair.notes(BEGUN)
    assert eventually(lambda: pair.told("NODE_FAIL") != {} or len(pair.files.written) == 2, 10)
    pair.notes("refused a 10 cancelled\nrefused b 10 cancelled\nover n1\n")
    told = pair.until_all_is_known("COMPLETED")
    assert set(told.values()) == {(Cause.LOST, "It was not started: its job on n1 seemed to be lost.")}


def test_an_array_task_came_to_its_end_while_the_controller_was_not_asked(pair: Pair) -> None:
    """It is known no more, although others of its job are; nobody cancelled it."""
    pair.records.was_restarted = True
    assert pair.told("PENDING") == {}
    pair.notes(BEGUN + "refused a 10 receipt\nrefused b 10 receipt\nover n1\n")
    others = {7: {1: JobState("RUNNING", nodes="n2")}}
    assert eventually(lambda: pair.told_of(others) != {} or len(pair.retried) == 2, 10)
    assert pair.retried == ["a", "b"]
