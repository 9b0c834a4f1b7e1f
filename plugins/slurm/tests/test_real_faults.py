"""What is told of units while parts of a real SLURM die, and come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import Cause, InvalidInputError, UnitState
from slurm_lab import Settings, SlurmLab
from slurm_lab.processes import parent_of
from tests.helpers.slurm_runs import LONG_S, SlurmRun, StartRun, until_asked_again

QUICK = Settings(slurmd_timeout_s=5, message_timeout_s=5)
WITH_ACCOUNTS = Settings(accounting=True, message_timeout_s=5)
ONE_EACH = {"tasks_per_job": 1}
GATED = "wait_for gate"
pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]


def must_be_told_started(run: SlurmRun, *names: str) -> None:
    """Wait until the backend says so."""
    assert eventually(lambda: all(map(run.told_started, names)), 30), run.story()


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


def test_a_node_dies(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """With all that runs on it."""
    run = start_run({"a": GATED, "b": "wait_for gate_b"}, {**ONE_EACH, "cpus_per_task": 8})
    (node, _, _), (other, _, _) = run.place_of("a"), run.place_of("b")
    assert node != other
    must_be_told_started(run, "a", "b")
    slurm_lab.kill_slurmd(node)
    slurm_lab.kill_processes(node)
    assert eventually(lambda: "a" in run.outcomes, LONG_S), run.story()
    run.open("gate_b")
    run.must_end(a=Cause.NODE_FAILURE)
    assert node in run.outcomes["a"].info, run.story()


def test_a_node_is_lost_and_its_units_live_on(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": "wait_for never", "b": "exit 0"}, {**ONE_EACH, "cpus_per_task": 8})
    node = run.place_of("a")[0]
    slurm_lab.kill_slurmd(node)
    run.must_end(a=Cause.NODE_FAILURE)
    slurm_lab.heal()
    assert eventually(lambda: slurm_lab.leftovers() == [], LONG_S), slurm_lab.leftovers()


def test_a_node_is_lost_and_its_job_script_would_go_on(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """What it has not started is submitted again, or its own; not both."""
    run = start_run({"a": GATED, "b": "exit 0", "bad": "exit 3"}, {"tasks_per_job": 3})
    slurm_lab.kill_slurmd(run.place_of("a")[0])
    assert eventually(lambda: "a" in run.outcomes, LONG_S), run.story()
    run.open("gate")
    run.must_end(a=Cause.NODE_FAILURE, bad=Cause.TASK_ERROR)


LOSES_SCRIPTS = """#!/bin/sh
mkdir {place}/lost-1 || mkdir {place}/lost-2 || exit 0
rm -f {spool}/job*/slurm_script
"""


def test_slurm_loses_the_scripts_of_jobs_that_it_is_launching(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path
) -> None:
    """As it may where their node registers: they are submitted again."""
    prolog = place / "prolog"
    prolog.write_text(LOSES_SCRIPTS.format(place=place, spool=slurm_lab.place.folder / "spool" / "*"))
    prolog.chmod(0o755)
    with slurm_lab.changed(TaskProlog=str(prolog)):
        run = start_run({"a": "exit 0", "bad": "exit 3", "b": "exit 0"}, {"tasks_per_job": 2})
        run.must_end(bad=Cause.TASK_ERROR)
    assert (place / "lost-2").is_dir()


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


def test_a_unit_ends_on_a_node_that_slurm_cannot_reach(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": GATED, "bad": f"{GATED}; exit 3"}, {**ONE_EACH, "cpus_per_task": 8})
    nodes = [run.place_of(name)[0] for name in ("a", "bad")]
    for node in nodes:
        slurm_lab.kill_slurmd(node)
    run.open("gate")
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
    names = [f"u{number}" for number in range(12)]
    run = start_run(dict.fromkeys(names, "exit 0"), {**ONE_EACH, "cpus_per_task": 8})
    assert eventually(lambda: bool(run.handles), 30), run.story()
    slurm_lab.crash_slurmctld()
    slurm_lab.start_slurmctld()
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
    assert "never started and are submitted again" in log, log


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
    assert "PENDING" in slurm_lab.jobs().values(), run.story()
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


def test_the_controller_dies_with_units_that_wait(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """They had not started when the controller forgot them."""
    node = slurm_lab.nodes[0]
    slurm_lab.drain(node)
    run = start_run({"a": "exit 0", "b": "exit 3"}, {**ONE_EACH, "nodelist": node})
    assert eventually(lambda: len(run.handles) == 2, 30), run.story()
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


@pytest.fixture
def stand_in(slurm_lab: SlurmLab, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts lines of shell in the place of one of SLURM's commands, which is then "$real"."""
    folder = place / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(command: str, lines: str) -> None:
        (folder / command).write_text(f"#!/bin/sh\nreal={slurm_lab.folder}/bin/{command}\n{lines}\n")
        (folder / command).chmod(0o755)

    return make


