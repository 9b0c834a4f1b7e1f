"""Which images a task gets, and the filters it leaves behind."""

from __future__ import annotations

from ..errors import JobExecutionError
from ..models import Filters, Image, WorkflowTask
from .image_list import ImageList


def select_images(images: ImageList, current: Filters, workflow_task: WorkflowTask) -> list[Image]:
    """The images for a task that is no converter.

    Raises JobExecutionError where there are images and none is left, or (older filter style) where one of
    those left does not have the task's input types.
    """
    task = workflow_task.task
    filters = _effective_filters(current, workflow_task)
    selected = images.select(filters)
    if len(images) and not selected:
        there = images.overview()
        raise JobExecutionError(
            f"Cannot run task '{task.name}' for an empty image list: none of the {len(images)} images is left"
            f" by the filters.\nFilters: {filters.model_dump()}\n"
            f"Types of the images: {there['types']}\nAttributes of the images: {there['attributes']}"
        )
    if workflow_task.input_filters is not None:
        _check_input_types(selected, workflow_task)
    return selected


def _effective_filters(current: Filters, workflow_task: WorkflowTask) -> Filters:
    older = workflow_task.input_filters
    if older is not None:
        types = {**current.types, **older.types}
        return Filters(types=types, attributes={**current.attributes, **older.attributes})
    own = {**workflow_task.task.input_types, **(workflow_task.type_filters or {})}
    return Filters(types={**current.types, **own}, attributes=current.attributes)


def _check_input_types(images: list[Image], workflow_task: WorkflowTask) -> None:
    wanted = workflow_task.task.input_types
    for image in images:
        if any(image.types.get(name, False) != value for name, value in wanted.items()):
            raise JobExecutionError(
                f"Invalid filtered image list\nTask input types: {wanted}\n"
                f"Image zarr_url: {image.zarr_url}\nImage types: {image.types}"
            )


def next_filters(current: Filters, workflow_task: WorkflowTask, from_output: Filters | None) -> Filters:
    """The dataset's filters after a task without failures.

    Raises JobExecutionError where the task's output types and its output set the same type.
    """
    output_types = workflow_task.task.output_types
    own = from_output or Filters()
    twice = sorted(output_types.keys() & own.types.keys())
    if twice:
        raise JobExecutionError(
            f"Some type filters are being set twice, for task '{workflow_task.task.name}':"
            f" {', '.join(twice)}.\n"
            f"Types from the task's output: {own.types}\nThe task's output_types: {output_types}"
        )
    return Filters(
        types={**current.types, **output_types, **own.types},
        attributes={**current.attributes, **own.attributes},
    )
