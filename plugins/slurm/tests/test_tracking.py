"""Verdicts where it matters in which order receipts and what SLURM says come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from fractal_backends_slurm.options import SlurmOptions
from fractal_backends_slurm.places import Place
from fractal_backends_slurm.queue_watch import Snapshot
from fractal_backends_slurm.records import Records
from fractal_backends_slurm.scheduler import JobState
from fractal_backends_slurm.submission import Submission
from fractal_backends_slurm.tracking import Tracker

from conftest import eventually
from fractal_backends import Cause, Unit, UnitEvent, UnitState

CANCELLED = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00{} ***\n"
BOTH_RUN = "job n1 \nbooted n1 1000\nstarted a n1 10\nstarted b n1 10\n"
DEADLINE_S = 0.3


class Files:
    """Receipts, what srun said of each step, and SLURM of the job."""

    def __init__(self) -> None:
        self.new, self.job = "", ""
        self.words: list[str] = []
        self.words_on_job = ""
        self.written: list[str] = []

    def text(self, path: Path) -> str:
        if path.name == "7_0.out":
            return self.words_on_job
        return self.words.pop(0) if self.words and path.name == "out" else ""

    def receipts(self, *_: object) -> Iterable[tuple[str, bytes]]:
        new, self.new = self.new, ""
        return [(f"{self.job}_0.receipt", new.encode())] if new else []

    def put(self, folder: Path, files: Mapping[str, bytes], units: object) -> None:
        self.written += files

    def fetch(self, units: object) -> None:
        """All are here."""


class NoRecords:
    """SLURM without accounting."""

    def __init__(self) -> None:
        self.was_restarted = False

    def of(self, job: str, name: str) -> dict[int, JobState]:
        return {}

    def may_be_forgotten(self, at: float) -> bool:
        return self.was_restarted


class Pair:
    """Units a and b, side by side in an array task."""

    def __init__(self) -> None:
        units = [Unit(0, number, f"/nowhere/{name}", ("true",)) for number, name in enumerate("ab")]
        submission = Submission("token", Path("/nowhere/token"), {0: units}, job="7")
        self.files, self.records = Files(), NoRecords()
        options = SlurmOptions(receipt_deadline=DEADLINE_S)
        self.tracker = Tracker(submission, cast(Place, self.files), options, cast(Records, self.records))

    def notes(self, text: str, job: str = "7") -> None:
        """The script of this job wrote this."""
        self.files.new, self.files.job = text, job
        self.tracker.read()

    def told(self, state: str | None, **details: Any) -> dict[str, tuple[Cause, str]]:
        """The verdicts that follow when SLURM says this, asked now."""
        states = {"7": {0: JobState(state, **{"nodes": "n1", **details})}} if state else {}
        return verdicts(self.tracker.look(Snapshot(time.monotonic(), {"7": "fractal-token"}, states)))


def verdicts(events: Iterable[UnitEvent]) -> dict[str, tuple[Cause, str]]:
    return {e.unit.label: (e.outcome.cause, e.outcome.info) for e in events if e.outcome is not None}


@pytest.fixture
def pair() -> Pair:
    return Pair()


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
    assert pair.tracker.retry == []


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


def test_a_unit_was_cancelled_as_soon_as_it_began(pair: Pair) -> None:
    """Within one hundredth of a second, so that its own start is no later than its end."""
    pair.notes("job n1 \nbooted n1 1000\nstarted a n1 10.03\nended a 10.03 0 9 0 -1 0 0\n")
    assert pair.told("CANCELLED")["a"][0] is Cause.CANCELLED


def test_a_unit_whose_start_could_not_be_noted_is_submitted_again(pair: Pair) -> None:
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 receipt\nstarted b n1 10\n")
    pair.notes("ended b 20 0 0 5 -1 0 0\nover n1\n")
    pair.told("COMPLETED")
    assert eventually(lambda: "a" not in pair.told("COMPLETED") and bool(pair.tracker.retry), 10)
    assert [unit.label for unit in pair.tracker.retry] == ["a"]


def test_a_unit_whose_start_can_never_be_noted_is_told_so(pair: Pair) -> None:
    pair.tracker.submission.attempt = 3
    pair.notes("job n1 \nbooted n1 1000\nrefused a 10 receipt\nover n1\n")
    pair.told("COMPLETED")
    found: dict[str, tuple[Cause, str]] = {}
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
    assert "a" not in pair.told("RUNNING") | pair.told("RUNNING") | pair.told("RUNNING")
    assert [unit.label for unit in pair.tracker.retry] == ["a"]


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


FORGOTTEN = "srun: error: Unable to create step for job 7: Duplicate job id\n"


BEGUN = "begun n1 9\nbooted n1 1000\njob n1 \n"
"""The controller of this node's cluster may believe that it started later than at 1009 s."""


AGAIN = "begun n1/9 24\nbooted n1/9 1000\njob n1/9 \n"
"""A second start on a node where the first one has not come to its end."""