LOSES_ANSWERS = """"$real" "$@" >/dev/null
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
"""


def test_the_answer_to_a_submission_is_lost(
    start_run: StartRun, slurm_lab: SlurmLab, stand_in: Callable[[str, str], None]
) -> None:
    stand_in("sbatch", LOSES_ANSWERS)
    run = start_run({"a": "exit 0", "b": "exit 3"})
    run.must_end(b=Cause.TASK_ERROR)
    submissions = [words for words in slurm_lab.calls("sbatch") if "--test-only" not in words]
    assert len(submissions) == 1, slurm_lab.calls()


def test_a_run_is_cancelled_whose_job_is_not_known_yet(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: Callable[[str, str], None]
) -> None:
    """What has ended by the time that it is found keeps its verdict."""
    stand_in("sbatch", LOSES_ANSWERS)
    silent = f"until [ -e '{place}/found' ]; do sleep 0.05; done"
    stand_in("squeue", f'case " $*" in *" --name"*) {silent} ;; esac\nexec "$real" "$@"')
    run = start_run({"a": "exit 0", "b": GATED}, ONE_EACH)
    run.place_of("b")

    def has_ended() -> bool:
        return any("ended" in path.read_text() for path in run.folder.glob("run/.slurm/*/*.receipt"))

    assert eventually(has_ended, LONG_S), run.story()
    run.cancel()
    (place / "found").touch()
    run.wait()
    assert run.causes == {"a": "done", "b": "cancelled"}
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_accounting_is_away(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    slurm_lab.stop_slurmdbd()
    run = start_run({"a": GATED, "bad": "exit 3", "killed": "kill -9 $$", "gone": "sleep 300"}, ONE_EACH)
    slurm_lab.run("scancel", run.place_of("gone")[1])
    run.open("gate")
    run.must_end(bad=Cause.TASK_ERROR, killed=Cause.KILLED, gone=Cause.CANCELLED)


def test_a_node_is_drained(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """What runs there goes on; what does not yet, runs elsewhere."""
    names = ("a", "b", "c", "d", "e", "f")
    run = start_run(dict.fromkeys(names, GATED), {**ONE_EACH, "cpus_per_task": 8})
    node = run.place_of("a")[0]
    slurm_lab.drain(node)
    run.open("gate")
    run.must_end()
    assert [fields[0] for fields in run.started() if fields[1] == node] == ["a"]


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


def test_the_folder_of_the_submission_is_gone(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    node = slurm_lab.nodes[0]
    slurm_lab.drain(node)
    run = start_run({"a": "exit 0"}, {"nodelist": node})
    assert eventually(lambda: bool(slurm_lab.jobs()), 30), run.story()
    hidden = run.folder / "run" / ".slurm"
    hidden.rename(hidden.with_name("elsewhere"))
    slurm_lab.resume(node)
    run.wait()
    assert run.outcomes["a"].cause in (Cause.LAUNCH_FAILED, Cause.LOST), run.story()
    run.must_have_run_once()


def test_no_call_of_slurm_is_made_too_often(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    """Two runs of many jobs: one question for all of them in each interval."""
    names = [f"u{number}" for number in range(20)]
    runs = [start_run(dict.fromkeys(names, GATED), {**ONE_EACH, "poll_interval": 1.0}) for _ in range(2)]
    assert eventually(lambda: all(len(run.handles) == 20 for run in runs), 30)
    slurm_lab.forget_calls()
    until_asked_again(slurm_lab, 1)
    begin = min(event.time for run in runs for event in run.events if event.state is UnitState.QUEUED)
    until_asked_again(slurm_lab, 4)
    for run in runs:
        run.open("gate")
    for run in runs:
        run.must_end()
    end = max(event.time for run in runs for event in run.events)
    assert len(slurm_lab.calls("squeue")) <= end - begin + 2, slurm_lab.calls("squeue")
