"""Random datasets, tasks and outputs, against a naive second account of what a run makes of them.

The oracle knows nothing of the engine: it is written from the specification, with lists and loops. Where
more than one error is possible it names them all, and any of them will do.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings, strategies as st

from fractal_backends import (
    Backend,
    JobExecutionError,
    Options,
    Outcome,
    RunInfo,
    TaskExecutionError,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)
from tests.helpers.workflows import Json, dataset, run, saved, statuses, step

ZARR_DIR = "/D"
INSIDE = ["/D/a", "/D/b", "/D/c", "/D/sub", "/D/sub/d"]
URLS = [*INSIDE, "/D", "/Dother/x", "/elsewhere"]

FAILED = "units failed"
EMPTY = "for an empty image list"
INVALID_LIST = "Invalid filtered image list"
NOT_UNIQUE = "has non-unique zarr_urls:"
DIFFERENT_FILTERS = "set different filters"
TWICE = "Some type filters are being set twice"
OUTSIDE = "Cannot create image if zarr_url is not a subfolder of zarr_dir."
MISSING = "Cannot remove missing image"


# --- The oracle ---------------------------------------------------------------------------------------------


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
    """How a task ends: the state after it, how many of its units failed, and what else went wrong."""

    state: State
    failed: int = 0
    errors: list[str] = field(default_factory=list)


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


def input_images(state: State, task: RandomTask) -> list[Json]:
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
                fits = fits and name in image["attributes"] and same(image["attributes"][name], wanted)
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
    errors: list[str] = []
    updates, removals, own = merged([output for output in outputs if output is not None], errors)
    if not updates and not removals:
        updates = counted_as_updated(task, inputs, outputs)
    filters = copy.deepcopy(state.filters)
    if None not in outputs:
        if any(name in task.output_types for name in own["types"]):
            errors.append(TWICE)
        filters["types"].update({**task.output_types, **own["types"]})
        filters["attributes"].update(own["attributes"])
    try:
        images = changed_images(state.images, updates, removals, task.output_types)
    except OracleError as error:
        errors += error.possible
    if errors:
        return Expected(state, outputs.count(None), errors)
    return Expected(State(images, filters), outputs.count(None))


# --- A backend without processes ----------------------------------------------------------------------------


class _StepsExecutor(UnitExecutor):
    """Does what a unit's arguments say by itself: far quicker than a process for each unit."""

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for unit in reversed(units):  # in no order that the engine could rely on
            yield UnitEvent(unit, UnitState.ENDED, self._outcome(unit))

    def _outcome(self, unit: Unit) -> Outcome:
        arguments = json.loads(Path(unit.args_file).read_text())
        steps = arguments["do"]
        if isinstance(steps, dict):
            steps = steps[arguments["zarr_url"].rpartition("/")[2]]
        for name, value in steps:
            if name == "exit_with":
                return Outcome.exited(value)
            Path(unit.output_file).write_text(json.dumps(value))
        return Outcome.exited(0)

    def cancel(self) -> None:
        """Nothing runs on its own here."""


class StepsBackend(Backend):
    """Runs tasks without processes."""

    name = "steps"
    interface_version = 1

    def open(self, run: RunInfo) -> UnitExecutor:
        return _StepsExecutor()


# --- Random datasets and tasks ------------------------------------------------------------------------------

KINDS = ["parallel", "parallel", "non_parallel", "compound", "converter_non_parallel", "converter_compound"]
NO_FILTERS: Json = {"types": {}, "attributes": {}}
NO_OUTPUT: Json = {"image_list_updates": [], "image_list_removals": [], "filters": None}

scalars = st.sampled_from([0, 1, 2.5, True, False, "", "1", "x"])
inner_urls = st.sampled_from(INSIDE)
urls = inner_urls | inner_urls | st.sampled_from(URLS)
types = st.dictionaries(st.sampled_from(["s", "t"]), st.booleans(), max_size=2)
few_types: st.SearchStrategy[dict[str, bool]] = st.just({}) | types
attributes = st.dictionaries(st.sampled_from(["p", "q"]), scalars, max_size=2)
changed_attributes = st.dictionaries(st.sampled_from(["p", "q"]), st.none() | scalars, max_size=2)
filters = st.fixed_dictionaries({"types": types, "attributes": changed_attributes})
few_filters = st.just(NO_FILTERS) | st.just(NO_FILTERS) | filters
images = st.fixed_dictionaries(
    {"zarr_url": urls, "origin": st.none() | urls, "attributes": attributes, "types": types}
)
changes = st.fixed_dictionaries(
    {"zarr_url": urls, "origin": st.none() | urls, "attributes": changed_attributes, "types": types}
)
outputs = st.just(NO_OUTPUT) | st.fixed_dictionaries(
    {
        "image_list_updates": st.lists(changes, max_size=3),
        "image_list_removals": st.just([]) | st.just([]) | st.lists(inner_urls, max_size=2),
        "filters": st.none() | st.none() | st.none() | filters,
    }
)
states = st.builds(
    State, images=st.lists(images, max_size=6, unique_by=lambda image: image["zarr_url"]), filters=few_filters
)
random_tasks = st.builds(
    RandomTask,
    kind=st.sampled_from(KINDS),
    older_style=st.booleans(),
    own_filters=few_filters,
    input_types=few_types,
    output_types=few_types,
    outputs=st.lists(outputs | outputs | outputs | st.none(), min_size=1, max_size=4),
    items=st.lists(urls, max_size=4),
)


