"""Images and the filters that pick them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    StrictInt,
    StrictStr,
)
from pydantic.dataclasses import dataclass

from .urls import Url

Scalar = StrictBool | StrictInt | Annotated[float, Strict(), AllowInfNan(False)] | StrictStr
Types = dict[StrictStr, StrictBool]

MODEL_CONFIG = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


def json_key(value: Any) -> Hashable:
    """A key that is equal for equal JSON values: `"0"` is not `0`, `true` is not `1`, `1` is `1.0`."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, dict):
        return frozenset((name, json_key(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(json_key, value))
    return value  # type: ignore[no-any-return]


class Filters(BaseModel):
    """Which images a task gets: all whose types and attributes agree with these."""

    model_config = MODEL_CONFIG

    types: Types = Field(default_factory=dict)
    attributes: dict[StrictStr, Scalar | None] = Field(default_factory=dict)
    """A value of None leaves that attribute open."""


# Image and ImageUpdate are slotted dataclasses, not models: there may be millions.
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Image:
    """One OME-Zarr image of a dataset."""

    zarr_url: Url
    origin: Url | None = None
    attributes: dict[StrictStr, Scalar] = Field(default_factory=dict)
    types: Types = Field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The image as JSON has it."""
        return {
            "zarr_url": self.zarr_url,
            "origin": self.origin,
            "attributes": self.attributes,
            "types": self.types,
        }


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ImageUpdate:
    """What a task says of one image: new, changed, or made from `origin`."""

    zarr_url: Url
    origin: Url | None = None
    attributes: dict[StrictStr, Scalar | None] = Field(default_factory=dict)
    """A value of None removes that attribute."""
    types: Types = Field(default_factory=dict)


_IMAGE_FIELDS = ("zarr_url", "origin", "attributes", "types")


def _image_from_attributes(value: Any) -> Any:
    """pydantic's dataclasses do not read objects' attributes; an image may be such an object."""
    if isinstance(value, dict | Image) or not hasattr(value, "zarr_url"):
        return value
    return {name: getattr(value, name) for name in _IMAGE_FIELDS if hasattr(value, name)}


AnyImage = Annotated[Image, BeforeValidator(_image_from_attributes)]
