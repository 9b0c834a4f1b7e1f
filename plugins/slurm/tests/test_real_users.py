"""Runs on a real SLURM for other users: everything happens as they, and with no more rights than it takes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import Cause, InvalidInputError
from slurm_lab import RUNNER, USERS, SlurmLab
from tests.helpers.processes import ROOT
from tests.helpers.slurm_runs import POLL_S, SlurmRun, StartRun
from tests.helpers.users import home_of, owners, python_for

GOOD = 'echo "I am $(id -un)"; echo "{}" >"$out"'
ONE_EACH = {"tasks_per_job": 1}


def logs(run: SlurmRun) -> str:
    """All that units said."""
    return "".join(path.read_text() for path in (run.folder / "run").rglob("*.log"))


def test_two_users_at_once(start_run: StartRun, slurm_lab: SlurmLab, place: Path) -> None:
    runs = {}
    for user in USERS:
        remote = home_of(user, place) / "runs"
        units = {"a": GOOD, "bad": 'echo "no, says $(id -un)"; exit 3'}
        runs[user] = start_run(units, ONE_EACH, slurm_user=user, workflow_dir_remote=remote)
    for user, run in runs.items():
        run.must_end(bad=Cause.TASK_ERROR)
        assert f"I am {user}" in logs(run) and f"no, says {user}" in logs(run)
        assert owners(place / user) == {user}
        assert owners(run.folder / "run") == {"root"}
        run.must_leave_no_files(place / user / "runs")


@pytest.mark.parametrize("user", [None, USERS[0]])
def test_a_remote_folder_serves_one_run(start_run: StartRun, place: Path, user: str | None) -> None:
    remote = (home_of(user, place) if user else place) / "runs"
    start_run({"a": GOOD}, slurm_user=user, workflow_dir_remote=remote).must_end(30)
    run = start_run({"a": GOOD}, slurm_user=user, workflow_dir_remote=remote)
    run.wait(30)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert f"workflow_dir_remote: {remote} holds files" in str(run.error)
    assert run.started() == []


@pytest.mark.parametrize("user", [None, USERS[0]])
def test_a_remote_folder_is_used_as_it_is(start_run: StartRun, place: Path, user: str | None) -> None:
    """It may be a link to an empty one. What holds anything is not touched."""
    home = home_of(user, place) if user else place
    real, link = home / "real", home / "link"
    real.mkdir(mode=0o700)
    link.symlink_to(real)
    (home / "other").mkdir(mode=0o700)
    (home / "other" / "precious").touch()
    if user:
        shutil.chown(real, user)
        shutil.chown(home / "other", user)
    start_run({"a": GOOD}, slurm_user=user, workflow_dir_remote=link).must_end(30)
    assert link.is_symlink() and [path.name for path in real.iterdir()] == ["0_task"]
    run = start_run({"a": GOOD}, slurm_user=user, workflow_dir_remote=home / "other")
    run.wait(30)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert "holds files" in str(run.error)


@pytest.mark.parametrize("user", [None, USERS[0]])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_what_is_no_folder_is_left_alone(
    start_run: StartRun, place: Path, kind: str, user: str | None
) -> None:
    remote = (home_of(user, place) if user else place) / "precious"
    if kind == "file":
        remote.write_text("data")
    else:
        remote.symlink_to("nowhere")
    run = start_run({"a": GOOD}, slurm_user=user, workflow_dir_remote=remote)
    run.wait(30)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert f"{remote} is not a folder" in str(run.error)
    assert remote.is_symlink() if kind != "file" else remote.read_text() == "data"


def test_a_remote_folder_that_is_the_local_one_by_another_path(start_run: StartRun, place: Path) -> None:
    """Its files are not emptied while they are read."""
    local = place / "run-0" / "run"
    local.mkdir(parents=True)
    (place / "link").symlink_to(local)
    numbers = "".join(f"{number}\n" for number in range(1, 200_001))
    run = start_run({"a": "seq 200000"}, workflow_dir_remote=place / "link")
    run.must_end(30)
    assert numbers in logs(run)


@pytest.mark.parametrize("where", ["a/../b", "/"])
def test_a_remote_folder_has_a_place_of_its_own(start_run: StartRun, place: Path, where: str) -> None:
    run = start_run({"a": GOOD}, slurm_user=USERS[0], workflow_dir_remote=place / where)
    run.wait(30)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert "a path without `..`" in str(run.error)
    assert not (place / "b").exists()


def test_a_remote_folder_may_be_somebody_elses(start_run: StartRun, place: Path) -> None:
    """As long as the user can write there. It keeps its mode."""
    remote = place / "open"
    remote.mkdir()
    remote.chmod(0o777)
    start_run({"a": GOOD}, slurm_user=USERS[0], workflow_dir_remote=remote).must_end(30)
    assert remote.stat().st_mode & 0o777 == 0o777


def test_cancel_as_another_user(start_run: StartRun, slurm_lab: SlurmLab, place: Path) -> None:
    options = {**ONE_EACH, "cpus_per_task": 8, "nodelist": slurm_lab.nodes[0]}
    remote = home_of(USERS[0], place) / "runs"
    run = start_run(
        {"a": "sleep 300", "b": "exit 0"}, options, slurm_user=USERS[0], workflow_dir_remote=remote
    )
    run.place_of("a")
    run.cancel()
    run.wait()
    assert slurm_lab.leftovers() == []
    assert run.causes == dict.fromkeys("ab", str(Cause.CANCELLED))
    run.must_leave_no_files(remote)


def test_a_folder_that_the_user_cannot_write(start_run: StartRun, place: Path) -> None:
    remote = home_of(USERS[1], place) / "runs"
    run = start_run({"a": GOOD}, slurm_user=USERS[0], workflow_dir_remote=remote)
    run.wait(60)
    assert run.error is not None
    assert str(remote) in str(run.error) and USERS[0] in str(run.error), run.story()
    assert run.started() == []


def test_a_user_that_does_not_exist(start_run: StartRun, place: Path) -> None:
    run = start_run({"a": GOOD}, slurm_user="nosuchuser", workflow_dir_remote=place / "runs")
    run.wait(60)
    assert run.error is not None and "nosuchuser" in str(run.error), run.story()


def run_as(
    runner: str, slurm_user: str, place: Path, path: str = "/usr/bin:/bin"
) -> tuple[SlurmRun, subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """A run in a process of another user, for yet another one; and what was told of its units."""
    home = home_of(runner, place)
    run = SlurmRun(place / "run-0", {"a": GOOD, "bad": "exit 3"}, {})
    given = run.write()
    given["workflow_dir_local"] = str(home / "run")
    given["slurm_user"] = slurm_user
    given["workflow_dir_remote"] = str(home_of(slurm_user, place) / "runs")
    told = home / "told"
    request = {"arguments": given, "options": {"poll_interval": POLL_S, **ONE_EACH}, "told": str(told)}
    command = [*python_for(runner), "-m", "tests.helpers.slurm_runner", json.dumps(request)]
    # sudo allows the commands of the system, not those that count how often they are called.
    env = {**os.environ, "PATH": path, "HOME": pwd.getpwnam(runner).pw_dir}
    ended = subprocess.run(
        command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    lines = told.read_text().splitlines() if told.exists() else []
    return run, ended, [json.loads(line) for line in lines]


def test_the_runner_is_an_ordinary_user_with_the_smallest_set_of_rights(
    slurm_lab: SlurmLab, place: Path
) -> None:
    run, ended, told = run_as(RUNNER, USERS[0], place)
    assert ended.stderr.startswith("TaskExecutionError"), ended.stderr
    causes = [event["cause"] for event in told if event["state"] == "ended"]
    assert sorted(causes) == ["done", "task error"], ended.stderr
    assert owners(place / USERS[0]) == {USERS[0]}
    assert owners(place / RUNNER) == {RUNNER}
    said = "".join(path.read_text() for path in (place / RUNNER / "run").rglob("*.log"))
    assert f"I am {USERS[0]}" in said
    run.must_have_run_once()
    run.must_leave_no_files(place / USERS[0] / "runs")


CALL = """
import os, sys
from contextlib import closing
from fractal_backends_slurm.calls import Call
command = ["sudo", "-n", "-u", sys.argv[1], "--", "/usr/bin/sbatch", *sys.argv[2:]]
with closing(Call(command, os.environ)) as call:
    call.answer(1)
