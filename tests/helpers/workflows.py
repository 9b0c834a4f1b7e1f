"""Short ways to write workflows down and to run them with the backend `local`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fractal_backends import Backend, RunResult, get_backend
from fractal_backends.conformance.workflows import (
    COMMAND as COMMAND,
    TASK_PROGRAM as TASK_PROGRAM,
    ZARR as ZARR,
    Json as Json,
    Steps as Steps,
    StepsByImage as StepsByImage,
    compound as compound,
    dataset as dataset,
    image as image,
    names as names,
    non_parallel as non_parallel,
    parallel as parallel,
    removals as removals,
    step as step,
    updates as updates,
    url as url,
)


async def process(
    folder: Path,
    tasks: Sequence[Json],
    images: Iterable[Any] = (),
    *,
    backend: Backend | None = None,
    filters: Json | None = None,
    **arguments: Any,
) -> RunResult:
    """Await a run."""
    arguments.setdefault("workflow", {"task_list": list(tasks)})
    arguments.setdefault("dataset", dataset(images, **({"filters": filters} if filters else {})))
    arguments.setdefault("logger_name", "tests")
    return await (backend or get_backend("local")).process_workflow(workflow_dir_local=folder, **arguments)


def run(folder: Path, tasks: Sequence[Json], images: Iterable[Any] = (), **arguments: Any) -> RunResult:
    """Run a workflow from start to end; arguments as for `process`."""
    return asyncio.run(process(folder, tasks, images, **arguments))


def saved(folder: Path) -> RunResult:
    """What the run's state files hold."""
    history, filters, images = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("history", "filters", "images")
    )
    return RunResult(history=history, filters=filters, images=images)


def statuses(result: RunResult) -> list[str]:
    """How each task of a run went."""
    return [entry["status"] for entry in result["history"]]


def arguments_of(folder: Path, unit: str = "0_task/0") -> Json:
    """What a unit was given."""
    arguments: Json = json.loads((folder / f"{unit}.args.json").read_text())
    return arguments


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, and what they hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
