"""Random datasets and tasks: few names, so that they often meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from .oracle import INSIDE, URLS, RandomTask, State
from .workflows import Json, step

T = TypeVar("T")

NO_FILTERS: Json = {"types": {}, "attributes": {}}
NO_OUTPUT: Json = {"image_list_updates": [], "image_list_removals": [], "filters": None}

_KINDS = ("parallel", "parallel", "non_parallel", "compound", "converter_non_parallel", "converter_compound")
_SCALARS = (0, 1, 2.5, True, False, "", "1", "x")


class Chance:
    """Makes random parts of workflows. Of anything the first choices are the simplest ones."""

    def __init__(self, source: Random) -> None:
        self._source = source

    def state(self) -> State:
        """A dataset."""
        urls = dict.fromkeys(self._several(6, self._url))
        return State([self._image(url) for url in urls], self._mostly(NO_FILTERS, self._filters))

    def workflow(self, shortest: int, longest: int) -> list[RandomTask]:
        """Some tasks."""
        return [self._task() for _ in range(shortest + self._source.randrange(longest - shortest + 1))]

    def parts(self) -> list[int]:
        """Lengths of the parts in which a workflow is run."""
        return [1 + self._source.randrange(3) for _ in range(3)]

    def _task(self) -> RandomTask:
        older_style, input_types = self._bool(), self._mostly({}, self._types)
        own = self._mostly(NO_FILTERS, self._filters)
        if not older_style:  # has none for attributes, and must agree with the task's input types
            own = {"types": {**own["types"], **input_types}, "attributes": {}}
        return RandomTask(
            kind=self._source.choice(_KINDS),
            older_style=older_style,
            own_filters=own,
            input_types=input_types,
            output_types=self._types(),
            outputs=[
                self._mostly(self._output(), lambda: None) for _ in range(1 + self._source.randrange(3))
            ],
            items=self._several(4, self._url),
        )

    def _output(self) -> Json:
        return {
            "image_list_updates": self._several(3, self._change),
            "image_list_removals": [self._inner_url()] if self._source.randrange(4) == 3 else [],
            "filters": self._mostly(None, self._filters),
        }

    def _change(self) -> Json:
        attributes = self._attributes((None, *_SCALARS))
        origin = self._mostly(self._url(), lambda: None) if self._bool() else None
        types = self._mostly({}, self._types)
        return {"zarr_url": self._url(), "origin": origin, "attributes": attributes, "types": types}

    def _image(self, url: str) -> Json:
        origin = self._url() if self._bool() else None
        return {
            "zarr_url": url,
            "origin": origin,
            "attributes": self._attributes(_SCALARS),
            "types": self._types(),
        }

    def _filters(self) -> Json:
        return {"types": self._types(), "attributes": self._attributes((None, *_SCALARS))}

    def _types(self) -> Json:
        return {name: self._bool() for name in ("s", "t") if self._bool()}

    def _attributes(self, values: Sequence[Any]) -> Json:
        return {name: self._source.choice(values) for name in ("p", "q") if self._bool()}

    def _url(self) -> str:
        return self._inner_url() if self._source.randrange(8) < 7 else self._source.choice(URLS)

    def _inner_url(self) -> str:
        return self._source.choice(INSIDE)

    def _several(self, most: int, make: Callable[[], T]) -> list[T]:
        return [make() for _ in range(self._source.randrange(most + 1))]

    def _mostly(self, usual: Any, other: Callable[[], Any]) -> Any:
        return usual if self._source.randrange(5) < 4 else other()

    def _bool(self) -> bool:
        return bool(self._source.randrange(2))


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


def simpler(state: State, tasks: Sequence[RandomTask]) -> Iterator[tuple[State, list[RandomTask]]]:
    """What is a little simpler than this."""
    if len(tasks) > 1:
        yield from ((state, shorter) for shorter in without_one(tasks))
    for images in without_one(state.images):
        yield replace(state, images=images), list(tasks)
    for place, image in enumerate(state.images):
        for plainer in _plainer(image, origin=None, attributes={}, types={}):
            yield replace(state, images=_with(state.images, place, plainer)), list(tasks)
    if state.filters != NO_FILTERS:
        yield replace(state, filters=NO_FILTERS), list(tasks)
    for place, task in enumerate(tasks):
        yield from ((state, _with(tasks, place, simpler_task)) for simpler_task in _simpler_tasks(task))


def _simpler_tasks(task: RandomTask) -> Iterator[RandomTask]:
    if task.older_style or not task.input_types:
        if task.own_filters != NO_FILTERS:
            yield replace(task, own_filters=NO_FILTERS)
        if task.input_types:
            yield replace(task, input_types={})
    if task.output_types:
        yield replace(task, output_types={})
    for items in without_one(task.items):
        yield replace(task, items=items)
    if len(task.outputs) > 1:
        yield from (replace(task, outputs=outputs) for outputs in without_one(task.outputs))
    for place, output in enumerate(task.outputs):
        for simpler_output in _simpler_outputs(output) if output else ():
            yield replace(task, outputs=_with(task.outputs, place, simpler_output))


def _simpler_outputs(output: Json) -> Iterator[Json]:
    for name in ("image_list_updates", "image_list_removals"):
        yield from ({**output, name: fewer} for fewer in without_one(output[name]))
    if output["filters"]:
        yield {**output, "filters": None}
    changes = output["image_list_updates"]
    for place, change in enumerate(changes):
        for plainer in _plainer(change, origin=None, attributes={}, types={}):
            yield {**output, "image_list_updates": _with(changes, place, plainer)}


def without_one(items: Sequence[T]) -> Iterator[list[T]]:
    """The items without each of them in turn."""
    for place in range(len(items)):
        yield [*items[:place], *items[place + 1 :]]


def _with(items: Sequence[T], place: int, item: T) -> list[T]:
    return [*items[:place], item, *items[place + 1 :]]


def _plainer(item: Json, **plain: Any) -> Iterator[Json]:
    for name, value in plain.items():
        if item[name] != value:
            yield {**item, name: value}