def until_all_is_known(pair: Pair, **details: Any) -> tuple[dict[str, tuple[Cause, str]], list[str]]:
    """The verdicts once SLURM says CANCELLED, and what is submitted again."""
    told: dict[str, tuple[Cause, str]] = {}

    def all_is_known() -> bool:
        told.update(pair.told("CANCELLED", of_controller=True, **details))
        return len(told) + len(pair.tracker.retry) == 2

    assert eventually(all_is_known, 10)
    return told, [unit.label for unit in pair.tracker.retry]


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_controller_forgot_that_a_job_ran(pair: Pair, attempt: int) -> None:
    """It is shown as waiting, started anew and cancelled, although its script came to its own end."""
    pair.files.words, pair.records.was_restarted = [FORGOTTEN] * 4, True
    pair.tracker.submission.attempt = attempt
    pair.notes(BEGUN + "step a 1 20\nstep b 1 20\nover n1\n")
    assert [pair.told("PENDING"), pair.told("PENDING"), pair.tracker.retry] == [{}, {}, []]
    told, retried = until_all_is_known(pair, cancelled_by=0, started_at=1020.0)
    assert (list(told), retried) == (([], ["a", "b"]) if attempt == 1 else (["a", "b"], []))
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
    assert pair.tracker.retry == []
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
    assert pair.tracker.retry == []


def test_a_script_that_lives_on_starts_no_unit_of_a_job_that_somebody_cancelled(pair: Pair) -> None:
    """The controller had forgotten that it ran. It stays cancelled."""
    pair.records.was_restarted = True
    pair.notes(BEGUN + "started a n1 10\n")
    assert pair.told("CANCELLED", nodes="") == {}
    assert pair.files.written == ["b.cancelled"]
    pair.notes("ended a 20 0 0 5 -1 0 0\nrefused b 20 cancelled\nover n1\n")
    told: dict[str, tuple[Cause, str]] = {}
    assert eventually(lambda: told.update(pair.told("CANCELLED", nodes="")) or len(told) == 2, 10)
    assert (told["a"][0], told["b"][0]) == (Cause.DONE, Cause.CANCELLED)
    assert pair.tracker.retry == []


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
    assert [unit.label for unit in pair.tracker.retry] == ([] if is_cancelled else ["b"])


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
    names = dict.fromkeys("78", "fractal-token")
    states = {"7": {0: JobState("RUNNING", nodes="n1")}, "8": {0: JobState("NODE_FAIL", nodes="n2")}}

    def found() -> bool:
        events = pair.tracker.look(Snapshot(time.monotonic(), names, states))
        return verdicts(events).get("a", (None,))[0] is Cause.NODE_FAILURE

    assert eventually(found, 10)


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
    told: dict[str, tuple[Cause, str]] = {}
    assert eventually(lambda: told.update(pair.told("PREEMPTED")) or len(pair.tracker.retry) == 1, 10)
    assert told["a"][0] is Cause.CANCELLED
    assert "PREEMPTED" in told["a"][1]
    assert [unit.label for unit in pair.tracker.retry] == ["b"]


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
    told: dict[str, tuple[Cause, str]] = {}
    others = {"7": {1: JobState("RUNNING", nodes="n2")}}

    def both_are_told() -> bool:
        snapshot = Snapshot(time.monotonic(), {"7": "fractal-token"}, others)
        told.update(verdicts(pair.tracker.look(snapshot)))
        return len(told) == 2

    assert eventually(both_are_told, 10)
    assert {cause for cause, _ in told.values()} == {Cause.CANCELLED}
    assert "may take minutes to end it" in told["a"][1]
    assert (pair.files.written, pair.tracker.retry) == (["b.cancelled"], [])


def test_a_node_refuses_what_a_controller_has_forgotten(pair: Pair) -> None:
    """It may say that the job failed; by itself, it would have failed in a start that it knew of."""
    pair.records.was_restarted = True
    pair.notes(BEGUN + "started a n1 10\n")
    told: dict[str, tuple[Cause, str]] = {}
    details = {"of_controller": True, "exit_code": 1, "reason": "NonZeroExitCode", "started_at": 1020.0}
    assert eventually(lambda: told.update(pair.told("FAILED", **details)) or len(pair.tracker.retry) == 1, 10)
    assert told["a"][0] is Cause.NODE_FAILURE
    assert [unit.label for unit in pair.tracker.retry] == ["b"]


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
    pair.files.words, pair.records.was_restarted = [CANCELLED.format("")], was_restarted
    pair.notes(BEGUN + "started a n1 10\nstep a 137 20\n")
    told, retried = until_all_is_known(pair, **details)
    assert told["a"][0] is cause
    assert retried == (["b"] if cause is Cause.NODE_FAILURE else [])


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
    told, retried = until_all_is_known(pair, **details)
    assert retried == (["a", "b"] if is_tried_again else [])
    assert all(cause is Cause.CANCELLED for cause, _ in told.values())


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
    assert [pair.told(state) for state in ("COMPLETING", "NODE_FAIL", "NODE_FAIL")] == [{}, {}, {}]
    assert "a" in [unit.label for unit in pair.tracker.retry]
