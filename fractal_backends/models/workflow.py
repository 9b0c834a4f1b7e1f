"""Tasks, workflow tasks and workflows."""

from __future__ import annotations

import json
import os
import string
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .images import MODEL_CONFIG, Filters, Types

RESERVED_ARGUMENTS = ("zarr_url", "zarr_urls", "zarr_dir", "init_args")
"""Arguments that the runner sets; a workflow must not."""

_SLUG = str.maketrans(dict.fromkeys(string.punctuation + string.whitespace, "_"))
_MAX_FILE_NAME_BYTES = 255
_ORDER_DIGITS = 10


class TaskType(StrEnum):
    """The five kinds of task."""

    NON_PARALLEL = "non_parallel"
    PARALLEL = "parallel"
    COMPOUND = "compound"
    CONVERTER_NON_PARALLEL = "converter_non_parallel"
    CONVERTER_COMPOUND = "converter_compound"

    @property
    def is_converter(self) -> bool:
        """Converters make images from raw data, and are given none."""
        return self in (TaskType.CONVERTER_NON_PARALLEL, TaskType.CONVERTER_COMPOUND)

    @property
    def has_non_parallel_part(self) -> bool:
        """Whether one unit runs for all images: the task itself, or a compound task's init."""
        return self is not TaskType.PARALLEL

    @property
    def has_parallel_part(self) -> bool:
        """Whether there is one unit for each image or parallelization item."""
        return self in (TaskType.PARALLEL, TaskType.COMPOUND, TaskType.CONVERTER_COMPOUND)


def _check_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None
    return value


def _check_arguments(value: dict[str, Any]) -> dict[str, Any]:
    reserved = [name for name in RESERVED_ARGUMENTS if name in value]
    if reserved:
        raise ValueError(f"{', '.join(reserved)}: set by the runner, remove it from the arguments")
    return _check_json(value)


def _check_name(name: str) -> str:
    if not name.strip():
        raise ValueError("a task needs a name")
    try:
        size = len(os.fsencode(task_slug(name)))
    except UnicodeEncodeError:
        raise ValueError("has characters that no file name can hold") from None
    if "\0" in name:
        raise ValueError("has a NUL character, which no file name can hold")
    if size > _MAX_FILE_NAME_BYTES - _ORDER_DIGITS:
        raise ValueError(f"is too long for the name of a folder ({size} bytes)")
    return name


def task_slug(name: str) -> str:
    """The task's name as part of a folder's name: lower case, punctuation and white space as `_`."""
    return name.lower().translate(_SLUG)


JsonObject = Annotated[dict[StrictStr, Any], AfterValidator(_check_json)]
Arguments = Annotated[dict[StrictStr, Any], AfterValidator(_check_arguments)]


class Task(BaseModel):
    """A command-line program, called as `COMMAND --args-json A.json --out-json O.json`."""

    model_config = MODEL_CONFIG

    name: Annotated[StrictStr, AfterValidator(_check_name)]
    command_non_parallel: StrictStr | None = None
    command_parallel: StrictStr | None = None
    type: TaskType = Field(default=None, validate_default=True)
    """Where it is not given, it follows from the commands; a converter must say so."""
    input_types: Types = Field(default_factory=dict)
    output_types: Types = Field(default_factory=dict)
    meta_non_parallel: JsonObject | None = None
    meta_parallel: JsonObject | None = None
    id: StrictInt | StrictStr | None = None
    source: StrictStr | None = None
    version: StrictStr | None = None
    pkg_name: StrictStr | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _infer_type(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        non_parallel, parallel = info.data.get("command_non_parallel"), info.data.get("command_parallel")
        if non_parallel and parallel:
            return TaskType.COMPOUND
        return TaskType.PARALLEL if parallel else TaskType.NON_PARALLEL

    @model_validator(mode="after")
    def _check_commands(self) -> Self:
        problems = []
        for part, needed in (
            ("command_non_parallel", self.type.has_non_parallel_part),
            ("command_parallel", self.type.has_parallel_part),
        ):
            command = getattr(self, part)
            if needed and not (command or "").strip():
                problems.append(f"a {self.type} task needs a {part}")
            elif command and not needed:
                problems.append(f"a {self.type} task has no {part}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class WorkflowTask(BaseModel):
    """A task at a place in a workflow."""

    model_config = MODEL_CONFIG

    task: Task
    args_non_parallel: Arguments | None = None
    args_parallel: Arguments | None = None
    meta_non_parallel: JsonObject | None = None
    meta_parallel: JsonObject | None = None
    type_filters: Types | None = None
    input_filters: Filters | None = None
    """The older style. It replaces `type_filters`, and the task's `input_types` then pick nothing."""
    id: StrictInt | StrictStr | None = None
    alias: StrictStr | None = None
    description: StrictStr | None = None
    order: StrictInt | None = None
    """Accepted for the sake of servers' rows; the place in `task_list` is what counts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = []
        kind = self.task.type
        if self.args_non_parallel and not kind.has_non_parallel_part:
            problems.append(f"args_non_parallel: a {kind} task has none")
        if self.args_parallel and not kind.has_parallel_part:
            problems.append(f"args_parallel: a {kind} task has none")
        if self.type_filters is not None and self.input_filters is not None:
            problems.append("type_filters and input_filters: give one of them, not both styles at once")
        for name, value in (self.type_filters or {}).items():
            wanted = self.task.input_types.get(name, value)
            if wanted != value:
                problems.append(
                    f"type_filters: {name}={value} conflicts with the task's input_types, {name}={wanted}"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def part_meta(self, *, parallel: bool) -> dict[str, Any]:
        """Resources for one part of the task: the task's defaults, overridden by the workflow's."""
        if parallel:
            return {**(self.task.meta_parallel or {}), **(self.meta_parallel or {})}
        return {**(self.task.meta_non_parallel or {}), **(self.meta_non_parallel or {})}


def _check_tasks(tasks: list[WorkflowTask]) -> list[WorkflowTask]:
    if not tasks:
        raise ValueError("the workflow has no tasks")
    return tasks


class Workflow(BaseModel):
    """An ordered list of workflow tasks."""

    model_config = MODEL_CONFIG

    task_list: Annotated[list[WorkflowTask], AfterValidator(_check_tasks)]
    name: StrictStr | None = None
    description: StrictStr | None = None
    id: StrictInt | StrictStr | None = None
