"""`run --dry-run`: what would run."""

from __future__ import annotations

import json
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..engine.backend import Backend
from ..engine.filters import select_images
from ..engine.image_list import ImageList
from ..engine.parts import task_parts
from ..engine.planning import TaskPlace, image_arguments
from ..engine.preparation import PreparedRun, PreparedTask
from ..interface import RunInfo
from ..models import Dataset
from .terminal import add_row, harmless, make_console, make_table, one_line

_Call = tuple[tuple[str, ...], dict[str, Any]]

_SHOWN_UNITS = 3
_SHOWN_CHARACTERS = 2_000


def show_preview(backend: Backend, prepared: PreparedRun, run: RunInfo) -> None:
    """Show the tasks, their commands and options, the first units, and what the backend has to say of them.

    Nothing is started, nothing is written.

    Raises TaskExecutionError or JobExecutionError for what would end the first task before its first unit.
    """
    console = make_console()
    table = make_table("", "Task", "Type", "Options", "Meta that the backend ignores")
    for task in prepared.tasks:
        kind = task.workflow_task.task
        names = (one_line(kind.name), kind.type)
        add_row(table, task.order, *names, _options(task), _ignored(task))
    console.print(table)
    console.print(Text("Commands", style="italic"))
    for task in prepared.tasks:
        kind = task.workflow_task.task
        for command in filter(None, (kind.command_non_parallel, kind.command_parallel)):
            console.print(Text(f"{task.order}  {one_line(command)}"), soft_wrap=True)
    console.print()
    units = _show_first_units(console, prepared)
    for paragraph in backend.explain(run, task_parts(run, prepared, units)):
        console.print()
        console.print(Text(harmless(paragraph.rstrip())), soft_wrap=True)


def _parts(task: PreparedTask) -> list[bool]:
    kind = task.workflow_task.task.type
    return [
        parallel
        for parallel, there in ((False, kind.has_non_parallel_part), (True, kind.has_parallel_part))
        if there
    ]


def _options(task: PreparedTask) -> str:
    lines: dict[str, None] = {}
    for parallel in _parts(task):
        options = task.parallel_options if parallel else task.non_parallel_options
        lines.update(dict.fromkeys(f"{k}={v}" for k, v in options.model_dump(exclude_defaults=True).items()))
    return "\n".join(lines)


def _ignored(task: PreparedTask) -> str:
    return ", ".join(
        one_line(key) if option is None else f"{one_line(key)} (did you mean {option}?)"
        for key, option in task.ignored.items()
    )


def _show_first_units(console: Console, prepared: PreparedRun) -> int:
    """Returns how many units the first task starts with."""
    first = prepared.tasks[0]
    units, arguments = _first_units(first, prepared.dataset)
    name = one_line(first.workflow_task.task.name)
    count = "1 unit" if units == 1 else f"{units} units"
    console.print(Text(f"Task {first.order} {name} starts with {count}", style="italic"))
    for command, values in islice(arguments, _SHOWN_UNITS):
        text = json.dumps(values)
        text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        line = f"{one_line(shlex.join(command))} --args-json … --out-json …\n  arguments: {text}"
        console.print(Text(line), soft_wrap=True)
    if units > _SHOWN_UNITS:
        console.print(f"and {units - _SHOWN_UNITS} more")
    if len(prepared.tasks) > 1:
        console.print("The units of the later tasks depend on what the earlier ones make.")
    return units


def _first_units(task: PreparedTask, dataset: Dataset) -> tuple[int, list[_Call]]:
    """How many units the task starts with, and the commands and arguments of the first of them."""
    workflow_task = task.workflow_task
    kind = workflow_task.task.type
    images = []
    if not kind.is_converter:
        images = select_images(ImageList(dataset.images), dataset.filters, workflow_task)
    place = TaskPlace(task.order, workflow_task, Path(), dataset.zarr_dir, {})
    non_parallel, parallel = place.commands()
    if kind.has_non_parallel_part:
        return 1, [(non_parallel, place.non_parallel_arguments(images))]
    own = islice(image_arguments(images), _SHOWN_UNITS)
    common = workflow_task.args_parallel or {}
    return len(images), [(parallel, {**arguments, **common}) for arguments in own]
