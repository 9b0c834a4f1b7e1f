"""What is told of units whose jobs somebody cancels or kills on a real SLURM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from conftest import eventually
from fractal_backends import Cause
from slurm_lab import SlurmLab
from slurm_lab.processes import parent_of
from tests.helpers.slurm_faults import GATED, ONE_EACH, QUICK, WITH_ACCOUNTS
from tests.helpers.slurm_runs import StartRun, until_asked_again

pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]


def test_jobs_are_cancelled_from_outside(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """One that runs, and one that waits; of the latter nothing is left anywhere."""
    options = {**ONE_EACH, "cpus_per_task": 8, "nodelist": slurm_lab.nodes[0]}
    run = start_run({"a": GATED, "b": "exit 0", "c": "exit 0", "d": "exit 3"}, options)
    job = run.place_of("a")[1]
    array, _, index = job.partition("_")
    assert eventually(lambda: "b" in run.handles, 30), run.story()
    until_asked_again(slurm_lab)
    slurm_lab.run("scancel", job, f"{array}_{int(index) + 1}")
    run.must_end(a=Cause.CANCELLED, b=Cause.CANCELLED, d=Cause.TASK_ERROR)
    log = (run.folder / "run" / "workflow.log").read_text()
    assert log.count("ERROR Unit ") == 3, log


@pytest.mark.parametrize("which", ["some", "all"])
def test_waiting_jobs_are_cancelled_from_outside_after_a_restart(
    start_run: StartRun, slurm_lab: SlurmLab, which: str
) -> None:
    """A controller that was started again may have forgotten jobs; it had not forgotten these."""
    node = slurm_lab.nodes[0]
    slurm_lab.drain(node)
    run = start_run({"a": "exit 0", "b": "exit 3", "c": "exit 0"}, {**ONE_EACH, "nodelist": node})
    assert eventually(lambda: len(slurm_lab.jobs()) == 3, 30), run.story()
    array = next(iter(slurm_lab.jobs())).partition("_")[0]
    slurm_lab.wait_until_saved()
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()
    until_asked_again(slurm_lab, 4)
    for index in range(3):
        if which == "all" or index != 1:
            slurm_lab.run("scancel", f"{array}_{index}")
    until_asked_again(slurm_lab, 2)
    slurm_lab.heal()
    b = Cause.CANCELLED if which == "all" else Cause.TASK_ERROR
    run.must_end(a=Cause.CANCELLED, b=b, c=Cause.CANCELLED)


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_a_whole_array_is_cancelled_and_it_is_said_by_whom(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Receipts that may be late are not waited for where there is no node for them to come from."""
    options = {**ONE_EACH, "cpus_per_task": 8, "nodelist": slurm_lab.nodes[0], "receipt_deadline": 60}
    run = start_run({"a": "sleep 300", "b": "exit 0", "c": "exit 0"}, options)
    slurm_lab.run("scancel", run.place_of("a")[1].partition("_")[0])
    run.must_end(30, **dict.fromkeys("abc", Cause.CANCELLED))
    assert all("CANCELLED by root" in outcome.info for outcome in run.outcomes.values()), run.story()


def test_a_cancel_while_slurm_does_not_come_to_an_end(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epilog hangs. What is left is told, and then left to SLURM."""
    monkeypatch.setattr("fractal_backends_slurm.cancelling._STUCK_S", 8.0)
    gate, epilog = place / "epilog-gate", place / "epilog"
    epilog.write_text(f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done\n")
    epilog.chmod(0o755)
    with slurm_lab.changed(Epilog=str(epilog)):
        for node in slurm_lab.nodes:  # they read it when they start
            slurm_lab.kill_slurmd(node)
            slurm_lab.start_slurmd(node)
        run = start_run({"a": "sleep 300"}, ONE_EACH)
        run.place_of("a")
        run.cancel()
        run.wait(60)
        gate.touch()
        assert eventually(lambda: not slurm_lab.jobs(), 30)
    log = (run.folder / "run" / "workflow.log").read_text()
    assert "SLURM still shows" in log and "COMPLETING" in log, log
    assert "takes long to end some jobs" in log, log
    assert run.causes == {"a": "cancelled"}


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_array_tasks_that_wait_are_cancelled_by_their_name(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Each for itself; of all of them there is one record."""
    options = {**ONE_EACH, "cpus_per_task": 8, "nodelist": slurm_lab.nodes[0], "receipt_deadline": 60}
    run = start_run({"a": "sleep 300", "b": "exit 0", "c": "exit 0"}, options)
    array = run.place_of("a")[1].partition("_")[0]
    name = slurm_lab.run("squeue", "--noheader", f"--jobs={array}", "--format=%j").split()[0]
    slurm_lab.run("scancel", f"--name={name}")
    run.must_end(40, **dict.fromkeys("abc", Cause.CANCELLED))
    assert all("CANCELLED by root" in outcome.info for outcome in run.outcomes.values()), run.story()


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_units_side_by_side_are_cancelled_with_their_job(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """The job's script may still note by which signal a step was ended, when srun had no time to say why."""
    options = {"tasks_per_job": 2, "parallel_tasks_per_job": 2}
    wordless = 'rm "$folder"/run/.slurm/*/0_par_0000000.step/out; sleep 300'
    run = start_run({"a": wordless, "b": "sleep 300"}, options, worker_init="trap '' TERM")
    run.place_of("b")
    slurm_lab.run("scancel", run.place_of("a")[1])
    run.must_end(a=Cause.CANCELLED, b=Cause.CANCELLED)
    assert all("CANCELLED by root" in outcome.info for outcome in run.outcomes.values()), run.story()


def test_what_runs_a_unit_is_killed_and_its_job_lives_on(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    options = {"tasks_per_job": 2, "parallel_tasks_per_job": 2}
    run = start_run({"a": "sleep 300", "b": GATED}, options)
    run.place_of("b")
    os.kill(parent_of(int(run.place_of("a")[2])), signal.SIGKILL)
    assert eventually(lambda: "a" in run.outcomes, 30), run.story()
    run.open("gate")
    run.must_end(a=Cause.KILLED)


def test_a_job_is_killed_by_a_signal_from_outside(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "sleep 300", "b": "exit 0"}, ONE_EACH)
    os.kill(int(run.place_of("a")[2]), signal.SIGKILL)
    run.must_end(a=Cause.KILLED)
    assert run.outcomes["a"].signal == signal.SIGKILL


def test_a_job_script_is_killed_from_outside(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """SLURM says so, which is why no word of it is waited for until the deadline."""
    run = start_run({"a": "sleep 300", "b": "exit 0"}, {"tasks_per_job": 1, "receipt_deadline": 60})
    awk = parent_of(int(run.place_of("a")[2]))
    os.kill(parent_of(awk), signal.SIGKILL)
    run.must_end(30, a=Cause.KILLED)
