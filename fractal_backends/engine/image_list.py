"""The image list of a run: indexed by URL, ordered, every operation O(1) an image."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import JobExecutionError
from ..models import Filters, Image, ImageUpdate, is_inside, json_key
from .outputs import MergedOutput


@dataclass(frozen=True)
class ImageChanges:
    """How many images a task made, changed and removed."""

    new: int = 0
    updated: int = 0
    removed: int = 0


class ImageList:
    """Images in the order in which they came. Images themselves never change: they are replaced."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._by_url = {image.zarr_url: image for image in images}

    def __len__(self) -> int:
        return len(self._by_url)

    def __iter__(self) -> Iterator[Image]:
        return iter(self._by_url.values())

    def select(self, filters: Filters) -> list[Image]:
        """The images that agree with the filters: a missing type is False, a None attribute is open."""
        types = tuple(filters.types.items())
        attributes = tuple(
            (name, json_key(value)) for name, value in filters.attributes.items() if value is not None
        )
        return [
            image
            for image in self
            if all(image.types.get(name, False) == value for name, value in types)
            and all(
                name in image.attributes and json_key(image.attributes[name]) == value
                for name, value in attributes
            )
        ]

    def updated(
        self, output: MergedOutput, output_types: Mapping[str, bool], zarr_dir: str
    ) -> tuple[ImageList, ImageChanges]:
        """A new list with a task's merged output in it; this one stays as it is.

        Updates apply one after another, removals come last. Raises JobExecutionError.
        """
        images = dict(self._by_url)
        new = 0
        for update in output.updates:
            known = images.get(update.zarr_url)
            if known is None:
                _check_place(update.zarr_url, zarr_dir)
                new += 1
            images[update.zarr_url] = _apply(update, known, images, output_types)
        for url in output.removals:
            if images.pop(url, None) is None:
                raise JobExecutionError(f"Cannot remove missing image (zarr_url={url}).")
        result = ImageList(())
        result._by_url = images
        return result, ImageChanges(new, len(output.updates) - new, len(output.removals))

    def overview(self) -> dict[str, Any]:
        """The types and attributes that there are, with a few values each, for messages."""
        types: dict[str, set[bool]] = {}
        attributes: dict[str, dict[Hashable, Any]] = {}
        for image in self:
            for name, flag in image.types.items():
                types.setdefault(name, set()).add(flag)
            for name, value in image.attributes.items():
                values = attributes.setdefault(name, {})
                if len(values) < _SHOWN_VALUES:
                    values[json_key(value)] = value
        return {
            "types": {name: sorted(flags) for name, flags in types.items()},
            "attributes": {name: list(values.values()) for name, values in attributes.items()},
        }


_SHOWN_VALUES = 10


def _check_place(url: str, zarr_dir: str) -> None:
    if not is_inside(url, zarr_dir):
        raise JobExecutionError(
            "Cannot create image if zarr_url is not a subfolder of zarr_dir.\n"
            f"zarr_dir: {zarr_dir}\nzarr_url: {url}"
        )


def _apply(
    update: ImageUpdate,
    known: Image | None,
    images: Mapping[str, Image],
    output_types: Mapping[str, bool],
) -> Image:
    origin = update.origin
    base: Image | None
    if known is not None and origin in (None, known.zarr_url):
        base, origin = known, known.origin
    else:  # new, or built anew from another image
        base = images.get(origin) if origin is not None else None
    attributes = base.attributes if base else {}
    types = base.types if base else {}
    if update.attributes:
        merged = {**attributes, **update.attributes}
        attributes = {key: value for key, value in merged.items() if value is not None}
    if update.types or output_types:
        merged_types = {**types, **update.types, **output_types}
        types = types if merged_types == types else merged_types
    return _image(update.zarr_url, origin, attributes, types)


def _image(url: str, origin: str | None, attributes: Mapping[str, Any], types: Mapping[str, bool]) -> Image:
    """An image of parts that were validated before: validating them again would copy them."""
    image = object.__new__(Image)
    for set_field, value in zip(_SET_FIELDS, (url, origin, attributes, types), strict=True):
        set_field(image, value)
    return image


_SET_FIELDS = tuple(vars(Image)[name].__set__ for name in ("zarr_url", "origin", "attributes", "types"))
"""Images are frozen; this is how they are set up."""
