"""What is told of units while parts of a real SLURM die, and come back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from conftest import eventually
from fractal_backends import Cause, UnitState
from slurm_lab import SlurmLab
from tests.helpers.slurm_faults import GATED, ONE_EACH, QUICK, WITH_ACCOUNTS, must_be_told_started
from tests.helpers.slurm_fixtures import StandIn
from tests.helpers.slurm_runs import LONG_S, StartRun, until_asked_again

pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]


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


def test_a_unit_ends_on_a_node_that_slurm_cannot_reach(start_run: StartRun, slurm_lab: SlurmLab) -> None:
    run = start_run({"a": GATED, "bad": f"{GATED}; exit 3"}, {**ONE_EACH, "cpus_per_task": 8})
    nodes = [run.place_of(name)[0] for name in ("a", "bad")]
    for node in nodes:
        slurm_lab.kill_slurmd(node)
    run.open("gate")
    run.must_end(bad=Cause.TASK_ERROR)


SUBMITS = """case " $*" in *" --test-only"*) exec "$real" "$@" ;; esac
"$real" "$@" >/dev/null
"""
LOSES_ANSWERS = f"""{SUBMITS}
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
"""


@pytest.mark.parametrize(
    "then",
    [
        LOSES_ANSWERS.removeprefix(SUBMITS),
        "kill -s KILL $$",
        "exit 1",
        'echo "sbatch: error: Batch job submission failed: Unspecified error" >&2; exit 1',
        "echo 4711; echo jobs left:; echo 42",
    ],
    ids=["time-out", "killed", "no word", "final", "numbers"],
)
def test_the_answer_to_a_submission_is_lost(
    start_run: StartRun, slurm_lab: SlurmLab, stand_in: StandIn, then: str
) -> None:
    stand_in("sbatch", f"{SUBMITS}{then}")
    run = start_run({"a": "exit 0", "b": "exit 3"})
    run.must_end(b=Cause.TASK_ERROR)
    submissions = [words for words in slurm_lab.calls("sbatch") if "--test-only" not in words]
    assert len(submissions) == 1, slurm_lab.calls()


@pytest.mark.parametrize("then", ["Socket timed out on send/recv operation", "Unspecified error"])
def test_the_answer_is_lost_and_the_queue_cannot_be_asked(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, then: str
) -> None:
    """For whatever reason: there may be a job."""
    fails = f'echo "sbatch: error: Batch job submission failed: {then}" >&2; exit 1'
    stand_in("sbatch", f"{SUBMITS}{fails}")
    fails = "echo 'error: no such library' >&2; exit 127"
    broken = f"[ -e '{place}/mended' ] || {{ echo >>'{place}/asked'; {fails}; }}"
    stand_in("squeue", f'case " $*" in *" --name"*) {broken} ;; esac\nexec "$real" "$@"')
    run = start_run({"a": "exit 0", "b": "exit 3"})
    asked = place / "asked"
    assert eventually(lambda: run.is_over or (asked.exists() and len(asked.read_text()) > 1), LONG_S)
    (place / "mended").touch()
    run.must_end(b=Cause.TASK_ERROR)
    submissions = [words for words in slurm_lab.calls("sbatch") if "--test-only" not in words]
    assert len(submissions) == 1, slurm_lab.calls()


@pytest.mark.parametrize("end", ["none", "killed"])
def test_a_run_is_cancelled_while_sbatch_does_not_answer(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, end: str
) -> None:
    """As service managers do it, who may end sbatch, too."""
    stand_in("sbatch", f"{SUBMITS}\necho $$ >'{place}/pid'; exec sleep 600")
    run = start_run({"a": "sleep 300", "b": "exit 0"}, {"tasks_per_job": 2})
    run.place_of("a")
    assert eventually((place / "pid").exists, LONG_S)
    run.cancel()
    if end == "killed":
        os.kill(int((place / "pid").read_text()), signal.SIGTERM)
    run.wait(30)
    assert run.causes == {"a": "cancelled", "b": "cancelled"}
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])
    assert [fields[0] for fields in run.started()] == ["a"]


def test_a_run_is_cancelled_whose_submission_the_controller_has_yet_to_read(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn
) -> None:
    """It answers others before it comes to that, whose job would stay in the queue."""
    for node in slurm_lab.nodes:
        slurm_lab.drain(node)
    controller = slurm_lab.slurmctld.pid
    assert controller is not None
    stops = f"kill -s STOP {controller}; touch '{place}/sent'"
    stand_in("sbatch", f'case " $*" in *" --test-only"*) ;; *) {stops} ;; esac\nexec "$real" "$@"')
    run = start_run({"a": "exit 0"})
    try:
        assert eventually((place / "sent").exists, LONG_S)
        run.cancel()
        asked = len(slurm_lab.calls("squeue"))
        assert eventually(lambda: len(slurm_lab.calls("squeue")) > asked, LONG_S), run.story()
    finally:
        os.kill(controller, signal.SIGCONT)
    run.wait()
    assert (run.causes, run.started()) == ({"a": "cancelled"}, [])
    assert slurm_lab.jobs() == {}


ACCEPTED_LATE = """case " $*" in *" --test-only"*) exec "$real" "$@" ;; esac
if [ -e '{place}/first' ]; then exec "$real" "$@"; fi
cat >'{place}/first'
{{
    until [ -e '{place}/late' ]; do sleep 0.05; done
    "$real" "$@" <'{place}/first'
    touch '{place}/came'
}} >/dev/null 2>&1 &
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
"""


@pytest.mark.parametrize("end", ["done", "cancel"])
def test_a_submission_is_accepted_twice(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, end: str
) -> None:
    """The first time after it was tried again: that job does not stay in the queue."""
    stand_in("sbatch", ACCEPTED_LATE.format(place=place))
    first, *others = slurm_lab.nodes
    for node in others:
        slurm_lab.drain(node)
    run = start_run({"a": GATED}, {"cpus_per_task": 8})
    run.place_of("a")
    (place / "late").touch()
    assert eventually((place / "came").exists, LONG_S)
    assert sorted(slurm_lab.jobs().values()) == ["PENDING", "RUNNING"]
    slurm_lab.drain(first)
    if end == "done":
        run.open("gate")
        run.must_end()
    else:
        run.cancel()
        run.wait()
    assert slurm_lab.jobs() == {}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "squeue: slurm_load_jobs",
        ),
        ("exec sleep 600", "squeue hangs"),
    ],
    ids=["fails", "hangs"],
)
def test_a_squeue_that_does_not_answer_is_told_of(
    start_run: StartRun,
    monkeypatch: pytest.MonkeyPatch,
    stand_in: StandIn,
    lines: str,
    why: str,
) -> None:
    monkeypatch.setattr("fractal_backends_slurm.executor._SILENT_S", 1.0)
    stand_in("squeue", lines)
    run = start_run({"a": GATED, "bad": "exit 3"})
    log = run.folder / "run" / "workflow.log"
    told = f"SLURM does not say what becomes of the jobs, and is asked on: {why}"
    assert eventually(lambda: log.exists() and told in log.read_text(), LONG_S), log.read_text()
    stand_in("squeue", 'exec "$real" "$@"')
    run.open("gate")
    run.must_end(bad=Cause.TASK_ERROR)


def test_a_queue_that_denies_a_job_is_not_believed_at_once(start_run: StartRun, stand_in: StandIn) -> None:
    """Nor where nobody else answers."""
    denies = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    stand_in("squeue", f'case " $*" in *" --jobs"*) {denies} ;; esac\nexec "$real" "$@"')
    for command in ("scontrol", "sacct"):
        stand_in(command, "echo 'nicht verfügbar' >&2; exit 9")
    options = {"tasks_per_job": 2, "poll_interval": 0.5}
    run = start_run({"a": "exit 0", "bad": "exit 3"}, options, worker_init="sleep 3")
    run.must_end(bad=Cause.TASK_ERROR)


@pytest.mark.parametrize(
    "lines", ['"$real" "$@"; exit 1', "echo 'Zugriff verweigert' >&2; exit 9"], ids=["late", "refuses"]
)
def test_a_scancel_that_fails_does_not_keep_a_run_whose_jobs_have_ended(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, lines: str
) -> None:
    stand_in("scancel", f"touch '{place}/called'\n{lines}")
    run = start_run({"a": GATED})
    run.place_of("a")
    run.cancel()
    assert eventually((place / "called").exists, LONG_S)
    run.open("gate")
    run.wait(30)
    assert slurm_lab.jobs() == {}


@pytest.mark.parametrize("command", ["scontrol", "sinfo"])
def test_a_slurm_that_says_nothing_of_itself(
    start_run: StartRun,
    slurm_lab: SlurmLab,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stand_in: StandIn,
    command: str,
) -> None:
    """Before anything is submitted. It is asked again; a run that is cancelled then ends."""
    for module in ("scheduler", "site"):
        monkeypatch.setattr(f"fractal_backends_slurm.{module}.ASK_S", 1.0)
    stand_in(command, "exec sleep 600")
    run = start_run({"a": "exit 0"})
    unknown = f"The limits of the site are not known yet: {command} did not answer within 1 s"
    assert eventually(lambda: any(event.info == unknown for event in run.events), LONG_S), run.story()
    run.cancel()
    run.wait(15)
    told = f"SLURM does not say now whether it takes the options: {command} did not answer within 1 s"
    assert told in caplog.text
    assert slurm_lab.jobs() == {}


def test_a_run_is_cancelled_whose_job_is_not_known_yet(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn
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
