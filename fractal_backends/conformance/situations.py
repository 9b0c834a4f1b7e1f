"""What comes about in random workflows, so that those can be chosen that differ."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .oracle import (
    OUTSIDE,
    OracleError,
    RandomTask,
    State,
    expected_ends,
    find,
    input_images,
    merged,
    same,
    unit_outputs,
)
from .strategies import NO_FILTERS
from .workflows import Json


def situations(state: State, tasks: Sequence[RandomTask]) -> set[str]:
    """What comes about in a run, as far as it shows in what the run leaves."""
    found: set[str] = set()
    for task, end in zip(tasks, expected_ends(state, tasks), strict=False):
        how = "failed units" if end.failed else "success"
        found |= {f"{task.kind}: {how}", *(f"{how}, but: {text}" for text in end.errors)}
        found.update(_in_filters(state, task))
        if not end.errors:
            found.update(_in_outputs(state, task, how))
        elif end.errors == [OUTSIDE]:
            found |= {f"an image at {update['zarr_url']}" for update in _merged(state, task)[0]}
        state = end.state
    return found


def _inputs(state: State, task: RandomTask, equal: Callable[[Any, Any], bool]) -> Any:
    try:
        return input_images(state, task, equal)
    except OracleError as error:
        return error.possible


def _in_filters(state: State, task: RandomTask) -> Iterator[str]:
    if task.kind == "parallel" and _inputs(state, task, same) != _inputs(state, task, operator.eq):
        yield "a filter by 1 where there is true, or the other way round"
    older = task.own_filters["attributes"] if task.older_style else {}
    for name, wanted in {**state.filters["attributes"], **older}.items():
        values = [image["attributes"][name] for image in state.images if name in image["attributes"]]
        if wanted is None or any(same(value, wanted) for value in values):
            yield f"an attribute filter {'without' if wanted is None else 'with'} a value"
    for name, wanted_type in {**state.filters["types"], **task.own_filters["types"]}.items():
        if any(name not in image["types"] for image in state.images):
            yield f"a filter by {wanted_type} where the type is missing"


def _merged(state: State, task: RandomTask) -> tuple[list[Json], list[str], Json]:
    outputs = unit_outputs(task, input_images(state, task))
    return merged([output for output in outputs if output is not None], [])


def _in_outputs(state: State, task: RandomTask, how: str) -> Iterator[str]:
    outputs = unit_outputs(task, input_images(state, task))
    updates, removals, own = _merged(state, task)
    if sum(len(output["image_list_updates"]) for output in outputs if output) > len(updates):
        yield "identical updates"
    if own != NO_FILTERS:
        yield f"filters of the output, {how}"
    if removals:
        yield f"removals, {how}"
    if not (updates or removals) and state.images and task.output_types:
        yield f"untouched images, {how}"
    for place, update in enumerate(updates):
        yield from _in_update(state, update, task.output_types)
        origin = find(state.images, update["origin"])
        if update["origin"] in removals and origin is not None and state.images[origin]["types"]:
            yield "the origin is removed"
        if update["origin"] in [earlier["zarr_url"] for earlier in updates[:place]]:
            yield "the origin is updated"


def _in_update(state: State, update: Json, output_types: Json) -> Iterator[str]:
    known, source = find(state.images, update["zarr_url"]), find(state.images, update["origin"])
    again = known is not None and update["origin"] in (None, update["zarr_url"])
    what = "update" if again else "new image" if known is None else "image built anew"
    base = state.images[known] if again and known is not None else None
    if source is not None and not again:
        base = state.images[source]
    yield f"{what}, origin {'none' if update['origin'] is None else 'unknown' if base is None else 'known'}"
    if output_types:
        yield f"{what}, output types"
    if base and base["types"] and not update["types"]:
        yield f"{what}, types that are kept"
    for name, value in update["attributes"].items():
        if value is None:
            yield f"{what}, removes {'an' if base and name in base['attributes'] else 'no'} attribute"
    if again and base and base["origin"] is not None:
        yield "an origin that is kept"
