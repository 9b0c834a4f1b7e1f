"""Finds what an earlier runner submitted, by the handles of its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fractal_backends import Cause, Outcome, Unit

from .places import Place
from .scheduler import Scheduler
from .submission import UNITS_FILE, Handle, Submission


@dataclass
class Adopted:
    """Submissions with the units that were asked for, and the units for which there is none."""

    submissions: list[Submission] = field(default_factory=list)
    lost: list[tuple[Unit, Outcome]] = field(default_factory=list)


def adopted(units: Sequence[Unit], scheduler: Scheduler, place: Place) -> Adopted:
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
        submission = _submission(folder, some, scheduler, place)
        if submission.job is not None:
            found.submissions.append(submission)
            continue
        info = f"SLURM knows no job of the submission {folder}, and nothing is written down there."
        found.lost += [(unit, Outcome(Cause.LOST, info)) for _, unit in some]
    return found


def _submission(
    folder: Path, some: Sequence[tuple[Handle, Unit]], scheduler: Scheduler, place: Place
) -> Submission:
    submission = Submission(folder.name, folder, {}, adopted=True)
    for handle, unit in some:
        submission.parts.setdefault(handle.index, []).append(unit)
    submission.job = next((handle.job for handle, _ in some if handle.job), None)
    if submission.job is None:
        submission.job = _job_of(submission, scheduler, place)
    return submission


def _job_of(submission: Submission, scheduler: Scheduler, place: Place) -> str | None:
    """The job of a submission whose answer the earlier runner did not get."""
    if not place.text(submission.folder / UNITS_FILE):
        return None
    for name, text in place.receipts(submission.folder):  # each is to be had once
        submission.receipts.take(name, text.decode(errors="replace"))
    return min(submission.receipts.numbers(), default=None) or scheduler.find(submission.name)
