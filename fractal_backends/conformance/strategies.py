"""Random datasets and tasks, for Hypothesis: few names, so that they often meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from .oracle import INSIDE, URLS, RandomTask, State
from .workflows import Json, step

NO_FILTERS: Json = {"types": {}, "attributes": {}}
NO_OUTPUT: Json = {"image_list_updates": [], "image_list_removals": [], "filters": None}

_KINDS = (
    "non_parallel",
    "parallel",
    "compound",
    "non_parallel",
    "converter_non_parallel",
    "converter_compound",
)

_scalars = st.sampled_from([1, True, 1, True, "1", 0, False, 2.5, ""])
_inner_urls = st.sampled_from([*INSIDE[:3], *INSIDE])
_urls = st.one_of(*[_inner_urls] * 7, st.sampled_from(URLS))  # most others are errors, and end a run
_types = st.dictionaries(st.sampled_from(["s", "t"]), st.booleans(), max_size=2)
_few_types: st.SearchStrategy[Json] = st.one_of(*[st.just({})] * 3, _types)
_attributes = st.dictionaries(st.sampled_from(["p", "q"]), _scalars, max_size=2)
_changes_of_attributes = st.dictionaries(st.sampled_from(["p", "q"]), st.none() | _scalars, max_size=2)
_filters = st.fixed_dictionaries({"types": _types, "attributes": _changes_of_attributes})
_few_filters = st.one_of(*[st.just(NO_FILTERS)] * 4, _filters)
_images = st.fixed_dictionaries(
    {"zarr_url": _urls, "origin": st.none() | _urls, "attributes": _attributes, "types": _types}
)
_changes = st.fixed_dictionaries(
    {
        "zarr_url": _urls,
        "origin": st.none() | _urls,
        "attributes": _changes_of_attributes,
        "types": _few_types,
    }
)
_some_output = st.fixed_dictionaries(
    {
        "image_list_updates": st.lists(_changes, min_size=1, max_size=3),
        "image_list_removals": st.just([]) | st.just([]) | st.lists(_inner_urls, max_size=2),
        "filters": st.one_of(*[st.none()] * 5, _filters),
    }
)
_outputs = st.one_of(*[_some_output] * 9, st.just(NO_OUTPUT), st.none())
_any_tasks = st.builds(
    RandomTask,
    kind=st.sampled_from(_KINDS),
    older_style=st.booleans(),
    own_filters=_few_filters,
    input_types=_few_types,
    output_types=_types,
    outputs=st.lists(_outputs, min_size=1, max_size=3),
    items=st.lists(_urls, max_size=4),
)


def _without_conflict(task: RandomTask) -> RandomTask:
    """Filters of the newer style have no attributes, and must agree with the task's input types."""
    if task.older_style:
        return task
    types = {**task.own_filters["types"], **task.input_types}
    return replace(task, own_filters={"types": types, "attributes": {}})


states = st.builds(
    State,
    images=st.lists(_images, min_size=2, max_size=5, unique_by=lambda image: image["zarr_url"]),
    filters=_few_filters,
)
tasks = _any_tasks.map(_without_conflict)
workflows = st.lists(tasks, min_size=1, max_size=3)


def written(task: RandomTask) -> Json:
    """The task as a workflow task."""

    def steps(output: Json | None) -> list[list[Any]]:
        return [["exit_with", 1]] if output is None else [["output", output]]

    by_image = {url.rpartition("/")[2]: steps(task.output_for(url)) for url in URLS}
    init = [["output", {"parallelization_list": [{"zarr_url": url} for url in task.items]}]]
    do: dict[str, list[Any]] = {"parallel": [by_image], "compound": [init, by_image]}
    parts = do.get(task.kind.removeprefix("converter_"), [steps(task.outputs[0])])
    style = (
        {"input_filters": task.own_filters}
        if task.older_style
        else {"type_filters": task.own_filters["types"]}
    )
    types_of_task = {"input_types": task.input_types, "output_types": task.output_types}
    return step(task.kind, *parts, task=types_of_task, **style)
