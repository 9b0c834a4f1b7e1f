"""What is told of units while the controller of a real SLURM dies, and comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import Cause
from slurm_lab import SlurmLab
from tests.helpers.slurm_faults import GATED, ONE_EACH, QUICK, must_be_told_started
from tests.helpers.slurm_runs import LONG_S, SlurmRun, StartRun, until_asked_again

pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]


def start_and_forget(
    start_run: StartRun, lab: SlurmLab, units: Mapping[str, str], options: Mapping[str, Any], running: str
) -> SlurmRun:
    """A run whose controller is dead, and has saved its jobs only before these units started."""
    lab.wait_until_saves_at_once()
    since = time.time()
    run = start_run(units, options)
    must_be_told_started(run, *running)
    lab.crash_slurmctld()
    if (lab.folder / "state" / "job_state").stat().st_mtime > since + 5:
        lab.start_slurmctld()
        pytest.skip("this machine is too slow: slurmctld has saved, too, what became of the submission")
    return run


def must_be_accepted(run: SlurmRun) -> None:
    """Wait until all units have a job."""

    def have_jobs() -> bool:
        return [handle[0] != "?" for handle in run.handles.values()] == [True] * len(run.names)

    assert eventually(have_jobs, 30), run.story()


def test_a_controller_takes_steps_for_running_that_have_ended(
    start_run: StartRun, slurm_lab: SlurmLab
) -> None:
    """Later ones of their job would wait for ever: it has saved its jobs only before."""
    options = {"tasks_per_job": 6, "parallel_tasks_per_job": 2}
    later = dict.fromkeys("cd", "wait_for gate_2") | {"e": "exit 0", "bad": "exit 3"}
    run = start_run({"a": GATED, "b": GATED, **later}, options)
    must_be_told_started(run, "a", "b")
    slurm_lab.wait_until_saved()
    run.open("gate")
    must_be_told_started(run, "c", "d")
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()
    run.open("gate_2")
    run.must_end(bad=Cause.TASK_ERROR)


def test_the_controller_dies_while_units_run_and_end(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": GATED, "bad": f"{GATED}; exit 3", "late": "wait_for later"}, ONE_EACH)
    for name in run.names:
        run.place_of(name)
    must_be_told_started(run, *run.names)
    slurm_lab.wait_until_saved()
    slurm_lab.crash_slurmctld()
    run.open("gate")
    assert eventually(lambda: "a" in run.outcomes, LONG_S), run.story()
    assert not run.is_over
    slurm_lab.start_slurmctld()
    until_asked_again(slurm_lab)
    run.open("later")
    run.must_end(bad=Cause.TASK_ERROR)


def test_the_controller_is_away_when_steps_are_to_begin(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path
) -> None:
    """What srun could not start has not failed."""
    options = {"tasks_per_job": 3, "parallel_tasks_per_job": 2}
    begun, gate = place / "begun", place / "gate"
    init = f"touch '{begun}'; until [ -e '{gate}' ]; do sleep 0.05; done"
    run = start_run({"a": "exit 0", "bad": "exit 3", "c": "exit 0"}, options, worker_init=init)
    assert eventually(begun.exists, LONG_S), run.story()
    slurm_lab.wait_until_saved()
    slurm_lab.crash_slurmctld()
    gate.touch()

    def all_have_failed() -> bool:
        words = [path.read_text() for path in run.folder.glob("run/.slurm/*/*.step/out")]
        return sum("Unable to" in said for said in words) == 3

    assert eventually(all_have_failed, LONG_S), run.story()
    slurm_lab.start_slurmctld()
    run.must_end(bad=Cause.TASK_ERROR)


def test_the_controller_dies_right_after_a_submission(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """It may have forgotten the jobs, some of which have run: none may be lost, none may run twice."""
    slurm_lab.wait_until_saved()  # nodes refuse numbers that they know from other tests
    names = [f"u{number}" for number in range(12)]
    run = start_run(dict.fromkeys(names, "exit 0"), {**ONE_EACH, "cpus_per_task": 8})
    must_be_accepted(run)
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()

    def is_over_or_resumed() -> bool:
        """Nodes that are given a number for the second time are drained, until somebody resumes them."""
        for node, state in slurm_lab.states().items():
            if state.startswith("drain"):
                slurm_lab.resume(node)
        return run.is_over

    assert eventually(is_over_or_resumed, LONG_S), run.story()
    run.must_end()


def test_the_controller_dies_right_after_a_submission_and_forgets_how_the_array_was_split(
    start_run: StartRun, slurm_lab: SlurmLab
) -> None:
    """Its jobs run; srun cannot start their other steps, and the new controller takes them for cancelled."""
    commands = {**dict.fromkeys("abcdefghijkl", GATED), "bad": f"{GATED}; exit 3"}
    options = {"tasks_per_job": 6, "parallel_tasks_per_job": 2}
    run = start_and_forget(start_run, slurm_lab, commands, options, "abgh")
    run.open("gate")
    slurm_lab.start_slurmctld()
    run.must_end(bad=Cause.TASK_ERROR)
    log = (run.folder / "run" / "workflow.log").read_text()
    assert "which are submitted again" in log, log


def test_a_new_controller_starts_again_what_it_has_forgotten(
    start_run: StartRun, slurm_lab: SlurmLab
) -> None:
    """Or ends it, where the node refuses that. What ran has ended with that, and is not started once more."""
    options = {"tasks_per_job": 2}
    run = start_and_forget(start_run, slurm_lab, dict.fromkeys("abcd", GATED), options, "ac")
    slurm_lab.start_slurmctld()

    def all_is_done_to_it() -> bool:
        return run.told_started("b") and ("c" in run.outcomes or run.told_started("d"))

    assert eventually(all_is_done_to_it, LONG_S), run.story()
    run.open("gate")
    run.must_end(a=Cause.NODE_FAILURE, c=Cause.NODE_FAILURE)


def test_a_new_controller_ends_what_it_has_forgotten(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Of jobs with steps the nodes refuse a second start, and it ends them: nobody cancelled them."""
    options = {"tasks_per_job": 4, "parallel_tasks_per_job": 2}
    run = start_and_forget(start_run, slurm_lab, dict.fromkeys("abcdefgh", GATED), options, "abef")
    slurm_lab.start_slurmctld()
    assert eventually(lambda: {*"abef"} <= run.outcomes.keys(), LONG_S), run.story()
    run.open("gate")
    run.must_end(LONG_S, **dict.fromkeys("abef", Cause.NODE_FAILURE))


