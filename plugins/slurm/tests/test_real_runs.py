"""The ends of whole runs on a real SLURM: cancelled or killed; and what their arguments do."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import eventually
from fractal_backends import Cause
from slurm_lab import MemoryKill, Settings, SlurmLab
from tests.helpers.slurm_runs import StartRun

WITH_ACCOUNTS = Settings(accounting=True, message_timeout_s=5)
ONE_EACH = {"tasks_per_job": 1}
pytestmark = pytest.mark.timeout(240)


def test_a_cancelled_run_leaves_nothing(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Some units run, one of them stubborn and with a daemon, some wait."""
    options = {**ONE_EACH, "cpus_per_task": 4, "nodelist": slurm_lab.nodes[0]}
    stubborn = "trap '' TERM INT; env -i setsid sleep 300 & sleep 301; sleep 302"
    run = start_run({"a": stubborn, "b": "sleep 303", "c": "exit 0", "d": "exit 0"}, options)
    run.place_of("a"), run.place_of("b")
    assert eventually(lambda: len(run.handles) == 4, 30), run.story()
    run.cancel()
    run.wait()
    assert slurm_lab.leftovers() == []
    assert isinstance(run.error, asyncio.CancelledError), run.story()
    assert run.causes == dict.fromkeys("abcd", str(Cause.CANCELLED)), run.story()
    assert {fields[0] for fields in run.started()} == {"a", "b"}
    assert len(slurm_lab.calls("scancel")) <= 3, slurm_lab.calls("scancel")
    run.must_leave_no_files()


def test_a_cancel_is_confirmed_however_rarely_the_queue_is_looked_at(start_run: StartRun) -> None:
    run = start_run({"a": "sleep 300"}, {"poll_interval": 3_600})
    run.place_of("a")
    run.cancel()
    assert eventually(lambda: run.is_over, 30), run.story()


def test_a_run_is_cancelled_while_the_controller_is_away(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "sleep 300", "b": "sleep 300"}, ONE_EACH)
    run.place_of("a"), run.place_of("b")
    slurm_lab.wait_until_saved()
    slurm_lab.crash_slurmctld()
    asked = len(slurm_lab.calls("scontrol"))
    run.cancel()
    assert eventually(lambda: len(slurm_lab.calls("scontrol")) > asked, 30)
    slurm_lab.start_slurmctld()
    run.wait()
    assert slurm_lab.leftovers_after(5) == []


