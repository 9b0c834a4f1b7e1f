"""How a run would go, without starting anything."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from fractal_backends import InvalidInputError, TaskPart, Unit

from .calls import SchedulerError
from .options import SlurmOptions
from .submission import Submission
from .submitting import Submitter

_FILES_OF_A_UNIT = 3
_FILES_OF_A_STEP = 2
"""Of a unit that runs beside others, besides."""
_FILES_OF_A_SUBMISSION = 2
_FILES_OF_AN_ARRAY_TASK = 3


def explain(submitter: Submitter, parts: Sequence[TaskPart]) -> Iterable[str]:
    """The scripts, which are long; then of each part its job arrays, and what `sbatch --test-only` says.

    What sbatch would refuse was told before (see `preflight`); what it says here may be of the moment.

    Raises InvalidInputError, at the end, with all that was refused.
    """
    layouts, refused = [], []
    for part in parts:
        if not part.example.task_command:
            continue
        try:
            planned = submitter.plan(_units(part), cast(SlurmOptions, part.options))
        except InvalidInputError as error:
            refused.append(f"{part.name}: {error}")
            continue
        except SchedulerError as error:
            layouts.append(f"{part.name}\n  cannot be laid out now: {error}")
            continue
        yield f"The script of {part.name}:\n\n{planned[0].script.decode(errors='replace')}"
        layout = [*_layout(part, planned), _tried_out(submitter, planned[0])]
        layouts.append("\n".join([part.name, *(f"  {line}" for line in layout)]))
    yield from layouts
    if refused:
        raise InvalidInputError("SLURM does not take this", refused)


def _tried_out(submitter: Submitter, submission: Submission) -> str:
    try:
        return submitter.try_out(submission)
    except SchedulerError as error:
        return f"cannot start as things are now: {error}"


def _units(part: TaskPart) -> list[Unit]:
    """Units like those that the part will have; one where their number is not known."""
    if part.example.component is None:
        return [part.example]
    stem = part.example.stem.rpartition("_par_")[0]
    return [
        replace(part.example, component=number, stem=f"{stem}_par_{number:07d}")
        for number in range(part.units or 1)
    ]


def _layout(part: TaskPart, planned: Sequence[Submission]) -> Iterable[str]:
    units = sum(len(submission.units) for submission in planned)
    tasks = sum(len(submission.parts) for submission in planned)
    most = max(len(some) for submission in planned for some in submission.parts.values())
    known = (
        f"{units} unit{'s'[: units > 1]}"
        if part.units
        else "as many units as the task before makes; for one unit"
    )
    packing = planned[0].packing
    files_each = _FILES_OF_A_UNIT + (_FILES_OF_A_STEP if packing and packing.at_once > 1 else 0)
    files = units * files_each + tasks * _FILES_OF_AN_ARRAY_TASK + len(planned) * _FILES_OF_A_SUBMISSION
    yield known
    yield f"job arrays {len(planned)}, array tasks {tasks}, units in each up to {most}, files up to {files}"
    yield f"sbatch {shlex.join(planned[0].arguments)}"
