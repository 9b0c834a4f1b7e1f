"""A second, naive account of what a run makes of a dataset, for random tests to compare with.

It knows nothing of any engine: it is written from the specification, with lists and loops. Where more than
one error is possible it names them all, and any of them will do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .workflows import Json

ZARR_DIR = "/D"
INSIDE = ["/D/a", "/D/b", "/D/c", "/D/sub", "/D/sub/d"]
URLS = [*INSIDE, "/D", "/Dother/x", "/elsewhere"]

EMPTY = "for an empty image list"
INVALID_LIST = "Invalid filtered image list"
NOT_UNIQUE = "has non-unique zarr_urls:"
TWICE = "Some type filters are being set twice"
OUTSIDE = "Cannot create image if zarr_url is not a subfolder of zarr_dir."
MISSING = "Cannot remove missing image"
DIFFERENT_FILTERS = ""
"""Its words are not specified."""


class OracleError(Exception):
    """A task cannot be run, or its outputs cannot be used, for one of these reasons."""

    def __init__(self, *possible: str) -> None:
        super().__init__(*possible)
        self.possible = possible


@dataclass
class State:
    """A dataset."""

    images: list[Json]
    filters: Json


@dataclass
class RandomTask:
    """A task and what its units do: the output for each image; None where the unit fails."""

    kind: str
    older_style: bool
    own_filters: Json
    input_types: Json
    output_types: Json
    outputs: list[Json | None]
    items: list[str]

    def output_for(self, url: str) -> Json | None:
        return self.outputs[URLS.index(url) % len(self.outputs)]


@dataclass
class Expected:
    """How a task ends: the state after it, which of its units failed, and what else went wrong."""

    state: State
    failed: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_success(self) -> bool:
        return not self.failed and not self.errors


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON value."""
    if isinstance(left, dict) and isinstance(right, dict):
        return sorted(left) == sorted(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def find(images: list[Json], url: str | None) -> int | None:
    """The place of an image in a list."""
    for place, image in enumerate(images):
        if image["zarr_url"] == url:
            return place
    return None


def has_type(image: Json, name: str) -> bool:
    """A type that is missing counts as False."""
    return bool(image["types"][name]) if name in image["types"] else False


def input_images(state: State, task: RandomTask, equal: Callable[[Any, Any], bool] = same) -> list[Json]:
    """The images that a task gets."""
    if task.kind.startswith("converter"):
        return []
    types, attributes = dict(state.filters["types"]), dict(state.filters["attributes"])
    if not task.older_style:
        types.update(task.input_types)
    types.update(task.own_filters["types"])
    if task.older_style:
        attributes.update(task.own_filters["attributes"])
    chosen = []
    for image in state.images:
        fits = all(has_type(image, name) == wanted for name, wanted in types.items())
        for name, wanted in attributes.items():
            if wanted is not None:
                fits = fits and name in image["attributes"] and equal(image["attributes"][name], wanted)
        if fits:
            chosen.append(image)
    if state.images and not chosen:
        raise OracleError(EMPTY)
    if task.older_style:
        for image in chosen:
            if any(has_type(image, name) != wanted for name, wanted in task.input_types.items()):
                raise OracleError(INVALID_LIST)
    return chosen


def unit_outputs(task: RandomTask, inputs: list[Json]) -> list[Json | None]:
    """The outputs of the units, in their order."""
    if task.kind == "parallel":
        return [task.output_for(image["zarr_url"]) for image in inputs]
    if task.kind.endswith("compound"):
        return [task.output_for(url) for url in without_repeats(task.items)]
    return task.outputs[:1]


def without_repeats(items: list[Any]) -> list[Any]:
    """Identical ones once."""
    kept: list[Any] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def merged(outputs: list[Json], errors: list[str]) -> tuple[list[Json], list[str], Json]:
    """All updates, all removals and the filters of the outputs."""
    updates = without_repeats([update for output in outputs for update in output["image_list_updates"]])
    removals = without_repeats([url for output in outputs for url in output["image_list_removals"]])
    filters = [output["filters"] for output in outputs if output["filters"] is not None]
    if any(not same(filters[0], other) for other in filters):
        errors.append(DIFFERENT_FILTERS)
    urls = [update["zarr_url"] for update in updates] + removals
    if any(urls.count(url) > 1 for url in urls):
        errors.append(NOT_UNIQUE)
    return updates, removals, filters[0] if filters else {"types": {}, "attributes": {}}


def updated(images: list[Json], update: Json, output_types: Json) -> Json:
    """The image as it is after one update."""
    place, source = find(images, update["zarr_url"]), find(images, update["origin"])
    image: Json = {"zarr_url": update["zarr_url"], "origin": update["origin"], "attributes": {}, "types": {}}
    if place is not None and update["origin"] in (None, update["zarr_url"]):
        image = copy.deepcopy(images[place])
    elif source is not None:
        image["attributes"] = dict(images[source]["attributes"])
        image["types"] = dict(images[source]["types"])
    for name, value in update["attributes"].items():
        if value is None:
            image["attributes"].pop(name, None)
        else:
            image["attributes"][name] = value
    for types in (update["types"], output_types):
        for name, value in types.items():
            image["types"][name] = value
    return image


def is_below(url: str, folder: str) -> bool:
    """Whether a path is a true descendant of a folder."""
    parts, above = url.split("/"), folder.split("/")
    return len(parts) > len(above) and parts[: len(above)] == above


def changed_images(
    images: list[Json], updates: list[Json], removals: list[str], output_types: Json
) -> list[Json]:
    """A new list with the updates and the removals in it."""
    images = copy.deepcopy(images)
    for update in updates:
        image, place = updated(images, update, output_types), find(images, update["zarr_url"])
        if place is not None:
            images[place] = image
        elif is_below(update["zarr_url"], ZARR_DIR):
            images.append(image)
        else:
            raise OracleError(OUTSIDE)
    for url in removals:
        place = find(images, url)
        if place is None:
            raise OracleError(MISSING)
        del images[place]
    return images


def counted_as_updated(task: RandomTask, inputs: list[Json], outputs: list[Json | None]) -> list[Json]:
    """The updates that stand for the input images where the outputs name none."""
    if None not in outputs:
        counted = inputs
    elif task.kind == "parallel":
        counted = [image for image, output in zip(inputs, outputs, strict=True) if output is not None]
    else:
        counted = []
    return [{"zarr_url": i["zarr_url"], "origin": None, "attributes": {}, "types": {}} for i in counted]


def expected_end(state: State, task: RandomTask) -> Expected:
    """How a task ends."""
    try:
        inputs = input_images(state, task)
    except OracleError as error:
        return Expected(state, errors=[*error.possible])
    outputs = unit_outputs(task, inputs)
    failed = [place for place, output in enumerate(outputs) if output is None]
    errors: list[str] = []
    updates, removals, own = merged([output for output in outputs if output is not None], errors)
    if not updates and not removals:
        updates = counted_as_updated(task, inputs, outputs)
    filters = copy.deepcopy(state.filters)
    if not failed:
        if any(name in task.output_types for name in own["types"]):
            errors.append(TWICE)
        filters["types"].update({**task.output_types, **own["types"]})
        filters["attributes"].update(own["attributes"])
    try:
        images = changed_images(state.images, updates, removals, task.output_types)
    except OracleError as error:
        errors += error.possible
    if errors:
        return Expected(state, failed, errors)
    return Expected(State(images, filters), failed)


def expected_ends(state: State, tasks: Sequence[RandomTask]) -> list[Expected]:
    """How the tasks of a run end, up to the first that fails."""
    ends: list[Expected] = []
    for task in tasks:
        ends.append(expected_end(state, task))
        state = ends[-1].state
        if not ends[-1].is_success:
            break
    return ends
