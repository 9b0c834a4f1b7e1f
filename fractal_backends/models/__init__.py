"""Workflows, datasets, images and outputs, as pydantic models."""

from .dataset import Dataset
from .images import Filters, Image, ImageUpdate, json_key
from .loading import describe, load, read_json
from .outputs import InitOutput, ParallelizationItem, TaskOutput
from .urls import is_inside, normalise_url
from .workflow import RESERVED_ARGUMENTS, Task, TaskType, Workflow, WorkflowTask, task_slug

__all__ = [
    "RESERVED_ARGUMENTS",
    "Dataset",
    "Filters",
    "Image",
    "ImageUpdate",
    "InitOutput",
    "ParallelizationItem",
    "Task",
    "TaskOutput",
    "TaskType",
    "Workflow",
    "WorkflowTask",
    "describe",
    "is_inside",
    "json_key",
    "load",
    "normalise_url",
    "read_json",
    "task_slug",
]
