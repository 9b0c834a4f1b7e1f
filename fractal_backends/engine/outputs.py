"""Units' output files: reading one, and merging those of a task."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import JobExecutionError, open_regular
from ..interface import Unit
from ..models import Filters, ImageUpdate, InitOutput, ParallelizationItem, TaskOutput, describe, json_key

OutputT = TypeVar("OutputT", TaskOutput, InitOutput)

_MOST_BYTES = 1 << 30
"""Of an output file: several times what is said of a million images."""
_SHOWN_DATA = 2_000
_SHOWN_PROBLEMS = 20


class InvalidOutputError(Exception):
    """A unit's output file does not hold what it may hold; the message says it all."""


def read_output(unit: Unit, model: type[OutputT]) -> OutputT:
    """What a unit that succeeded wrote. No file, `{}` and `null` are no output, which is valid.

    Raises InvalidOutputError.
    """
    try:
        data = _read_regular(unit.output_file)
    except FileNotFoundError:
        return model()
    except OSError as error:
        raise InvalidOutputError(_invalid(unit, model, error.strerror or str(error), b"")) from None
    if data.strip() == b"null":
        return model()
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidOutputError(_invalid(unit, model, _problems(error, model), data)) from None


def _read_regular(path: str) -> bytes:
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"It has {size:,} bytes, more than {_MOST_BYTES:,}")
        file.seek(0)
        return file.read(size)


def _problems(error: ValidationError, model: type[BaseModel]) -> str:
    lines = describe(error, model)
    more = len(lines) - _SHOWN_PROBLEMS
    return "\n  ".join(lines[:_SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else []))


def _invalid(unit: Unit, model: type[BaseModel], problem: str, data: bytes) -> str:
    kind = "init-task" if model is InitOutput else "task"
    shown = data[:_SHOWN_DATA].decode("utf-8", errors="replace")
    if len(data) > _SHOWN_DATA:
        shown += f"… (the first {_SHOWN_DATA:,} of {len(data):,} bytes)"
    return (
        f"Validation of {kind} output failed.\nOriginal error: {problem}\nOriginal data: {shown}\n"
        f"Unit {unit.label}, output file {unit.output_file}"
    )


@dataclass
class MergedOutput:
    """The outputs of a task's units as one; every URL at most once."""

    updates: list[ImageUpdate] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    filters: Filters | None = None


def merge_outputs(outputs: Iterable[TaskOutput]) -> MergedOutput:
    """Merge in the order given; identical updates and removals count once.

    Raises JobExecutionError where a URL is in two updates, or in an update and a removal, or where units
    set different filters.
    """
    updates: dict[str, ImageUpdate] = {}
    removals: dict[str, None] = {}
    conflicting: dict[str, set[Hashable]] = {}
    merged = MergedOutput()
    for output in outputs:
        for update in output.image_list_updates:
            known = updates.setdefault(update.zarr_url, update)
            if known is not update and _key(known) != _key(update):
                conflicting.setdefault(update.zarr_url, set()).add(_key(update))
        removals.update(dict.fromkeys(output.image_list_removals))
        merged.filters = _agreed_filters(merged.filters, output.filters)
    repeated = {**conflicting, **dict.fromkeys(url for url in removals if url in updates)}
    if repeated:
        count = len(updates) + sum(map(len, conflicting.values()))
        shown = "\n".join(f"  {url}" for url in repeated)
        raise JobExecutionError(
            f"TaskOutput ({count} image_list_updates and {len(removals)} image_list_removals)"
            f" has non-unique zarr_urls:\n{shown}"
        )
    merged.updates, merged.removals = list(updates.values()), list(removals)
    return merged


def _key(update: ImageUpdate) -> Hashable:
    return (update.origin, json_key(update.attributes), json_key(update.types))


def _agreed_filters(known: Filters | None, other: Filters | None) -> Filters | None:
    if known is None or other is None:
        return known or other
    if json_key(known.model_dump()) != json_key(other.model_dump()):
        raise JobExecutionError(
            f"The units of the task set different filters:\n  {known.model_dump()}\n  {other.model_dump()}"
        )
    return known


def unique_items(items: Iterable[ParallelizationItem]) -> list[ParallelizationItem]:
    """The items without repetitions, in order."""
    unique: dict[Hashable, ParallelizationItem] = {}
    for item in items:
        unique.setdefault((item.zarr_url, json_key(item.init_args)), item)
    return list(unique.values())