def _written(task: RandomTask) -> Json:
    """The task as a workflow task."""

    def steps(output: Json | None) -> list[list[Any]]:
        return [["exit_with", 1]] if output is None else [["output", output]]

    by_image = {url.rpartition("/")[2]: steps(task.output_for(url)) for url in URLS}
    init = [["output", {"parallelization_list": [{"zarr_url": url} for url in task.items]}]]
    do: dict[str, list[Any]] = {"parallel": [by_image], "compound": [init, by_image]}
    parts = do.get(task.kind.removeprefix("converter_"), [steps(task.outputs[0])])
    if task.older_style:
        style: Json = {"input_filters": task.own_filters}
    else:  # the two must not be in conflict
        style = {"type_filters": {**task.own_filters["types"], **task.input_types}}
    types_of_task = {"input_types": task.input_types, "output_types": task.output_types}
    return step(task.kind, *parts, task=types_of_task, **style)


def _without_conflict(task: RandomTask) -> RandomTask:
    """The same task, as `_written` writes it."""
    if not task.older_style:
        task.own_filters = {"types": {**task.own_filters["types"], **task.input_types}, "attributes": {}}
    return task


def _check(folder: Path, backend: Backend | None, state: State, tasks: list[RandomTask]) -> None:
    """Run the tasks; after one that fails go on with what was saved, in a run of its own."""
    while tasks:
        ends: list[Expected] = []
        after = state
        for task in tasks:
            ends.append(expected_end(after, task))
            after = ends[-1].state
            if ends[-1].failed or ends[-1].errors:
                break
        own_folder = folder / uuid.uuid4().hex
        message = _run(own_folder, backend, state, tasks)
        found = saved(own_folder)
        shutil.rmtree(own_folder)
        _check_end(ends[-1], message)
        assert statuses(found) == ["done"] * (len(ends) - 1) + ["failed" if message else "done"]
        assert same(found["images"], after.images), (found["images"], after.images)
        assert same(found["filters"], after.filters), (found["filters"], after.filters)
        state, tasks = after, tasks[len(ends) :]


def _run(folder: Path, backend: Backend | None, state: State, tasks: list[RandomTask]) -> str:
    """The message of the run's error, empty where it has none."""
    source = dataset(state.images, zarr_dir=ZARR_DIR, filters=state.filters)
    try:
        run(folder, [_written(task) for task in tasks], dataset=source, backend=backend)
    except (JobExecutionError, TaskExecutionError) as error:
        assert isinstance(error, TaskExecutionError) == (FAILED in str(error))
        return str(error)
    return ""


def _check_end(end: Expected, message: str) -> None:
    event(f"units failed: {bool(end.failed)}, errors: {sorted(set(end.errors))}")
    if end.failed:
        assert f": {end.failed} of " in message
    if end.errors:
        assert any(text in message for text in end.errors), (end.errors, message)
    elif end.failed:
        assert "could not be used" not in message
    else:
        assert message == ""


quick = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
lists_of_tasks = st.lists(random_tasks.map(_without_conflict), min_size=1, max_size=3)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a run waits for the disk three times a task."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@settings(quick, max_examples=200)
@given(state=states, tasks=lists_of_tasks)
def test_the_engine_agrees_with_the_oracle(memory: Path, state: State, tasks: list[RandomTask]) -> None:
    _check(memory, StepsBackend(), state, tasks)


@settings(quick, max_examples=8)
@given(state=states, tasks=lists_of_tasks)
def test_the_local_backend_agrees_with_the_oracle(
    memory: Path, state: State, tasks: list[RandomTask]
) -> None:
    _check(memory, None, state, tasks)
