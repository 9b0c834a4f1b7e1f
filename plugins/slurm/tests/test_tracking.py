"""Verdicts where it matters in which order receipts and what SLURM says come."""

from __future__ import annotations

import time

import pytest
from fractal_backends_slurm.calls import SchedulerError
from fractal_backends_slurm.records import NoAnswerYetError
from fractal_backends_slurm.scheduler import JobState

from conftest import eventually
from fractal_backends import Cause, UnitState
from tests.helpers.slurm_pair import DEADLINE_S, Pair, Told, verdicts

CANCELLED = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00{} ***\n"
BOTH_RUN = "job n1 \nbooted n1 1000\nstarted a n1 10\nstarted b n1 10\n"


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_step_is_killed_and_its_job_runs_on(pair: Pair, name: str) -> None:
    pair.notes(BOTH_RUN + f"step {name} 137 20\n")
    assert pair.told("COMPLETING") == {}
    found = pair.told("RUNNING")
    assert {label: cause for label, (cause, _) in found.items()} == {name: Cause.KILLED}


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("CANCELLED", Cause.CANCELLED),
        ("TIMEOUT", Cause.TIME_LIMIT),
        ("OUT_OF_MEMORY", Cause.OUT_OF_MEMORY),
        ("NODE_FAIL", Cause.NODE_FAILURE),
        ("COMPLETED", Cause.KILLED),
    ],
)
def test_a_step_is_killed_with_its_job(pair: Pair, state: str, cause: Cause) -> None:
    pair.notes(BOTH_RUN + "step a 143 20\n")
    assert [pair.told("COMPLETING"), pair.told("COMPLETING")] == [{}, {}]
    assert pair.told(state)["a"][0] is cause


def test_a_step_was_killed_before_another_one_began_in_a_job_that_ran_out_of_time(pair: Pair) -> None:
    """Nobody had looked for long."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nstep a 137 20\nstarted b n1 30\n")
    assert pair.told("TIMEOUT")["a"][0] is Cause.KILLED


def test_a_step_was_cancelled_in_a_job_that_went_on_and_ran_out_of_time(pair: Pair) -> None:
    pair.files.words = [CANCELLED.format("")]
    pair.notes("job n1 \nbooted n1 1000\nstep a 143 20\nstarted b n1 30\n")
    assert (pair.told("TIMEOUT") | pair.told("TIMEOUT"))["a"][0] is Cause.CANCELLED
    assert pair.retried == []


@pytest.mark.parametrize(
    ("state", "kills", "cause"),
    [
        ("TIMEOUT", -1, Cause.KILLED),
        ("OUT_OF_MEMORY", -1, Cause.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", 0, Cause.KILLED),
    ],
)
def test_a_unit_was_killed_before_another_one_began(pair: Pair, state: str, kills: int, cause: Cause) -> None:
    """Where the kernel does not tell of memory, the last word on that is SLURM's."""
    ended = f"ended a 30.49 0 9 5 -1 {kills} 0"  # 10.03 + (30.49 - 10.03) > 30.49
    pair.notes(f"job n1 \nbooted n1 1000\nstarted a n1 10.03\n{ended}\nstarted b n1 30.49\n")
    assert pair.told(state)["a"][0] is cause


FAILED = [f"ended {name} {at} 1 0 5 -1 -1 0\n" for name, at in (("a", 20), ("b", 30))]
IN_TURN = ["job n1 \nbooted n1 1000\nstarted a n1 10\n" + FAILED[0], "started b n1 20\n" + FAILED[1]]
SIDE_BY_SIDE = [BOTH_RUN + FAILED[0], FAILED[1]]


@pytest.mark.parametrize("notes", [IN_TURN, SIDE_BY_SIDE])
@pytest.mark.parametrize("at_once", [True, False])
def test_only_the_last_that_failed_may_have_been_out_of_memory(
    pair: Pair, notes: list[str], at_once: bool
) -> None:
    """Where the kernel does not tell. Receipts may come together, long after they were written."""
    causes: dict[str, Cause] = {}
    for note in ["".join(notes)] if at_once else notes:
        pair.notes(note)
        causes |= {name: cause for name, (cause, _) in pair.told("RUNNING").items()}
    causes |= {name: cause for name, (cause, _) in pair.told("OUT_OF_MEMORY").items()}
    assert causes == {"a": Cause.TASK_ERROR, "b": Cause.OUT_OF_MEMORY}