def test_what_the_end_of_a_run_waits_for_is_said(slurm_lab: SlurmLab, place: Path) -> None:
    (place / "task.sh").write_text(f"touch {place}/begun; sleep 300")
    task = {"name": "t", "type": "non_parallel", "command_non_parallel": f"/bin/sh {place}/task.sh"}
    (place / "workflow.json").write_text(json.dumps({"task_list": [{"task": task}]}))
    (place / "dataset.json").write_text('{"zarr_dir": "/data"}')
    given = (
        "--dataset",
        "dataset.json",
        "--backend",
        "slurm",
        "--run-dir",
        "run",
        "--option",
        "poll_interval=1",
    )
    program = [str(Path(sys.executable).with_name("fractal-backends")), "run", "workflow.json", *given]
    with subprocess.Popen(program, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert eventually((place / "begun").exists, 60)
        slurm_lab.wait_until_saved()
        slurm_lab.crash_slurmctld()
        process.send_signal(signal.SIGINT)
        said = next(line for line in process.stderr if "Cannot say yet that all jobs have ended" in line)
        slurm_lab.start_slurmctld()
        assert process.wait(60) == 130, said


def test_a_run_is_cancelled_at_once(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Before, while or after its submission."""
    for delay in (0.0, 0.02, 0.1, 0.3):
        run = start_run({"a": "sleep 300", "b": "sleep 300"}, ONE_EACH)
        eventually(lambda: False, delay)
        run.cancel()
        run.wait()
        assert slurm_lab.leftovers_after(1) == [], delay


def test_worker_init(start_run: StartRun) -> None:
    """Lines of shell as they are, once for each unit or for each array task."""
    init = 'export GREETING="hello \'there\'"\nload() { export LOADED=$1; }\nload "a b"\n'
    run = start_run({"a": 'test "$GREETING|$LOADED" = "hello \'there\'|a b"'}, worker_init=init)
    run.must_end(30)


HIDES_SLURM = r"unset $(env | sed -n 's/^\(SLURM[A-Za-z0-9_]*\)=.*/\1/p')"
"""As is usual where a task starts programs that would take themselves for steps of its job."""


def test_worker_init_that_hides_slurm(start_run: StartRun) -> None:
    see = 'test -z "$(env | grep ^SLURM)"'
    units = {"a": f"setsid sleep 300 & {see}", "b": "exit 3", "c": see, "d": "kill -9 $$", "e": see}
    run = start_run(units, {"tasks_per_job": 3, "parallel_tasks_per_job": 1}, worker_init=HIDES_SLURM)
    run.must_end(50, b=Cause.TASK_ERROR, d=Cause.KILLED)


def test_worker_init_that_hides_slurm_from_steps(start_run: StartRun) -> None:
    """Which have variables of SLURM all the same."""
    side_by_side = {"tasks_per_job": 2, "parallel_tasks_per_job": 2}
    run = start_run({"a": "sleep 1", "b": "exit 3"}, side_by_side, worker_init=HIDES_SLURM)
    run.must_end(50, b=Cause.TASK_ERROR)


@pytest.mark.slurm(Settings(memory_kill=MemoryKill.POLL))
def test_a_job_of_a_unit_goes_on_where_it_hides_slurm(start_run: StartRun, place: Path) -> None:
    """Although it has the mark of the unit, and no control group tells them apart."""
    inner, began, ended = place / "inner.sh", place / "began", place / "ended"
    hidden = f"touch '{began}'; until [ -e '{place}/over' ]; do sleep 0.05; done; touch '{ended}'"
    inner.write_text(f"#!/bin/sh\nunset SLURM_JOB_ID SLURM_JOBID\nexec env sh -c {shlex.quote(hidden)}\n")
    submit = f"sbatch --output=/dev/null {shlex.quote(str(inner))}"
    run = start_run({"a": f"setsid sleep 300 & {submit}; until [ -e '{began}' ]; do sleep 0.05; done"})
    run.must_end(50)
    (place / "over").touch()
    assert eventually(ended.exists, 30)


@pytest.mark.parametrize("remote", [None, "remote"])
def test_what_worker_init_prints_is_told_of_units_that_fail(
    start_run: StartRun, place: Path, remote: str | None
) -> None:
    """It may be why they fail."""
    arguments = {"workflow_dir_remote": place / remote} if remote else {}
    init = "no_such_module load python || true"
    run = start_run({"a": "exit 0", "b": "exit 3"}, ONE_EACH, worker_init=init, **arguments)
    run.must_end(50, b=Cause.TASK_ERROR)
    assert "no_such_module: not found" in run.outcomes["b"].info
    assert "no_such_module" not in run.outcomes["a"].info


@pytest.mark.parametrize("init", ["exit 7", "false", "nonsense ((", "cd /nowhere || exit 1"])
def test_worker_init_that_fails(start_run: StartRun, init: str) -> None:
    run = start_run({"a": "exit 0"}, {"receipt_deadline": 600}, worker_init=init)
    run.wait(60)  # no receipt is waited for that cannot come
    assert run.is_over and "a" in run.outcomes, run.story()


@pytest.mark.parametrize(("init", "told"), [("echo 'a", "quote"), ("cat <<END >/dev/null", "not whole")])
def test_worker_init_that_is_not_whole(start_run: StartRun, init: str, told: str) -> None:
    run = start_run({"a": "exit 0"}, worker_init=init)
    run.must_end(30, a=Cause.LAUNCH_FAILED)
    assert told in run.outcomes["a"].info and "worker_init" in run.outcomes["a"].info, run.story()


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_the_account(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": 'test "$SLURM_JOB_ACCOUNT" = lab'}, slurm_account="lab")
    run.must_end(30)


def test_the_cache_folder_and_what_is_exported_below_it(start_run: StartRun, place: Path) -> None:
    cache = place / "the cache"
    cache.mkdir()
    exports = {"MODELS": "models dir"}
    script = f'test "$MODELS" = "{cache}/models dir"'
    run = start_run({"a": script}, {"user_local_exports": exports}, user_cache_dir=str(cache))
    run.must_end(30)


def test_exports_below_a_cache_folder_that_is_not_given(
    start_run: StartRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run({"a": 'test -z "$MODELS"'}, {"user_local_exports": {"MODELS": "models"}})
    run.must_end(30)
    assert [r.getMessage() for r in caplog.records if "user_cache_dir" in r.message and "MODELS" in r.message]


HIDING = {"SQUEUE_USERS": "nobody", "SCANCEL_STATE": "PENDING"}


def test_a_user_who_asks_squeue_for_less(
    start_run: StartRun, slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units take longer than the deadline for receipts; then one is cancelled."""
    for name, value in HIDING.items():
        monkeypatch.setenv(name, value)
    start_run({"a": "sleep 8", "b": "sleep 8"}, ONE_EACH).must_end(60)
    run = start_run({"a": "sleep 300"})
    run.place_of("a")
    run.cancel()
    run.wait()
    for name in HIDING:
        monkeypatch.delenv(name)
    assert slurm_lab.leftovers() == []


def test_a_squeue_that_shows_nothing(
    start_run: StartRun, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller still knows what runs, longer than the deadline for receipts."""
    squeue = place / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=":")
    start_run({"a": "sleep 12"}).must_end(60)


def test_another_folder_for_the_files_of_units(start_run: StartRun, place: Path) -> None:
    """Units see and write files there; the run's own folder has all of them in the end."""
    remote = place / "remote"
    script = f'case $args$out in {remote}/*{remote}/*) echo "it says"; echo "{{}}" >"$out";; *) exit 1;; esac'
    run = start_run({"a": script, "bad": "echo no; exit 3"}, workflow_dir_remote=remote)
    run.must_end(60, bad=Cause.TASK_ERROR)
    logs = {path.name: path.read_text() for path in (run.folder / "run").rglob("*.log")}
    assert any("it says" in text for text in logs.values()), logs
    run.must_leave_no_files(remote)


@pytest.mark.parametrize("where", ["in the run's folder", "elsewhere"])
def test_outputs_that_are_no_files(start_run: StartRun, place: Path, where: str) -> None:
    """Are told alike, wherever they are."""
    remote = place / "remote" if where == "elsewhere" else None
    units = {
        "pipe": 'mkfifo "$out"',
        "folder": 'mkdir "$out"',
        "device": 'ln -s /dev/zero "$out"',
        "link": 'echo "{}" >"$out.x"; ln -s "$out.x" "$out"',
    }
    run = start_run(units, workflow_dir_remote=remote)
    run.must_end(60, **dict.fromkeys(("pipe", "folder", "device"), Cause.INVALID_OUTPUT))


def test_a_remote_folder_that_cannot_be_written(start_run: StartRun) -> None:
    run = start_run({"a": "exit 0"}, workflow_dir_remote=Path("/proc/nowhere"))
    run.wait(60)
    assert run.error is not None
    assert "/proc/nowhere" in str(run.error), run.story()
    assert run.started() == []


@pytest.mark.parametrize(
    "name", ["a b", "$(touch oops)", "`x`", "quote'd", 'dou"ble', "back\\slash", "új", "100%A %j %"]
)
def test_folders_of_any_name(start_run: StartRun, place: Path, name: str) -> None:
    run = start_run({"a": "exit 0", "bad": "exit 3"}, workflow_dir_remote=place / name)
    run.must_end(30, bad=Cause.TASK_ERROR)
    assert not list(place.rglob("oops"))
