"""Two units in one array task, and what is told of them, with no SLURM."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from fractal_backends_slurm.calls import SchedulerError
from fractal_backends_slurm.options import SlurmOptions
from fractal_backends_slurm.places import Place, PlaceError
from fractal_backends_slurm.queue_watch import Snapshot
from fractal_backends_slurm.records import Records
from fractal_backends_slurm.scheduler import JobState
from fractal_backends_slurm.submission import Submission
from fractal_backends_slurm.tracking import Tracker

from conftest import eventually
from fractal_backends import Cause, Unit, UnitEvent

DEADLINE_S = 0.3
Told = dict[str, tuple[Cause, str]]
"""Verdicts, by the labels of units."""


class Files:
    """Receipts, what srun said of each step, and SLURM of the job."""

    def __init__(self) -> None:
        self.new, self.job = "", ""
        self.words: list[str] = []
        self.words_on_job = ""
        self.read: list[str] = []
        self.written: list[str] = []
        self.problems: list[str] = []
        """Why files cannot be brought, the next times."""
        self.are_full = False
        """Whether nothing more can be written."""

    def text(self, path: Path) -> str:
        self.read.append(path.name)
        if path.name == "7_0.out":
            return self.words_on_job
        return self.words.pop(0) if self.words and path.name == "out" else ""

    def receipts(self, *_: object) -> Iterable[tuple[str, bytes]]:
        new, self.new = self.new, ""
        return [(f"{self.job}_0.receipt", new.encode())] if new else []

    def put(self, folder: Path, files: Mapping[str, bytes], units: object) -> None:
        if self.are_full:
            raise PlaceError("No space left on device")
        self.written += files

    def fetch(self, units: object) -> None:
        """All are here, but for what goes wrong."""
        if self.problems:
            raise PlaceError(self.problems.pop(0))


class NoRecords:
    """SLURM without accounting."""

    def __init__(self) -> None:
        self.was_restarted = False
        self.found: dict[int, JobState] = {}
        self.problem: SchedulerError | None = None
        """Why there is no answer, if there is none."""

    def of(self, job: str, name: str, since: float) -> dict[int, JobState]:
        if self.problem is not None:
            raise self.problem
        return self.found

    controller = None

    def may_be_forgotten(self, at: float, known: float | None) -> bool:
        return self.was_restarted

    has_new_controller = may_be_forgotten


class Pair:
    """Units a and b, one after the other or side by side, of array task 0 of job 7; or others, of several."""

    def __init__(self, labels: str = "ab", tasks: int = 1) -> None:
        units = [Unit(0, number, f"/nowhere/{name}", ("true",)) for number, name in enumerate(labels)]
        parts = {index: units[index::tasks] for index in range(tasks)}
        submission = Submission("token", Path("/nowhere/token"), parts, job="7")
        self.files, self.records = Files(), NoRecords()
        options = SlurmOptions(receipt_deadline=DEADLINE_S)
        self.tracker = Tracker(submission, cast(Place, self.files), options, cast(Records, self.records))

    def notes(self, text: str, job: str = "7") -> None:
        """The script of this job wrote this."""
        self.files.new, self.files.job = text, job
        self.tracker.read()

    def told(self, state: str | None, **details: Any) -> Told:
        """The verdicts that follow when SLURM says this, asked now."""
        return self.told_of({7: {0: JobState(state, **{"nodes": "n1", **details})}} if state else {})

    def told_of(self, states: Mapping[int, dict[int, JobState]]) -> Told:
        """The same where SLURM says something of several jobs or array tasks."""
        return verdicts(self.events(states))

    def events(self, states: Mapping[int, dict[int, JobState]]) -> list[UnitEvent]:
        """All that follows."""
        self.tracker.read()
        jobs = {str(number): tasks for number, tasks in states.items()}
        names = dict.fromkeys(["7", *jobs], "fractal-token")
        return list(self.tracker.look(Snapshot(time.monotonic(), names, jobs)))

    @property
    def retried(self) -> list[str]:
        """What is submitted again."""
        return [unit.label for unit in self.tracker.retry]

    def until_all_is_known(self, state: str | None = "CANCELLED", **details: Any) -> Told:
        """The verdicts, if SLURM's controller says this all the time; the others are submitted again."""
        told: Told = {}

        def all_is_known() -> bool:
            told.update(self.told(state, of_controller=True, **details))
            return self.tracker.is_over

        assert eventually(all_is_known, 10)
        return told


def verdicts(events: Iterable[UnitEvent]) -> Told:
    """Those among events."""
    return {e.unit.label: (e.outcome.cause, e.outcome.info) for e in events if e.outcome is not None}