@pytest.mark.parametrize("first", "ab")
def test_one_that_failed_before_another_ended_well_is_not_the_last(pair: Pair, first: str) -> None:
    started = [f"started {name} n1 10\n" for name in sorted("ab", key=lambda name: name != first)]
    good = "ended b 30 0 0 5 -1 -1 0\n"
    pair.notes("job n1 \nbooted n1 1000\n" + "".join(started) + good + FAILED[0])
    assert pair.told("OUT_OF_MEMORY")["a"][0] is Cause.TASK_ERROR


def test_the_last_one_is_of_the_last_start(pair: Pair) -> None:
    """Whose node has a clock of its own."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 5000\nended a 5020 1 0 5 -1 -1 0\n")
    pair.notes("job n2 \nbooted n2 900\nstarted b n2 100\nended b 130 1 0 5 -1 -1 0\n")
    causes = {name: cause for name, (cause, _) in pair.told("OUT_OF_MEMORY").items()}
    assert causes == {"a": Cause.TASK_ERROR, "b": Cause.OUT_OF_MEMORY}


def test_a_step_that_was_killed_before_is_not_the_last(pair: Pair) -> None:
    pair.notes(BOTH_RUN + "step b 137 15\n" + FAILED[0])
    assert pair.told("OUT_OF_MEMORY")["a"][0] is Cause.OUT_OF_MEMORY


def test_another_job_of_the_same_submission_is_no_sign_that_this_one_went_on(pair: Pair) -> None:
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nended a 20 0 15 5 -1 0 0\n")
    pair.notes("job n1 \nbooted n1 1000\nstarted b n1 30\n", job="8")
    assert pair.told("TIMEOUT")["a"][0] is Cause.TIME_LIMIT


@pytest.mark.parametrize("went_on", [True, False])
def test_what_slurm_said_of_the_job_is_of_the_unit_that_it_ended_with(pair: Pair, went_on: bool) -> None:
    pair.files.words_on_job = (
        "slurmstepd: error: StepId=7.batch exceeded memory limit (2 > 1), being killed\n"
    )
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nended a 20 0 9 5 -1 0 0\n")
    if went_on:
        pair.notes("started b n1 30\n")
    found = pair.told("FAILED", reason="JobLaunchFailure")
    assert found["a"][0] is (Cause.KILLED if went_on else Cause.OUT_OF_MEMORY)


OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some tasks have been OOM Killed.\n"


@pytest.mark.parametrize(
    ("words", "details", "cause"),
    [
        (CANCELLED.format(""), {}, Cause.CANCELLED),
        ("", {"cancelled_by": 0}, Cause.CANCELLED),
        (CANCELLED.format(" DUE TO TIME LIMIT"), {}, Cause.TIME_LIMIT),
        ("slurmstepd: error: StepId=7.batch exceeded memory limit\n", {}, Cause.OUT_OF_MEMORY),
        ("", {}, Cause.LOST),
    ],
)
def test_a_job_ended_after_a_unit_of_it_had_been_out_of_memory(
    pair: Pair, words: str, details: dict[str, int], cause: Cause
) -> None:
    """SLURM says so of the job as a whole, whenever that was."""
    pair.files.words_on_job = words + OOM
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nended a 20 0 9 5 -1 1 0\nstarted b n1 20\n")
    found = pair.until_all_is_known("OUT_OF_MEMORY", **details)
    assert {name: cause for name, (cause, _) in found.items()} == {"a": Cause.OUT_OF_MEMORY, "b": cause}


def test_a_job_was_cancelled_before_it_came_to_a_unit_and_after_one_was_out_of_memory(pair: Pair) -> None:
    pair.files.words_on_job = CANCELLED.format("") + OOM
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nended a 20 0 9 5 -1 1 0\n")
    assert pair.until_all_is_known("OUT_OF_MEMORY")["b"][0] is Cause.CANCELLED
    assert pair.retried == []


@pytest.mark.parametrize(
    ("state", "problem"),
    [("FAILED", NoAnswerYetError), (None, NoAnswerYetError), (None, SchedulerError)],
)
def test_without_an_answer_there_is_no_verdict(
    pair: Pair, state: str | None, problem: type[SchedulerError]
) -> None:
    pair.notes(BOTH_RUN)
    pair.records.problem = problem("no answer", may_pass=True)
    assert not eventually(lambda: bool(pair.told(state)), 5 * DEADLINE_S)
    pair.records.problem = None
    pair.records.found = {0: JobState("FAILED", nodes="n1", signal=9, of_controller=True)}
    told = pair.until_all_is_known(state)
    assert {name: cause for name, (cause, _) in told.items()} == {"a": Cause.KILLED, "b": Cause.KILLED}


def test_what_the_queue_says_counts_where_nobody_knows_more(pair: Pair) -> None:
    pair.notes(BOTH_RUN)
    pair.records.problem = SchedulerError("no answer", may_pass=True)
    told = pair.until_all_is_known("CANCELLED")
    assert {name: cause for name, (cause, _) in told.items()} == {"a": Cause.CANCELLED, "b": Cause.CANCELLED}


def test_a_unit_was_cancelled_as_soon_as_it_began(pair: Pair) -> None:
    """Within one hundredth of a second, so that its own start is no later than its end."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10.03\nended a 10.03 0 9 0 -1 0 0\n")
    assert pair.told("CANCELLED")["a"][0] is Cause.CANCELLED


