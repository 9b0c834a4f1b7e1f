"""Finds what an earlier runner submitted, by the handles of its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fractal_backends import Cause, Outcome, Unit

from .places import Place
from .scheduler import Scheduler
from .submission import Handle, Submission


@dataclass
class Adopted:
    """Submissions with the units that were asked for, and the units for which there is none.

    The job of a submission is not known where the earlier runner did not get the answer.
    """

    submissions: list[Submission] = field(default_factory=list)
    lost: list[tuple[Unit, Outcome]] = field(default_factory=list)


def adopted(units: Sequence[Unit]) -> Adopted:
    """The submissions that units with handles belong to."""
    found = Adopted()
    by_folder: dict[Path, list[tuple[Handle, Unit]]] = {}
    for unit in units:
        try:
            handle = Handle.read(unit.handle or "")
        except ValueError as error:
            found.lost.append((unit, Outcome(Cause.LOST, f"{error}.")))
        else:
            by_folder.setdefault(handle.folder, []).append((handle, unit))
    for folder, some in by_folder.items():
        found.submissions.append(_submission(folder, some))
    return found


def _submission(folder: Path, some: Sequence[tuple[Handle, Unit]]) -> Submission:
    submission = Submission(folder.name, folder, {}, adopted=True, tries=1)
    for handle, unit in some:
        submission.parts.setdefault(handle.index, []).append(unit)
    submission.job = next((handle.job for handle, _ in some if handle.job), None)
    return submission


def find_job(submission: Submission, scheduler: Scheduler, place: Place) -> None:
    """Look for the job of a submission whose answer did not come. Raises SchedulerError."""
    for name, text in place.receipts(submission.folder):  # each is to be had once
        submission.receipts.take(name, text.decode(errors="replace"))
    submission.became(sorted(submission.receipts.numbers) or scheduler.find(submission.name))