"""


def test_what_another_users_command_does_too_long_is_not_waited_for(slurm_lab: SlurmLab) -> None:
    """An ordinary user cannot end it."""
    words = [USERS[0], "--wait", "--output=/dev/null", "--chdir=/tmp", "--wrap=sleep 60"]
    command = [*python_for(RUNNER), "-c", CALL, *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    slurm_lab.clear()
    assert f"SchedulerError: sbatch as the user {USERS[0]} did not answer within" in ended.stderr


def test_a_runner_without_rights_is_told_so(slurm_lab: SlurmLab, place: Path) -> None:
    run, ended, _ = run_as(USERS[1], USERS[0], place)
    assert ended.returncode == 1
    message = (
        f"sbatch as the user {USERS[0]}: sudo: a password is required; sudo has to allow /usr/bin/sbatch,"
    )
    assert message in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert run.started() == []
    assert slurm_lab.jobs() == {}


def test_a_runner_without_the_right_to_submit_is_told_so(slurm_lab: SlurmLab, place: Path) -> None:
    """It may run tar as the user, but not this sbatch."""
    run, ended, told = run_as(RUNNER, USERS[0], place, path=f"{slurm_lab.folder}/bin:/usr/bin:/bin")
    assert told == []
    assert f"sbatch as the user {USERS[0]}: sudo: " in ended.stderr, ended.stderr
    assert run.started() == []


def test_units_see_nothing_of_the_runner(
    start_run: StartRun, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of its environment that sudo does not let through, and nothing of sudo."""
    monkeypatch.setenv("SECRET_OF_THE_RUNNER", "x")
    remote = home_of(USERS[0], place) / "runs"
    run = start_run({"a": "env; " + GOOD}, slurm_user=USERS[0], workflow_dir_remote=remote)
    run.must_end(30)
    assert eventually(lambda: "I am" in logs(run))
    assert "SECRET_OF_THE_RUNNER" not in logs(run)
    assert "SUDO_" not in logs(run)
    assert f"HOME={pwd.getpwnam(USERS[0]).pw_dir}" in logs(run)
