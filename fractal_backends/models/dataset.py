"""Datasets."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from .images import MODEL_CONFIG, AnyImage, Filters, Image
from .urls import Url

_SHOWN_REPEATS = 10


class Dataset(BaseModel):
    """A `zarr_dir`, the images in it, the filters that apply, and what was done so far."""

    model_config = MODEL_CONFIG

    zarr_dir: Url
    images: list[AnyImage] = Field(default_factory=list)
    filters: Filters = Field(default_factory=Filters)
    history: list[dict[StrictStr, Any]] = Field(default_factory=list)
    name: StrictStr | None = None
    id: StrictInt | StrictStr | None = None

    @model_validator(mode="after")
    def _check_urls_are_unique(self) -> Self:
        first: dict[str, tuple[int, Image]] = {}
        repeats = []
        for index, image in enumerate(self.images):
            known = first.setdefault(image.zarr_url, (index, image))
            if known[1] is not image:
                repeats.append(
                    f"images[{known[0]}] and images[{index}] are the same image, {image.zarr_url!r}:"
                    f" {known[1].as_dict()} and {image.as_dict()}"
                )
        if repeats:
            more = len(repeats) - _SHOWN_REPEATS
            shown = repeats[:_SHOWN_REPEATS] + ([f"and {more} more"] if more > 0 else [])
            raise ValueError("; ".join(shown))
        return self
