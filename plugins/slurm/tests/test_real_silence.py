"""Commands of a real SLURM that fail, hang or are wrong while a run is under way, or is cancelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import eventually
from fractal_backends import Cause
from slurm_lab import SlurmLab
from tests.helpers.slurm_faults import GATED, ONE_EACH, QUICK, WITH_ACCOUNTS
from tests.helpers.slurm_fixtures import StandIn
from tests.helpers.slurm_runs import LONG_S, SlurmRun, StartRun, until_asked_again

pytestmark = [pytest.mark.slurm(QUICK), pytest.mark.timeout(240)]

TIMES_OUT = "echo 'error: Socket timed out on send/recv operation' >&2; exit 1"
DENIES = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def until_mended(place: Path, lines: str) -> str:
    """Lines of shell for a stand-in, which is as good as the real one as soon as there is a file."""
    return f"""[ -e '{place}/mended' ] || {{ echo >>'{place}/asked'; {lines}; }}\nexec "$real" "$@\""""


def asked(place: Path) -> int:
    """How often such stand-ins were called."""
    path = place / "asked"
    return len(path.read_text().splitlines()) if path.exists() else 0


def log_of(run: SlurmRun) -> str:
    """What the run wrote to its log."""
    return (run.folder / "run" / "workflow.log").read_text()


@pytest.mark.parametrize("denies", [DENIES, "exit 0"], ids=["says so", "empty"])
def test_a_queue_that_denies_what_was_not_cancelled(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, denies: str
) -> None:
    run = start_run({"a": "sleep 300", "b": "sleep 300"}, ONE_EACH)
    job = run.place_of("a")[1]
    run.place_of("b")
    stand_in("scancel", until_mended(place, TIMES_OUT))
    stand_in("squeue", until_mended(place, denies))
    run.cancel()
    told = f"{job} RUNNING"
    assert eventually(lambda: told in log_of(run) or run.is_over, LONG_S), log_of(run)
    assert not run.is_over
    (place / "mended").touch()
    run.wait()
    assert set(run.causes.values()) == {"cancelled"}
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])


def test_a_scancel_that_takes_long(
    start_run: StartRun, slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch, stand_in: StandIn
) -> None:
    """It is given more time each time."""
    monkeypatch.setattr("fractal_backends_slurm.cancelling._CANCEL_S", 0.5)
    run = start_run({"a": "sleep 300"})
    run.place_of("a")
    stand_in("scancel", 'sleep 1.5; exec "$real" "$@"')
    run.cancel()
    run.wait(60)
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])


@pytest.mark.parametrize("lines", [TIMES_OUT, "exec sleep 600"], ids=["fails", "hangs"])
def test_a_run_is_cancelled_where_the_queue_answers_and_scontrol_does_not(
    start_run: StartRun,
    slurm_lab: SlurmLab,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    stand_in: StandIn,
    lines: str,
) -> None:
    for module in ("cancelling", "records"):
        monkeypatch.setattr(f"fractal_backends_slurm.{module}.REGISTERED_S", 2.0)
    run = start_run({"a": "sleep 300"})
    run.place_of("a")
    stand_in("scontrol", until_mended(place, lines))
    run.cancel()
    run.wait(60)
    assert asked(place) > 1
    assert (slurm_lab.jobs(), slurm_lab.leftovers()) == ({}, [])


@pytest.mark.slurm(WITH_ACCOUNTS)
@pytest.mark.parametrize(
    ("command", "end"), [("sacct", "goes on"), ("sacct", "is cancelled"), ("scontrol", "goes on")]
)
def test_one_that_hangs_is_needed_for_one_unit(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, stand_in: StandIn, command: str, end: str
) -> None:
    """It holds up neither the others nor a cancel."""
    options = {**ONE_EACH, "cpus_per_task": 8, "nodelist": slurm_lab.nodes[0]}
    run = start_run({"a": GATED, "b": "exit 0", "c": "exit 3", "d": GATED}, options)
    array, _, index = run.place_of("a")[1].partition("_")
    assert eventually(lambda: "b" in run.handles, 30), run.story()
    until_asked_again(slurm_lab)
    waits = f"until [ -e '{place}/mended' ]; do sleep 0.05; done"
    stand_in(command, until_mended(place, waits))
    slurm_lab.run("scancel", f"{array}_{int(index) + 1}")
    assert eventually(lambda: asked(place) > 0, LONG_S), run.story()
    if end == "is cancelled":
        run.cancel()
        run.wait(30)
        assert run.causes == dict.fromkeys("abcd", "cancelled")
    else:
        run.open("gate")
        assert eventually(lambda: {*run.causes} == {*"acd"}, 30), run.story()
        (place / "mended").touch()
        run.must_end(b=Cause.CANCELLED, c=Cause.TASK_ERROR)


@pytest.mark.slurm(WITH_ACCOUNTS)
def test_accounting_that_takes_long_is_waited_for(
    start_run: StartRun, slurm_lab: SlurmLab, stand_in: StandIn
) -> None:
    """Nobody else knows who cancelled a job."""
    stand_in("sacct", 'sleep 2; exec "$real" "$@"')
    run = start_run({"a": "sleep 300"})
    slurm_lab.run("scancel", run.place_of("a")[1])
    run.must_end(a=Cause.CANCELLED)
    assert "CANCELLED by root" in run.outcomes["a"].info


def test_no_answer_is_no_end(
    start_run: StartRun, place: Path, monkeypatch: pytest.MonkeyPatch, stand_in: StandIn
) -> None:
    """Where the queue denies a job that runs, and nobody answers for longer than receipts may be late."""
    monkeypatch.setattr("fractal_backends_slurm.executor._SILENT_S", 1.0)
    run = start_run({"a": GATED, "bad": f"{GATED}; exit 3"}, {**ONE_EACH, "receipt_deadline": 1.0})
    run.place_of("a")
    run.place_of("bad")
    stand_in("squeue", f'[ -e \'{place}/mended\' ] || {{ {DENIES}; }}\nexec "$real" "$@"')
    for command in ("scontrol", "sacct"):
        stand_in(command, until_mended(place, TIMES_OUT))
    told = "SLURM does not say what becomes of the jobs, and is asked on: scontrol: error: Socket timed out"
    assert eventually(lambda: told in log_of(run) or run.is_over, LONG_S), log_of(run)
    assert not run.causes
    (place / "mended").touch()
    run.open("gate")
    run.must_end(bad=Cause.TASK_ERROR)