def test_what_a_controller_would_start_again_is_cancelled(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """The job scripts are over by then, and not all of their units have ended."""
    options = {"tasks_per_job": 6, "parallel_tasks_per_job": 2}
    run = start_and_forget(start_run, slurm_lab, dict.fromkeys("abcdef", GATED), options, "ab")
    run.open("gate")
    slurm_lab.start_slurmctld()
    for node in slurm_lab.nodes:
        slurm_lab.drain(node)

    def is_over() -> bool:
        return any("over" in path.read_text() for path in run.folder.glob("run/.slurm/*/*.receipt"))

    assert eventually(is_over, LONG_S), run.story()
    if "PENDING" not in slurm_lab.jobs().values():
        pytest.skip("slurmctld has saved, too, that the job had started")
    until_asked_again(slurm_lab)
    run.cancel()
    run.wait()
    assert slurm_lab.jobs() == {}
    assert {name: run.causes[name] for name in "abc"} == {"a": "done", "b": "done", "c": "cancelled"}


@pytest.mark.parametrize(("ends", "was_asked"), [(True, False), (False, True)])
def test_what_a_controller_has_forgotten_is_ended_by_a_cancel(
    start_run: StartRun, slurm_lab: SlurmLab, ends: bool, was_asked: bool
) -> None:
    """It would take what runs for cancelled while it waited, and leave it on its node for long."""
    options = {"tasks_per_job": 2}
    run = start_and_forget(start_run, slurm_lab, dict.fromkeys("abcdef", GATED), options, "ace")
    run.cancel()
    assert eventually(lambda: len(list(run.folder.glob("run/.slurm/*/cancelled"))) == 1, LONG_S), run.story()
    if ends:
        run.open("gate")
    if was_asked:  # and SLURM's commands, which try for long, have given up
        asked = len(slurm_lab.calls("scontrol"))
        assert eventually(lambda: len(slurm_lab.calls("scontrol")) > asked, LONG_S), run.story()
    slurm_lab.start_slurmctld()
    run.wait(120)
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])
    expected = {**dict.fromkeys("ace", "done" if ends else "cancelled"), **dict.fromkeys("bdf", "cancelled")}
    assert run.causes == expected, run.story()
    assert {fields[0] for fields in run.started()} == {*"ace"}


@pytest.mark.parametrize("end", ["done", "cancel"])
def test_a_number_that_was_given_to_a_job_of_somebody_else(
    start_run: StartRun, slurm_lab: SlurmLab, end: str
) -> None:
    """That job is not cancelled in the place of the one that the controller has forgotten."""
    node, other_node, *_ = slurm_lab.nodes
    slurm_lab.drain(node)
    slurm_lab.wait_until_saved()
    run = start_run({"a": "exit 0"}, {**ONE_EACH, "nodelist": node, "receipt_deadline": 5})
    must_be_accepted(run)
    ours = run.handles["a"].partition("_")[0]
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()
    job = ("--parsable", f"--nodelist={other_node}", "--output=/dev/null", "--wrap=sleep 300")
    others = [slurm_lab.run("sbatch", *job).strip() for _ in range(6)]
    if ours not in others:
        pytest.skip("slurmctld has saved the submission")
    if end == "done":
        slurm_lab.heal()
        run.must_end()
    else:
        run.cancel()
        run.wait()
    assert slurm_lab.jobs() == dict.fromkeys(others, "RUNNING")
    slurm_lab.run("scancel", *others)


def test_the_controller_dies_with_units_that_wait(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """They had not started when the controller forgot them."""
    node = slurm_lab.nodes[0]
    slurm_lab.drain(node)
    run = start_run({"a": "exit 0", "b": "exit 3"}, {**ONE_EACH, "nodelist": node})
    must_be_accepted(run)
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()
    slurm_lab.heal()
    run.must_end(b=Cause.TASK_ERROR)


def test_the_controller_is_away_when_units_are_submitted(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    slurm_lab.crash_slurmctld()
    run = start_run({"a": "exit 0", "b": "exit 3"})
    assert eventually(lambda: bool(slurm_lab.calls()), 30), run.story()
    slurm_lab.start_slurmctld()
    run.must_end(b=Cause.TASK_ERROR)


def test_limits_of_the_site_are_waited_for(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Where the controller is away, nothing is guessed in the place of what it allows."""
    with slurm_lab.changed(MaxArraySize="11"):
        slurm_lab.crash_slurmctld()
        run = start_run({f"u{number}": "exit 0" for number in range(25)}, ONE_EACH)
        assert eventually(lambda: len(slurm_lab.calls("scontrol")) > 1, 60), run.story()
        slurm_lab.start_slurmctld()
        run.must_end()
