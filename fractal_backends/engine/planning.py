"""From a workflow task and its images to units: their commands, files and arguments."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TaskExecutionError
from ..interface import Unit
from ..models import Image, ParallelizationItem, WorkflowTask
from .folder import write_new

FORBIDDEN_CHARACTERS = r"`#$&*()\|[]{};<>?!"
"""Shell metacharacters; commands never reach a shell, and one that expects to is refused."""


def split_command(command: str) -> tuple[str, ...]:
    """A task's command as an argument list. Raises ValueError with the reason it is not a valid one."""
    if any(character in command for character in FORBIDDEN_CHARACTERS):
        raise ValueError(
            f"Command must not contain any of this characters: {FORBIDDEN_CHARACTERS}\nCommand: {command!r}"
        )
    if "\0" in command:
        raise ValueError(f"Command must not contain a NUL character\nCommand: {command!r}")
    try:
        parts = tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"{error}\nCommand: {command!r}") from None
    if not parts:
        raise ValueError("Command is empty")
    return parts


@dataclass(frozen=True)
class TaskPlace:
    """A workflow task at its place: what its units have in common."""

    order: int
    workflow_task: WorkflowTask
    folder: Path
    zarr_dir: str
    env: Mapping[str, str]

    def commands(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The argument lists of the non-parallel and the parallel part (empty where there is none).

        Raises TaskExecutionError where one of them is not valid.
        """
        task = self.workflow_task.task
        try:
            non_parallel = split_command(task.command_non_parallel or "") if task.command_non_parallel else ()
            parallel = split_command(task.command_parallel or "") if task.command_parallel else ()
        except ValueError as error:
            raise TaskExecutionError(
                f"Invalid command. Original error: {error}",
                workflow_task_id=self.workflow_task.id,
                workflow_task_order=self.order,
                task_name=task.name,
            ) from None
        return non_parallel, parallel

    def non_parallel_arguments(self, images: Iterable[Image]) -> dict[str, Any]:
        """The arguments of the one non-parallel unit, or of a compound task's init."""
        own: dict[str, Any] = {"zarr_dir": self.zarr_dir}
        if not self.workflow_task.task.type.is_converter:
            own = {"zarr_urls": [image.zarr_url for image in images], **own}
        return {**own, **(self.workflow_task.args_non_parallel or {})}

    def non_parallel_unit(self, command: tuple[str, ...], images: Iterable[Image]) -> Unit:
        """Write the arguments of the non-parallel unit, and make it."""
        unit = Unit(self.order, None, f"{self.folder}/{self.order}", command, self.env)
        write_new(unit.args_file, _json_lines(self.non_parallel_arguments(images)))
        return unit

    def parallel_units(self, command: tuple[str, ...], own_arguments: Iterable[dict[str, Any]]) -> list[Unit]:
        """Write the arguments of the units of the parallel part, and make them."""
        common = _lines(self.workflow_task.args_parallel or {})
        stem = f"{self.folder}/{self.order}_par_"
        units = []
        for component, own in enumerate(own_arguments):
            unit = Unit(self.order, component, f"{stem}{component:07d}", command, self.env)
            write_new(unit.args_file, _object(_lines(own) + common))
            units.append(unit)
        return units


def image_arguments(images: Iterable[Image]) -> Iterable[dict[str, Any]]:
    """What differs between the units of a parallel task."""
    return ({"zarr_url": image.zarr_url} for image in images)


def item_arguments(items: Iterable[ParallelizationItem]) -> Iterable[dict[str, Any]]:
    """What differs between the compute units of a compound task."""
    return ({"zarr_url": item.zarr_url, "init_args": item.init_args} for item in items)


# One argument a line: readable, and far faster to write than json's own indentation.
def _lines(arguments: Mapping[str, Any]) -> list[str]:
    return [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in arguments.items()]


def _object(lines: list[str]) -> bytes:
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def _json_lines(arguments: Mapping[str, Any]) -> bytes:
    return _object(_lines(arguments))
