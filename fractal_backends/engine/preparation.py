"""All that is checked before a run starts, with every problem told at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..interface import BackendAttributes
from ..models import Dataset, Workflow, WorkflowTask, load, read_json
from ..options import Options, Source, foreign_keys, merge_options


@dataclass(frozen=True)
class PreparedTask:
    """A task of the run with the options of its two parts."""

    order: int
    workflow_task: WorkflowTask
    non_parallel_options: Options
    parallel_options: Options
    ignored: Mapping[str, str | None] = field(default_factory=dict)
    """The keys of its meta that the backend does not read, each with the option probably meant, if any."""

    def warnings(self) -> Iterator[str]:
        """What is probably wrong in its meta, a line each."""
        for key, option in self.ignored.items():
            if option is not None:
                name = self.workflow_task.task.name
                yield (
                    f"task {self.order} ({name!r}): the meta's key {key!r} is no option of this backend,"
                    f" and ignored; did you mean {option}?"
                )


@dataclass(frozen=True)
class PreparedRun:
    """Valid input."""

    tasks: list[PreparedTask]
    dataset: Dataset

    def warnings(self) -> Iterator[str]:
        """What is probably wrong but does not keep the run from being, a line each."""
        for task in self.tasks:
            yield from task.warnings()


def prepare(
    backend: type[BackendAttributes],
    options: Source,
    *,
    workflow: Any,
    dataset: Any,
    first_task_index: int | None = None,
    last_task_index: int | None = None,
) -> PreparedRun:
    """Validate a workflow, a dataset, the index range and the options of every task in it.

    Raises InvalidInputError.
    """
    errors: list[InvalidInputError] = []
    valid_workflow = _load(Workflow, workflow, errors)
    valid_dataset = _load(Dataset, dataset, errors)
    if valid_workflow is None or valid_dataset is None:
        if len(errors) == 1:
            raise errors[0]
        problems = [f"{error.what}: {problem}" for error in errors for problem in error.problems or [""]]
        raise InvalidInputError("The workflow and the dataset are not valid", problems)
    indices = task_range(len(valid_workflow.task_list), first_task_index, last_task_index)
    tasks = _with_options(backend, valid_workflow, indices, config_file_source(backend), options)
    return PreparedRun(tasks, valid_dataset)


def _load(model: Any, source: Any, errors: list[InvalidInputError]) -> Any:
    try:
        return load(model, source)
    except InvalidInputError as error:
        errors.append(error)
        return None


def task_range(count: int, first: int | None, last: int | None) -> range:
    """The indices to run, `last` included. Raises InvalidInputError."""
    first = 0 if first is None else first
    last = count - 1 if last is None else last
    for name, value in (("first_task_index", first), ("last_task_index", last)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidInputError(f"{name}={value!r} must be a whole number")
        if value < 0:
            raise InvalidInputError(f"{name}={value} cannot be negative")
        if value > count - 1:
            raise InvalidInputError(f"{name}={value} cannot be larger than (num_tasks-1)={count - 1}")
    if first > last:
        raise InvalidInputError(f"first_task_index={first} cannot be larger than last_task_index={last}")
    return range(first, last + 1)


def config_file_source(backend: type[BackendAttributes]) -> Source | None:
    """The backend's configuration file, where its environment variable names one.

    Raises InvalidInputError where it cannot be read as a JSON object.
    """
    variable = backend.config_file_variable
    path = os.environ.get(variable) if variable else None
    if not path:
        return None
    try:
        values = read_json(Path(path), each_key_once=True)
    except InvalidInputError as error:
        raise InvalidInputError(f"The configuration file that {variable} names: {error}") from None
    if not isinstance(values, dict):
        raise InvalidInputError(f"The configuration file {path} ({variable}) must hold a JSON object")
    return Source(f"the configuration file {path}", values)


def _with_options(
    backend: type[BackendAttributes], workflow: Workflow, indices: range, file: Source | None, given: Source
) -> list[PreparedTask]:
    tasks: list[PreparedTask] = []
    problems: dict[str, None] = {}
    model = backend.options_model
    for order in indices:
        workflow_task = workflow.task_list[order]
        parts = []
        ignored: dict[str, str | None] = {}
        kind = workflow_task.task.type
        for part, there in (
            ("meta_non_parallel", kind.has_non_parallel_part),
            ("meta_parallel", kind.has_parallel_part),
        ):
            meta = workflow_task.part_meta(parallel=part == "meta_parallel")
            name = f"task {order} ({workflow_task.task.name!r}), {part}"
            sources = backend.option_sources(file, Source(name, meta, shared=True), given)
            options, found = merge_options(model, sources)
            problems.update(dict.fromkeys(found))
            parts.append(options or model())
            if there:
                ignored.update(foreign_keys(model, sources))
        tasks.append(PreparedTask(order, workflow_task, parts[0], parts[1], ignored))
    if problems:
        warnings = (warning for task in tasks for warning in task.warnings())
        raise InvalidInputError("The options are not valid", [*problems, *warnings])
    return tasks
