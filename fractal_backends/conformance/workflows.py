"""Short ways to write down workflows whose tasks do as they are told (see `task_program`)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ZARR = "/data/zarr"
"""The `zarr_dir` of the suite's datasets; nothing is ever there."""
TASK_PROGRAM = Path(__file__).with_name("task_program.py")
"""The whole program: it works wherever it is copied to."""
COMMAND = shlex.join([sys.executable, "-I", "-S", str(TASK_PROGRAM.with_name("task.py"))])

Json = dict[str, Any]
Steps = Sequence[Sequence[Any]]
StepsByImage = Steps | Mapping[str, Steps]

_PARTS = {
    "non_parallel": ("non_parallel",),
    "converter_non_parallel": ("non_parallel",),
    "parallel": ("parallel",),
    "compound": ("non_parallel", "parallel"),
    "converter_compound": ("non_parallel", "parallel"),
}


def step(kind: str, *do: StepsByImage, task: Json | None = None, **fields: Any) -> Json:
    """A workflow task; `do` has the steps of each of its parts, init first."""
    parts = _PARTS[kind]
    arguments = {f"args_{part}": {"do": steps} for part, steps in zip(parts, do, strict=False)}
    commands = {f"command_{part}": COMMAND for part in parts}
    return {"task": {"name": "task", "type": kind, **commands, **(task or {})}, **arguments, **fields}


def parallel(do: StepsByImage = (), **fields: Any) -> Json:
    """A parallel workflow task."""
    return step("parallel", do, **fields)


def non_parallel(do: Steps = (), **fields: Any) -> Json:
    """A non-parallel workflow task."""
    return step("non_parallel", do, **fields)


def compound(
    items: Sequence[str],
    do: StepsByImage = (),
    init: Steps = (),
    *,
    kind: str = "compound",
    **fields: Any,
) -> Json:
    """A compound workflow task whose init asks for a unit for each of the named images."""
    wanted = {"parallelization_list": [{"zarr_url": url(name)} for name in items]}
    return step(kind, [["output", wanted], *init], do, **fields)


PARTS = ("non_parallel", "parallel", "init", "compute")
"""The parts of tasks that are units."""


def in_part(part: str, do: Steps, **fields: Any) -> Json:
    """A task of which one part does as told, and the other what it should."""
    match part:
        case "init":
            return step("compound", do, [], **fields)
        case "compute":
            return compound(["a"], do, **fields)
        case kind:
            return step(kind, do, **fields)


def updates(*changes: Json, **more: Any) -> list[Any]:
    """The step that writes an output; names in it become URLs."""
    return ["output", {"image_list_updates": [_with_urls(change) for change in changes], **more}]


def removals(*names: str) -> list[Any]:
    """The step that writes an output that removes images."""
    return ["output", {"image_list_removals": [url(name) for name in names]}]


def _with_urls(value: Json) -> Json:
    return {k: url(v) if k in ("zarr_url", "origin") and v is not None else v for k, v in value.items()}


def url(name: str) -> str:
    """The URL of an image of the suite."""
    return name if name.startswith(("/", "s3:")) else f"{ZARR}/{name}"


def image(name: str, types: Json | None = None, origin: str | None = None, **attributes: Any) -> Json:
    """An image, as a result has it."""
    return {
        "zarr_url": url(name),
        "origin": url(origin) if origin else None,
        "attributes": attributes,
        "types": types or {},
    }


def dataset(images: Iterable[Any] = (), **fields: Any) -> Json:
    """A dataset of images, or of the names of images."""
    return {
        "zarr_dir": ZARR,
        "images": [image(item) if isinstance(item, str) else item for item in images],
        **fields,
    }


def names(images: Iterable[Json]) -> list[str]:
    """The names of images."""
    return [item["zarr_url"].removeprefix(ZARR + "/") for item in images]
