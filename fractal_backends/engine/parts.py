"""The parts of a run's tasks, as a backend can look at them before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import TaskExecutionError
from ..interface import RunInfo, TaskInfo, TaskPart, Unit
from ..models import task_slug
from .planning import TaskPlace
from .preparation import PreparedRun, PreparedTask


def task_parts(run: RunInfo, prepared: PreparedRun, first_units: int | None = None) -> list[TaskPart]:
    """All parts, in the order in which they run; `first_units`: of the first one, where that is known."""
    parts = [part for task in prepared.tasks for part in _parts(run, task)]
    units = [first_units if place == 0 and part.parallel else part.units for place, part in enumerate(parts)]
    return [
        TaskPart(part.task, part.parallel, part.options, part.example, count)
        for part, count in zip(parts, units, strict=True)
    ]


def _parts(run: RunInfo, task: PreparedTask) -> Iterator[TaskPart]:
    kind = task.workflow_task.task
    folder = run.workflow_dir_local / f"{task.order}_{task_slug(kind.name)}"
    place = TaskPlace(task.order, task.workflow_task, folder, "", {})
    try:
        non_parallel, parallel = place.commands()
    except TaskExecutionError:  # the run tells of it when it comes to the task
        non_parallel, parallel = (), ()
    info = TaskInfo(task.order, kind.name, kind.type)
    stem = f"{folder}/{task.order}"
    if kind.type.has_non_parallel_part:
        yield TaskPart(info, False, task.non_parallel_options, Unit(task.order, None, stem, non_parallel), 1)
    if kind.type.has_parallel_part:
        example = Unit(task.order, 0, f"{stem}_par_{0:07d}", parallel)
        yield TaskPart(info, True, task.parallel_options, example, None)
