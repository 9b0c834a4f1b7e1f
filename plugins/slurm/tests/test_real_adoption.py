"""What a killed runner leaves on a real SLURM, in the hands of a later one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from conftest import eventually
from fractal_backends import Outcome, RunInfo, Unit, get_backend
from slurm_lab import SlurmLab
from tests.helpers.processes import ROOT
from tests.helpers.slurm_runs import LONG_S, POLL_S, SlurmRun

ONE_EACH = {"tasks_per_job": 1}
pytestmark = pytest.mark.timeout(240)


class KilledRunner:
    """A runner of these units that is killed once something is so, and the units with their last handles."""

    def __init__(self, place: Path, units: dict[str, str], options: dict[str, Any]) -> None:
        self.run = SlurmRun(place / "run", units, {})
        self.folder = self.run.folder / "run"
        self._told = place / "told.jsonl"
        arguments = self.run.write()
        arguments["workflow_dir_local"] = str(arguments["workflow_dir_local"])
        self._options = {"poll_interval": POLL_S, **ONE_EACH, **options}
        self._request = json.dumps(
            {"arguments": arguments, "options": self._options, "told": str(self._told)}
        )

    def kill_when(self, is_so: Callable[[], bool]) -> list[Unit]:
        """Start it, and kill it then. Its units, each with the last handle that was told."""
        command = [sys.executable, "-m", "tests.helpers.slurm_runner", self._request]
        with subprocess.Popen(command, cwd=ROOT) as runner:
            try:
                assert eventually(is_so, LONG_S), self._told.read_text() if self._told.exists() else ""
            finally:
                runner.send_signal(signal.SIGKILL)
        return list(self._handles().values())

    def _handles(self) -> dict[str, Unit]:
        if not self._told.exists():
            return {}
        lines = [json.loads(line)["unit"] for line in self._told.read_text().splitlines()]
        units = [Unit(**{**unit, "task_command": tuple(unit["task_command"])}) for unit in lines]
        return {unit.stem: unit for unit in units if unit.handle}

    def adopt(self, units: list[Unit], receipt_deadline: float = 5, *, cancel: bool = False) -> list[Outcome]:
        """Give units to an executor of their own, without a run; how they ended, in order."""
        backend = get_backend(
            "slurm", options={"poll_interval": POLL_S, "receipt_deadline": receipt_deadline}
        )
        ends: dict[str, Outcome] = {}
        with backend.open(RunInfo("adopted", self.folder, self.folder, "tests")) as executor:
            for event in executor.run(units, backend.options_model(**backend.options)):
                if event.outcome is not None:
                    assert ends.setdefault(event.unit.label, event.outcome) is event.outcome
                elif cancel and event.handle and not event.handle.startswith("?"):
                    executor.cancel()
        return [ends[unit.label] for unit in units]

    @property
    def submissions(self) -> list[str]:
        """Names of the folders of those that are not over."""
        hidden = self.folder / ".slurm"
        return [path.name for path in hidden.iterdir()] if hidden.exists() else []


def causes(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome.cause) for outcome in outcomes]


def unknown(units: list[Unit]) -> list[Unit]:
    """As if the answer of sbatch had not come: the number of the job is not known."""
    return [replace(unit, handle="?" + (unit.handle or "").lstrip("?0123456789")) for unit in units]


@pytest.mark.parametrize("meanwhile", ["nothing", "the controller was killed", "no answer had come"])
def test_units_of_a_killed_runner_are_adopted(slurm_lab: SlurmLab, place: Path, meanwhile: str) -> None:
    """One has ended meanwhile, one runs, and one waits."""
    units = {"a": "exit 3", "b": "wait_for gate", "c": "exit 0"}
    runner = KilledRunner(place, units, {"cpus_per_task": 8, "nodelist": slurm_lab.nodes[0]})
    left = runner.kill_when(lambda: len(runner.run.started()) == 2)
    if "controller" in meanwhile:
        slurm_lab.wait_until_saved()
        slurm_lab.crash_slurmctld()
        slurm_lab.start_slurmctld()
    assert slurm_lab.jobs(), "the units ended with their runner"
    runner.run.open("gate")
    ends = runner.adopt(unknown(left) if "answer" in meanwhile else left)
    assert [(str(end.cause), end.exit_code) for end in ends] == [("task error", 3), ("done", 0), ("done", 0)]
    assert sorted(fields[0] for fields in runner.run.started()) == ["a", "b", "c"]
    assert slurm_lab.leftovers_after(5) == []
    assert runner.submissions == []


def test_a_cancel_ends_all_that_is_being_adopted(slurm_lab: SlurmLab, place: Path) -> None:
    """Also what was not followed yet when it came."""
    first = KilledRunner(place / "first", {"a": "wait_for gate"}, {})
    second = KilledRunner(place / "second", {"a": "exit 0", "b": "wait_for gate"}, {})
    left = [
        *first.kill_when(lambda: len(first.run.started()) == 1),
        second.kill_when(lambda: len(second.run.started()) == 2)[-1],
    ]
    assert causes(first.adopt(left, cancel=True)) == ["cancelled", "cancelled"]
    assert slurm_lab.leftovers_after(5) == []


def test_a_job_is_looked_for_until_the_controller_is_back(slurm_lab: SlurmLab, place: Path) -> None:
    """It has not begun, so that only the controller knows of it."""
    runner = KilledRunner(place, {"a": "exit 0"}, {"extra_lines": ["#SBATCH --begin=now+7"]})
    left = runner.kill_when(lambda: bool(slurm_lab.jobs()))
    slurm_lab.wait_until_saved()
    slurm_lab.crash_slurmctld()
    back = Timer(3, slurm_lab.start_slurmctld)
    back.start()
    try:
        (end,) = runner.adopt(unknown(left), receipt_deadline=1)
        assert str(end.cause) == "done", end
    finally:
        back.join()


def test_a_submission_that_is_on_its_way_is_adopted(slurm_lab: SlurmLab, place: Path) -> None:
    """sbatch lives on without its runner."""
    begun = place / "begun"
    runner = KilledRunner(
        place, {"a": "exit 0"}, {"pre_submission_commands": [f"touch '{begun}'", "sleep 3"]}
    )
    left = runner.kill_when(begun.exists)
    assert causes(runner.adopt(left, receipt_deadline=30)) == ["done"]
    assert [fields[0] for fields in runner.run.started()] == ["a"]


def test_a_submission_that_was_given_up_runs_nothing_when_it_comes(slurm_lab: SlurmLab, place: Path) -> None:
    begun, late = place / "begun", place / "late"
    before = [f"touch '{begun}'", f"until [ -e '{late}' ]; do sleep 0.05; done"]
    runner = KilledRunner(place, {"a": "exit 0"}, {"pre_submission_commands": before})
    left = runner.kill_when(begun.exists)
    (submission,) = runner.submissions
    (end,) = runner.adopt(left, receipt_deadline=1)
    assert str(end.cause) == "lost" and submission in end.info
    late.touch()
    show = ("squeue", "--noheader", "--states=all", f"--name=fractal-{submission}", "--format=%T")
    assert eventually(lambda: slurm_lab.run(*show).split() in (["FAILED"], ["CANCELLED"]), 60)
    assert runner.run.started() == []


def test_an_adopted_unit_has_the_time_limit_that_it_was_submitted_with(
    slurm_lab: SlurmLab, place: Path
) -> None:
    runner = KilledRunner(place, {"a": "sleep 60"}, {"time": "00:00:04"})
    left = runner.kill_when(lambda: len(runner.run.started()) == 1)
    assert causes(runner.adopt(left)) == ["time limit"]


@pytest.mark.parametrize("known", [True, False])
def test_what_another_runner_took_is_lost_to_the_next(slurm_lab: SlurmLab, place: Path, known: bool) -> None:
    runner = KilledRunner(place, {"a": "wait_for gate"}, {})
    left = runner.kill_when(lambda: len(runner.run.started()) == 1)
    runner.run.open("gate")
    assert causes(runner.adopt(left)) == ["done"]
    (end,) = runner.adopt(left if known else unknown(left), receipt_deadline=1)
    assert str(end.cause) == "lost" and end.info.endswith("or another runner took it."), end


@pytest.mark.parametrize("how", ["as told", "no answer had come"])
def test_adopted_units_can_be_cancelled(slurm_lab: SlurmLab, place: Path, how: str) -> None:
    runner = KilledRunner(place, {"a": "exit 0", "b": "sleep 300"}, {})
    left = runner.kill_when(lambda: len(runner.run.started()) == 2)
    ends = runner.adopt(unknown(left) if "answer" in how else left, cancel=True)
    assert causes(ends)[1] == "cancelled"
    assert slurm_lab.leftovers_after(5) == []
    assert runner.submissions == []