def test_a_unit_whose_start_could_not_be_noted_is_submitted_again(pair: Pair) -> None:
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 receipt\nstarted b n1 10\n")
    pair.notes("ended b 20 0 0 5 -1 0 0\nover n1\n")
    pair.told("COMPLETED")
    assert eventually(lambda: "a" not in pair.told("COMPLETED") and bool(pair.tracker.retry), 10)
    assert pair.retried == ["a"]


def test_a_unit_whose_start_can_never_be_noted_is_told_so(pair: Pair) -> None:
    pair.tracker.submission.attempt = 3
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 receipt\nover n1\n")
    pair.told("COMPLETED")
    found: Told = {}
    assert eventually(lambda: found.update(pair.told("COMPLETED")) or "a" in found, 10)
    assert found["a"] == (
        Cause.LAUNCH_FAILED,
        "Nothing could be written to the folder of its submission on n1.",
    )


KILLED_IN_TURN = "started a n1 5000\nended a 5020 0 9 5 -1 0 0\n"
KILLED_STEP = "started a n1 5000\nstep a 137 5020\n"


@pytest.mark.parametrize("killed", [KILLED_IN_TURN, KILLED_STEP])
@pytest.mark.parametrize("state", ["RUNNING", "TIMEOUT", "NODE_FAIL", "PENDING"])
def test_a_unit_was_killed_and_its_job_started_again(pair: Pair, killed: str, state: str) -> None:
    """SLURM ends what runs before it starts a job again; what befalls that is not of the unit."""
    pair.notes("job n1 \nbooted n1 1000\n" + killed)
    if state != "PENDING":
        pair.notes("job n2 \nbooted n2 900\nstarted b n2 100\n")
    cause, info = (pair.told(state) or pair.told(state))["a"]
    assert cause is Cause.NODE_FAILURE
    assert "SLURM started its job again" in info


def test_a_unit_was_killed_in_a_job_that_was_seen_to_run_on_and_started_again(pair: Pair) -> None:
    pair.notes(BOTH_RUN + "ended a 20 0 9 5 -1 -1 0\n")
    told = pair.told("RUNNING") | pair.told("RUNNING")
    pair.notes("job n2 \nbooted n2 900\n")
    told |= pair.told("NODE_FAIL")
    assert told["a"][0] is Cause.KILLED


def test_a_start_that_lives_on_beside_the_next_on_the_same_node(pair: Pair) -> None:
    """What it writes, its last line too, is not of the next one."""
    pair.notes("job n1/5 \nbooted n1/5 1000\nstarted a n1/5 10\njob n1/6 \nbooted n1/6 1000\n")
    pair.notes("refused a 20 claimed\nstarted b n1/6 20\nended a 30 0 0 5 -1 0 0\nover n1/5\n")
    end = time.monotonic() + 3 * DEADLINE_S
    while time.monotonic() < end:
        assert "b" not in pair.told("RUNNING")
    pair.notes("ended b 40 3 0 5 -1 0 0\nover n1/6\n")
    assert pair.told("COMPLETED")["b"][0] is Cause.TASK_ERROR


def test_a_node_fails_before_a_unit_starts_and_its_job_is_started_again(pair: Pair) -> None:
    pair.files.words = [CANCELLED.format(" DUE TO NODE FAILURE")]
    pair.notes("job n1 \nbooted n1 1000\nstep a 143 20\n")
    pair.notes("job n2 \nbooted n2 900\nstarted b n2 100\n")
    assert eventually(lambda: pair.told("RUNNING") != {} or pair.retried != [], 10)
    assert pair.retried == ["a"]


