"""How units of their own end on a real SLURM, and what is said of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from conftest import eventually
from fractal_backends import Cause, InvalidInputError, UnitState
from slurm_lab import MemoryKill, Settings, SlurmLab
from tests.helpers.slurm_runs import HOG, SLOW_HOG, StartRun, until_asked_again

CGROUP = pytest.mark.slurm(Settings(memory_kill=MemoryKill.CGROUP))
POLL = pytest.mark.slurm(Settings(memory_kill=MemoryKill.POLL))
ONE_EACH = {"tasks_per_job": 1}
TOGETHER = {"tasks_per_job": 4, "parallel_tasks_per_job": 1}
AT_ONCE = {"tasks_per_job": 4, "parallel_tasks_per_job": 4}


@pytest.mark.parametrize("options", [ONE_EACH, TOGETHER, AT_ONCE], ids=["apart", "in turn", "at once"])
def test_ends_of_all_kinds(start_run: StartRun, options: dict[str, int]) -> None:
    run = start_run(
        {"good": "exit 0", "bad": "exit 3", "killed": "kill -9 $$", "also_good": "exit 0"}, options
    )
    run.must_end(bad=Cause.TASK_ERROR, killed=Cause.KILLED)
    assert run.outcomes["bad"].exit_code == 3
    assert run.outcomes["killed"].signal == 9
    run.must_leave_no_files()


def test_what_worker_init_prints_is_no_word_of_slurm(start_run: StartRun) -> None:
    lines = "set -xv\necho 'error: out of memory' >&2"
    run = start_run({"killed": "kill -9 $$", "script": "kill -9 $PPID; sleep 9"}, ONE_EACH, worker_init=lines)
    run.must_end(killed=Cause.KILLED, script=Cause.LOST)


def test_units_in_turn_are_told_in_turn(start_run: StartRun) -> None:
    run = start_run(dict.fromkeys("abc", "sleep 0.5"), TOGETHER)
    run.must_end()
    told = [(run.name(e), e.state) for e in run.events if e.state is not UnitState.QUEUED]
    assert told == [(name, state) for name in "abc" for state in (UnitState.STARTED, UnitState.ENDED)]


@pytest.mark.parametrize("options", [ONE_EACH, TOGETHER, AT_ONCE], ids=["apart", "in turn", "at once"])
def test_a_unit_has_its_own_time(start_run: StartRun, options: dict[str, int]) -> None:
    begin = time.monotonic()
    run = start_run(
        {"a": "sleep 1", "long": "trap '' TERM; sleep 300", "b": "exit 0"}, {"time": "00:03", **options}
    )
    run.must_end(30, long=Cause.TIME_LIMIT)
    assert time.monotonic() - begin > 3
    assert "300" not in str(run.outcomes["long"].exit_code)


def test_what_a_unit_leaves_running_is_ended(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "setsid sleep 300 & (sleep 301 &); exit 0", "b": "exit 0"}, TOGETHER)
    run.must_end(30)
    assert eventually(lambda: slurm_lab.leftovers() == []), slurm_lab.leftovers()


@CGROUP
@pytest.mark.parametrize("options", [ONE_EACH, TOGETHER, AT_ONCE], ids=["apart", "in turn", "at once"])
@pytest.mark.parametrize(
    "script", [f"exec {HOG}", f"{HOG}; exit 0"], ids=["the unit itself", "a child of it"]
)
def test_out_of_memory(start_run: StartRun, script: str, options: dict[str, int]) -> None:
    run = start_run({"a": "sleep 1", "hog": script, "b": "sleep 1"}, {"mem": 100, **options})
    run.must_end(60, hog=Cause.OUT_OF_MEMORY)
    peak = run.outcomes["a"].peak_mb
    assert peak is None or peak < 100


@CGROUP
@pytest.mark.parametrize("options", [TOGETHER, AT_ONCE], ids=["in turn", "at once"])
def test_who_is_killed_beside_one_that_is_out_of_memory(start_run: StartRun, options: dict[str, int]) -> None:
    """Receipts are read after both have ended, and the kernel told which of them it was."""
    units = {"before": "kill -9 $$", "hog": HOG, "after": "kill -9 $$"}
    run = start_run(units, {"mem": 100, "poll_interval": 5.0, **options})
    run.must_end(60, before=Cause.KILLED, hog=Cause.OUT_OF_MEMORY, after=Cause.KILLED)


@CGROUP
def test_a_job_that_is_cancelled_after_a_unit_was_out_of_memory(
    start_run: StartRun, slurm_lab: SlurmLab
) -> None:
    """SLURM says OUT_OF_MEMORY of the whole job, whoever ended it."""
    run = start_run({"hog": f"{HOG}; exit 0", "a": "sleep 300", "b": "exit 0"}, {"mem": 100, **TOGETHER})
    _, job, _ = run.place_of("a")
    slurm_lab.run("scancel", job)
    run.must_end(60, hog=Cause.OUT_OF_MEMORY, a=Cause.CANCELLED, b=Cause.CANCELLED)


@CGROUP
def test_what_a_unit_leaves_takes_no_memory_of_the_next(start_run: StartRun) -> None:
    keep = "python3 -c 'import time; x = bytearray(b\"x\") * (60 << 20); time.sleep({})'"
    run = start_run(
        {"a": f"setsid {keep.format(60)} & sleep 1", "b": keep.format(0.5), "bad": "exit 3"},
        {"mem": 100, **TOGETHER},
    )
    run.must_end(50, bad=Cause.TASK_ERROR)


@CGROUP
def test_what_was_there_before_the_units_goes_on(start_run: StartRun, place: Path) -> None:
    """A watcher of the site's, with processes of its own, is no unit's."""
    log = place / "log"
    log.touch()
    log.chmod(0o666)
    watch = f"while sleep 0.1; do echo here >>{log}; done &"
    units = {"a": "sleep 0.5", "b": "sleep 0.5", "c": f": >{log}; sleep 1"}
    run = start_run(units, TOGETHER, worker_init=watch)
    run.must_end(50)
    assert log.read_text().count("here") > 2


def test_an_interrupt_of_the_job_script(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "exit 0", "b": "wait_for gate; exit 3"}, TOGETHER)
    job = run.place_of("b")[1]
    slurm_lab.run("scancel", "--signal=INT", "--batch", job)
    run.open("gate")
    run.must_end(30, b=Cause.TASK_ERROR)


@POLL
@pytest.mark.parametrize(
    "script", [f"exec {SLOW_HOG}", f"{SLOW_HOG}; exit 0"], ids=["the unit itself", "a child of it"]
)
def test_out_of_memory_where_slurm_looks(start_run: StartRun, script: str) -> None:
    run = start_run({"a": "sleep 1", "hog": script, "b": "sleep 1"}, {"mem": 100, **ONE_EACH})
    run.must_end(60, hog=Cause.OUT_OF_MEMORY)


@POLL
def test_steps_that_slurm_ended_for_their_memory(start_run: StartRun) -> None:
    """SLURM's word is in what srun said, whether or not the unit's end was noted before the step's."""
    options = {"mem": 100, "tasks_per_job": 7, "parallel_tasks_per_job": 7}
    hogs = dict.fromkeys(("h1", "h2", "h3"), f"{SLOW_HOG}; exit 0")
    run = start_run({"a": "sleep 1", **hogs, "bad": "exit 3", "killed": "kill -9 $$"}, options)
    oom = dict.fromkeys(hogs, Cause.OUT_OF_MEMORY)
    run.must_end(60, bad=Cause.TASK_ERROR, killed=Cause.KILLED, **oom)


