"""What becomes of submissions that a real SLURM has no room for, or does not allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import eventually
from fractal_backends import Cause, InvalidInputError
from slurm_lab import SlurmLab
from tests.helpers.slurm_faults import ONE_EACH, QUICK, WITH_ACCOUNTS
from tests.helpers.slurm_runs import StartRun

pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]


def submit_others(lab: SlurmLab, tasks: int, account: str = "root") -> str:
    """Somebody's array, which waits until it is cancelled."""
    options = ("--parsable", f"--array=1-{tasks}", "--hold", "--output=/dev/null", f"--account={account}")
    return lab.run("sbatch", *options, text="#!/bin/sh\nexit 0\n").strip()


@contextmanager
def submit_limit(lab: SlurmLab, most: int) -> Iterator[None]:
    """What each user of the account `lab` may have in the queue."""
    account = ("modify", "account", "lab", "set")
    lab.sacctmgr(*account, f"MaxSubmitJobs={most}")
    try:
        yield
    finally:
        lab.sacctmgr(*account, "MaxSubmitJobs=-1")


def test_the_queue_is_full(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Others' jobs leave no room for ours; when they end there is."""
    known = len(slurm_lab.run("squeue", "--noheader", "--array", "--states=all").splitlines())
    with slurm_lab.changed(MaxJobCount=str(known + 10), MinJobAge="2"):
        other = submit_others(slurm_lab, 8)
        run = start_run(dict.fromkeys("abcde", "exit 0"), ONE_EACH)
        told = "the submission is tried again: sbatch: Slurm temporarily unable to accept job"
        assert eventually(lambda: any(event.info == told for event in run.events), 30), run.story()
        slurm_lab.run("scancel", other)
        run.must_end()


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_a_limit_of_submissions(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """One's own jobs leave no room for more; when they end there is."""
    with submit_limit(slurm_lab, 4):
        other = submit_others(slurm_lab, 3, "lab")
        run = start_run({"a": "exit 0", "b": "exit 3"}, ONE_EACH, slurm_account="lab")
        assert eventually(lambda: any("submit limit" in event.info for event in run.events), 30), run.story()
        slurm_lab.run("scancel", other)
        run.must_end(b=Cause.TASK_ERROR)


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_a_limit_of_submissions_that_is_smaller_than_an_array(
    start_run: StartRun, slurm_lab: SlurmLab
) -> None:
    """Smaller arrays are accepted, one after another."""
    with submit_limit(slurm_lab, 3):
        run = start_run(
            {**dict.fromkeys("abcdefghi", "exit 0"), "bad": "exit 3"}, ONE_EACH, slurm_account="lab"
        )
        run.must_end(bad=Cause.TASK_ERROR)
        assert any("submit limit" in event.info for event in run.events), run.story()
        run.must_leave_no_files()
    assert len(slurm_lab.calls("sbatch")) < 20, slurm_lab.calls("sbatch")


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_others_fill_what_a_limit_of_submissions_leaves(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Then smaller arrays do not help, and SLURM is not asked all the time."""
    with submit_limit(slurm_lab, 50):
        other = submit_others(slurm_lab, 50, "lab")
        run = start_run({f"u{number}": "exit 0" for number in range(40)}, ONE_EACH, slurm_account="lab")
        assert eventually(lambda: len(slurm_lab.calls("sbatch")) > 8, 60), run.story()
        slurm_lab.run("scancel", other)
        run.must_end()
    assert len(slurm_lab.calls("sbatch")) < 30, slurm_lab.calls("sbatch")


@pytest.mark.slurm(WITH_ACCOUNTS)
@pytest.mark.parametrize("options", [{"cpus_per_task": 4}, {"time": "01:00:00"}])
def test_a_limit_for_each_job(start_run: StartRun, slurm_lab: SlurmLab, options: dict[str, object]) -> None:
    """Waiting does not help, and fewer jobs do not either."""
    slurm_lab.sacctmgr("add", "qos", "tiny", "Flags=DenyOnLimit", "MaxTRESPerJob=cpu=2", "MaxWall=5")
    slurm_lab.sacctmgr("modify", "account", "lab", "set", "qos+=tiny")
    try:
        run = start_run({"a": "exit 0"}, {"qos": "tiny", **options}, slurm_account="lab")
        run.wait(60)
        assert isinstance(run.error, InvalidInputError), run.story()
        assert "PerJobLimit" in str(run.error)
        start_run({"a": "exit 0"}, {"qos": "tiny"}, slurm_account="lab").must_end()
    finally:
        slurm_lab.sacctmgr("delete", "qos", "tiny")


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_an_account_that_does_not_exist(start_run: StartRun) -> None:
    run = start_run({"a": "exit 0"}, slurm_account="nobody")
    run.wait()
    assert isinstance(run.error, InvalidInputError), run.story()
    assert "account=nobody (from slurm_account): sbatch: Invalid account" in str(run.error)
    assert run.events == []