def test_a_unit_was_killed_and_its_job_came_to_its_end_before_it_started_again(pair: Pair) -> None:
    """As where the controller forgot that it had."""
    pair.notes("job n1 \nbooted n1 1000\nstarted b n1 10\nended b 20 0 0 5 -1 0 0\n")
    pair.notes("started a n1 5000\nended a 5020 0 9 5 -1 0 0\nover n1\njob n1 \n")
    told = pair.told("NODE_FAIL") | pair.told("NODE_FAIL")
    assert told["a"][0] is Cause.KILLED


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "NODE_FAIL"])
def test_a_unit_failed_and_its_job_started_again(pair: Pair, state: str) -> None:
    """By itself, wherever SLURM was with its job by then."""
    pair.notes("job n1 \nbooted n1 1000\nstarted b n1 10\nended b 20 0 0 5 -1 -1 0\n")
    pair.notes("started a n1 5000\nended a 5020 3 0 5 -1 -1 0\nover n1\n")
    pair.notes("job n2 \nbooted n2 900\n")
    told = pair.told("RUNNING") | pair.told(state) | pair.told(state)
    assert told["a"][0] is Cause.TASK_ERROR


def test_srun_cannot_start_what_it_might(pair: Pair) -> None:
    """Its own words are told in the end, not what may befall other units."""
    pair.files.words = ["srun: error: Unable to confirm allocation for job 7: Invalid job id specified\n"] * 2
    pair.tracker.submission.attempt = 3
    pair.notes("job n1 \nbooted n1 1000\nstep a 1 20\nover n1\n")
    pair.told("COMPLETED")
    cause, info = pair.told("COMPLETED")["a"]
    assert cause is Cause.LAUNCH_FAILED
    assert info.startswith("srun could not start it. Its last words: srun: error: Unable to confirm")