@POLL
def test_units_behind_one_that_took_all_with_it_run_all_the_same(start_run: StartRun) -> None:
    run = start_run({"a": "exit 0", "hog": SLOW_HOG, "b": "exit 0", "c": "exit 3"}, {"mem": 100, **TOGETHER})
    run.must_end(60, hog=Cause.OUT_OF_MEMORY, c=Cause.TASK_ERROR)


def test_pending_is_told_with_its_reason(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    node = slurm_lab.nodes[0]
    slurm_lab.drain(node)
    run = start_run({"a": "exit 0"}, {"nodelist": node})

    def reasons() -> list[str]:
        return [event.info for event in run.events if event.state is UnitState.QUEUED and event.info]

    assert eventually(lambda: any("ReqNodeNotAvail" in text for text in reasons()), 30), run.story()
    assert run.started() == []
    slurm_lab.resume(node)
    run.must_end(30)


@POLL
def test_a_unit_that_failed_before_its_job_was_ended(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """It is told of while the job goes on, and what befalls the job then is no word on it."""
    run = start_run({"bad": "exit 3", "killed": "kill -9 $$", "b": "sleep 300", "c": "exit 0"}, TOGETHER)
    job = run.place_of("b")[1].partition("_")[0]
    assert eventually(lambda: "bad" in run.outcomes, 30), run.story()
    until_asked_again(slurm_lab)
    slurm_lab.run("scancel", job)
    run.must_end(60, bad=Cause.TASK_ERROR, killed=Cause.KILLED, b=Cause.CANCELLED, c=Cause.CANCELLED)


REFUSED = {
    "partition": ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
    "partition limit": ({"partition": "small", "time": "01:00:00"}, "partition's limit"),
    "cores": ({"cpus_per_task": 9}, "more than the largest node"),
    "constraint": (
        {"constraint": "pink"},
        "constraint=pink (from the backend's options): sbatch: Invalid feature",
    ),
    "gpus": ({"gres": "gpu:9"}, "gres=gpu:9 (from the backend's options): sbatch: Requested node config"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_the_site_cannot_do(start_run: StartRun, options: dict[str, object], reason: str) -> None:
    run = start_run({"a": "exit 0"}, options)
    run.wait(60)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert reason in str(run.error)
    assert run.events == []


def test_more_nodes_than_a_unit_needs(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "exit 0"}, {"nodelist": ",".join(slurm_lab.nodes[:2])})
    run.wait(60)
    assert isinstance(run.error, InvalidInputError), run.story()
    assert "nodelist names 2 nodes" in str(run.error)


def test_what_can_never_start(start_run: StartRun) -> None:
    """sbatch accepts it, and SLURM lets it wait."""
    run = start_run(
        {"a": "exit 0", "b": "exit 0"}, {"partition": "small", "extra_lines": ["#SBATCH --time=60"]}
    )
    run.must_end(60, a=Cause.LAUNCH_FAILED, b=Cause.LAUNCH_FAILED)
    assert "PartitionTimeLimit" in run.outcomes["a"].info, run.story()


def test_a_dependency_that_fails(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    job = slurm_lab.run(
        "sbatch", "--parsable", "--hold", "--output=/dev/null", text="#!/bin/sh\nexit 1\n"
    ).strip()
    run = start_run({"a": "exit 0"}, {"extra_lines": [f"#SBATCH --dependency=afterok:{job}"]})
    assert eventually(lambda: len(slurm_lab.jobs()) == 2, 30), run.story()
    assert run.started() == []
    slurm_lab.run("scontrol", "release", job)
    run.must_end(60, a=Cause.LAUNCH_FAILED)
    assert "depend" in run.outcomes["a"].info.lower(), run.story()


@pytest.mark.parametrize("gpus", [1, 2])
def test_units_share_the_gpus_of_their_array_task(start_run: StartRun, gpus: int) -> None:
    """They run at the same time, however few GPUs there are, each on cores of its own."""
    wait = "touch $folder/$name; wait_for a; wait_for b; wait_for c"
    run = start_run(dict.fromkeys("abc", wait), {"gpus": gpus, "parallel_tasks_per_job": 3, "mem": 200})
    run.must_end(60)
    assert len({place for _, _, place, _ in run.started()}) == 1


def test_steps_of_a_job_that_gets_no_environment(
    start_run: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM tells `srun` too that there is to be none."""
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    run = start_run(dict.fromkeys("ab", "exit 0"), AT_ONCE)
    run.must_end(60)


def test_gpus_and_features(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "exit 0"}, {"gres": "gpu:1", "constraint": "gpu"})
    run.must_end(30)
    assert run.place_of("a")[0] == slurm_lab.nodes[-1]
