"""Runs for other users, whose runner is not root and cannot become them: the cluster records them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_dummy_slurm import Lease

from tests.helpers.plugins import open_folder
from tests.helpers.processes import ROOT
from tests.helpers.slurm_runs import SlurmRun
from tests.helpers.users import home_of, owners, python_for

RUNNER, USER = "nobody", "daemon"
LOOK = 'squeue --noheader --jobs="$SLURM_ARRAY_JOB_ID" --format="recorded %u"; echo "I am $(id -un)"'
SETTINGS = {"accounts": {"lab": [USER], "own": [RUNNER]}}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the runner")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter."""
    with open_folder() as folder:
        yield folder


def as_runner(place: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of Python as the runner, who has a cluster of its own."""
    home = home_of(RUNNER, place)
    (place / "settings.json").write_text(json.dumps(SETTINGS))
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    env |= {"DUMMY_SLURM_DIR": str(home / "cluster"), "DUMMY_SLURM_CONFIG": str(place / "settings.json")}
    words = [*python_for(RUNNER), "-m", *command]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def run(place: Path, **arguments: Any) -> tuple[SlurmRun, subprocess.CompletedProcess[str]]:
    """A run of the runner for the user, in folders of the runner."""
    home = home_of(RUNNER, place)
    run = SlurmRun(place / "run-0", {"a": LOOK + '; echo "{}" >"$out"'}, {})
    given = {**run.write(), "workflow_dir_local": str(home / "run"), "slurm_user": USER, **arguments}
    given.setdefault("workflow_dir_remote", str(home / "remote"))
    request = {"backend": "dummy_slurm", "arguments": given, "options": {}}
    return run, as_runner(place, ["tests.helpers.slurm_runner", json.dumps(request)])


def test_the_user_is_recorded_and_the_runner_does_the_work(place: Path) -> None:
    ran, ended = run(place)
    assert (ended.returncode, ended.stderr) == (0, "")
    ran.must_have_run_once()
    (log,) = (place / RUNNER / "run").glob("0_*/*.log")
    assert log.read_text().splitlines()[-2:] == [f"recorded {USER}", f"I am {RUNNER}"]
    assert owners(place / RUNNER) == {RUNNER}
    assert not (place / RUNNER / "remote" / ".slurm").exists()


def test_accounts_are_those_of_the_recorded_user(place: Path) -> None:
    ran, ended = run(place, slurm_account="own")
    assert "Invalid account" in ended.stderr and "sudo" not in ended.stderr
    assert ended.returncode == 1
    assert ran.started() == []


def test_a_user_that_does_not_exist(place: Path) -> None:
    ran, ended = run(place, slurm_user="no-such-user")
    assert "this machine knows no user 'no-such-user'" in ended.stderr
    assert ran.started() == []


def test_a_job_is_of_the_recorded_user_for_all_commands(place: Path) -> None:
    named = f"env DUMMY_SLURM_USER={USER}"
    lines = [
        f"cd {place}/{RUNNER}",
        f"{named} sbatch --parsable --wrap 'sleep 100' >job",
        f"squeue --noheader --user={USER} --format=%u",
        f"squeue --noheader --user={RUNNER} --format=%u",
        "scancel $(cat job) || echo not mine",
        f"{named} scancel --user={USER}",
        "squeue --noheader --states=all --format=%u,%T",
        "DUMMY_SLURM_USER=no-such-user squeue || echo nobody",
    ]
    ended = as_runner(place, ["fractal_backends_dummy_slurm", "/bin/sh", "-ec", "\n".join(lines)])
    assert ended.returncode == 0, ended.stderr
    (owner, mine, cancelled, *more) = ended.stdout.splitlines()
    assert (owner, mine, more) == (USER, "not mine", ["nobody"])
    assert cancelled in (f"{USER},CANCELLED", f"{USER},COMPLETING")


@pytest.mark.parametrize("caller", ["root", RUNNER])
def test_only_the_owner_of_a_cluster_names_users_and_not_root(place: Path, caller: str) -> None:
    with Lease(place / "cluster") as lease:
        env = {**os.environ, "DUMMY_SLURM_USER": USER}
        words = [str(lease.commands / "sbatch"), "--wrap", "true"]
        ended = subprocess.run(
            words, user=caller, extra_groups=[], cwd="/", env=env, capture_output=True, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "sbatch: error: Access/permission denied\n")