def test_a_unit_was_killed_long_before_its_job_started_again(pair: Pair) -> None:
    """Its array task had gone on; the second start is on a node with a clock of its own."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 5000\nended a 5020 0 9 5 -1 0 0\nstarted b n1 5021\n")
    pair.notes("job n2 \nbooted n2 900\n")
    assert pair.told("TIMEOUT")["a"][0] is Cause.KILLED


def test_the_time_of_a_unit_is_counted_in_whole_hundredths(pair: Pair) -> None:
    """16410.01 - 16350.01 < 60."""
    pair.notes("job n1 60\nbooted n1 1000\nstarted a n1 16350.01\nended a 16410.01 124 0 5 -1 0 0\n")
    assert pair.told("RUNNING")["a"][0] is Cause.TIME_LIMIT


def test_a_run_is_cancelled_after_a_step_was_killed(pair: Pair) -> None:
    pair.notes(BOTH_RUN + "step a 137 20\n")
    assert pair.told(None) == {}
    found = verdicts(pair.tracker.give_up())
    assert (found["a"][0], found["b"][0]) == (Cause.KILLED, Cause.CANCELLED)


def test_a_unit_ends_well_while_its_run_is_cancelled(pair: Pair) -> None:
    """Nobody had read yet that it had started. Of the other one it is the cancel that ended it."""
    pair.notes("job n1 \nbooted n1 1000\n")
    pair.files.new = "started a n1 10\nstarted b n1 10\nended a 30 0 0 5 -1 0 0\nended b 30 0 15 5 -1 0 0\n"
    events = list(pair.tracker.give_up())
    assert [e.state for e in events if e.unit.label == "a"] == [UnitState.STARTED, UnitState.ENDED]
    found = verdicts(events)
    assert (found["a"][0], found["b"][0]) == (Cause.DONE, Cause.CANCELLED)


@pytest.mark.parametrize(
    ("reason", "partition", "is_over"),
    [
        ("PartitionTimeLimit", "short", True),
        ("PartitionTimeLimit", "long,short", False),
        ("BadConstraints", "long,short", True),
    ],
)
def test_one_of_several_partitions_is_enough(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, reason: str, partition: str, is_over: bool
) -> None:
    """SLURM tells the reason of the one that it looked at last."""
    monkeypatch.setattr("fractal_backends_slurm.tracking._SURE_S", 0.0)
    told = [pair.told("PENDING", nodes="", reason=reason, partition=partition) for _ in range(2)]
    assert bool(told[1]) is is_over


def test_the_log_of_a_unit_that_failed_is_waited_for(pair: Pair) -> None:
    """The first calls that bring files fail."""
    pair.files.problems = ["Connection reset"] * 10
    pair.notes(BOTH_RUN + "ended a 30 3 0 5 -1 0 0\n")
    told = pair.told("RUNNING")
    assert told == {}
    assert eventually(lambda: told.update(pair.told("RUNNING")) or "a" in told, 10)
    assert told["a"][0] is Cause.TASK_ERROR
    assert pair.files.problems == [] and "Connection reset" not in told["a"][1]


def test_the_log_of_a_unit_that_failed_does_not_come(pair: Pair) -> None:
    pair.files.problems = ["Connection reset"] * 1000
    pair.notes(BOTH_RUN + "ended a 30 3 0 5 -1 0 0\n")
    told: Told = {}
    assert eventually(lambda: told.update(pair.told("RUNNING")) or "a" in told, 10)
    assert told["a"][0] is Cause.TASK_ERROR
    assert "Connection reset" in told["a"][1]


def test_a_run_is_cancelled_whose_files_do_not_come(pair: Pair) -> None:
    """Each unit is told of all the same."""
    pair.notes(BOTH_RUN + "ended a 30 0 0 5 -1 0 1\n")
    found = verdicts(pair.tracker.give_up())
    assert (found["a"][0], found["b"][0]) == (Cause.LOST, Cause.CANCELLED)


def test_a_later_runner_finds_units_of_a_run_that_was_cancelled(pair: Pair) -> None:
    pair.notes("job n1 \nbooted n1 1000\nrefused a 20 cancelled\nover n1\n")
    assert pair.told("COMPLETED")["a"][0] is Cause.CANCELLED


def test_an_epilog_that_comes_to_no_end_is_not_waited_for(pair: Pair) -> None:
    pair.notes(BOTH_RUN + "step a 137 20\nover n1\n")
    assert pair.told("COMPLETING") == {}
    assert eventually(lambda: pair.told("COMPLETING").get("a", (None,))[0] is Cause.KILLED, 10)


def test_a_step_is_cancelled_before_its_unit_starts(pair: Pair) -> None:
    """What srun had said may not be there the next time."""
    pair.files.words = [CANCELLED.format("")]
    pair.notes("job n1 \nbooted n1 1000\nstep a 143 20\n")
    assert pair.told("COMPLETING") == {}
    assert (pair.told("RUNNING") | pair.told("RUNNING"))["a"][0] is Cause.CANCELLED


def test_a_job_is_cancelled_before_a_unit_of_it_starts(pair: Pair) -> None:
    pair.files.words = [CANCELLED.format("")]
    pair.notes("job n1 \nbooted n1 1000\nstep a 143 20\n")
    cause, info = pair.told("CANCELLED", cancelled_by=0)["a"]
    assert cause is Cause.CANCELLED
    assert "It was not started: SLURM says CANCELLED by root" in info


def test_a_node_fails_before_a_unit_starts(pair: Pair) -> None:
    pair.files.words = [CANCELLED.format(" DUE TO NODE FAILURE")]
    pair.notes("job n1 \nbooted n1 1000\nstep a 143 20\n")
    assert pair.told("COMPLETING") == {}
    assert pair.until_all_is_known("NODE_FAIL") == {}
    assert pair.retried == ["a", "b"]


def test_units_that_began_side_by_side_are_noted_in_another_order() -> None:
    """The job went on after one was killed, and then ran out of time."""
    pair = Pair("abc")
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10\nstarted c n1 25\nstarted b n1 15\nstep a 137 20\n")
    assert pair.told("TIMEOUT")["a"][0] is Cause.KILLED


def test_what_a_job_printed_is_read_once_for_all_its_units() -> None:
    pair = Pair("abcdefgh")
    assert pair.until_all_is_known("TIMEOUT").keys() == set("abcdefgh")
    assert pair.files.read == ["7_0.out"]


def test_nothing_can_be_written_on_a_node_whose_epilog_is_long(pair: Pair) -> None:
    pair.tracker.submission.attempt = 3
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 receipt\nrefused b 11 receipt\nover n1\n")
    told = pair.until_all_is_known("COMPLETING")
    assert {info for _, info in told.values()} == {
        "Nothing could be written to the folder of its submission on n1."
    }
