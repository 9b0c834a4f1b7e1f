"""What a unit may write to its `--out-json` file."""

from __future__ import annotations

from pydantic import BaseModel, Field

from .images import MODEL_CONFIG, Filters, ImageUpdate
from .urls import Url
from .workflow import JsonObject


class TaskOutput(BaseModel):
    """The output of a non-parallel, parallel or compute unit."""

    model_config = MODEL_CONFIG

    image_list_updates: list[ImageUpdate] = Field(default_factory=list)
    image_list_removals: list[Url] = Field(default_factory=list)
    filters: Filters | None = None


class ParallelizationItem(BaseModel):
    """One unit that a compound task's init asks for."""

    model_config = MODEL_CONFIG

    zarr_url: Url
    init_args: JsonObject = Field(default_factory=dict)


class InitOutput(BaseModel):
    """The output of a compound task's init unit."""

    model_config = MODEL_CONFIG

    parallelization_list: list[ParallelizationItem] = Field(default_factory=list)
