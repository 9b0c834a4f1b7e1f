"""Ways to misread the specification, as changes of the oracle; and the simplest workflows that show them.

`python -m tests.conformance.misreadings` lets Hypothesis find these anew, and writes them into the suite.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from hypothesis import find, settings, strategies as st

from fractal_backends.conformance import oracle
from fractal_backends.conformance.examples import THOROUGH
from fractal_backends.conformance.misreadings import FILE
from fractal_backends.conformance.oracle import Expected, RandomTask, State
from fractal_backends.conformance.strategies import states, workflows
from fractal_backends.conformance.workflows import Json

_changed_images, _updated = oracle.changed_images, oracle.updated
_counted, _inputs, _merged = oracle.counted_as_updated, oracle.input_images, oracle.merged


def shows(misreading: str, state: State, tasks: Sequence[RandomTask]) -> bool:
    """Whether the tasks end in another way for someone who has misread the specification like this."""
    truth = oracle.expected_ends(state, tasks)
    function, wrong = MISREADINGS[misreading]
    with mock.patch.object(oracle, function, wrong):
        return not _agree(truth, oracle.expected_ends(state, tasks))


def _agree(truth: Sequence[Expected], other: Sequence[Expected]) -> bool:
    """Whether a backend that ends in the other way does all that is asked for."""
    mine, theirs = truth[-1], other[-1]
    told = not mine.errors or any(text in mine.errors or not text for text in theirs.errors)
    same_end = mine.failed == theirs.failed and mine.is_success == theirs.is_success
    return _left(truth) == _left(other) and same_end and told


def _left(ends: Sequence[Expected]) -> str:
    return json.dumps([(end.state.images, end.state.filters) for end in ends], sort_keys=True)


def _without(part: str) -> Callable[..., Json]:
    """Nothing is inherited of the types, or of the attributes."""

    def updated(images: list[Json], update: Json, output_types: Json) -> Json:
        known = oracle.find(images, update["zarr_url"])
        bare = [{**image, part: {}} if place != known else image for place, image in enumerate(images)]
        return _updated(bare, update, output_types)

    return updated


def _with_none(images: list[Json], update: Json, output_types: Json) -> Json:
    image = _updated(images, update, output_types)
    image["attributes"].update({name: value for name, value in update["attributes"].items() if value is None})
    return image


def _none_ignored(images: list[Json], update: Json, output_types: Json) -> Json:
    given = {name: value for name, value in update["attributes"].items() if value is not None}
    return _updated(images, {**update, "attributes": given}, output_types)


def _types_for(known: bool) -> Callable[..., Json]:
    """Only known, or only new images get the task's output types."""

    def updated(images: list[Json], update: Json, output_types: Json) -> Json:
        is_known = oracle.find(images, update["zarr_url"]) is not None
        return _updated(images, update, output_types if is_known is known else {})

    return updated


def _own_types_win(images: list[Json], update: Json, output_types: Json) -> Json:
    image = _updated(images, update, output_types)
    image["types"].update(update["types"])
    return image


def _replaced(images: list[Json], update: Json, output_types: Json) -> Json:
    bare = [{**image, "attributes": {}} for image in images]
    return _updated(bare, update, output_types)


def _origin_stored(images: list[Json], update: Json, output_types: Json) -> Json:
    return {**_updated(images, update, output_types), "origin": update["origin"]}


def _never_anew(images: list[Json], update: Json, output_types: Json) -> Json:
    known = oracle.find(images, update["zarr_url"]) is not None
    return _updated(images, {**update, "origin": None} if known else update, output_types)


def _removed_first(images: list[Json], updates: list[Json], removals: list[str], types: Json) -> list[Json]:
    return _changed_images(_changed_images(images, [], removals, types), updates, [], types)


def _as_before(images: list[Json], updates: list[Json], removals: list[str], types: Json) -> list[Json]:
    made = [oracle.updated(images, update, types) for update in updates]
    with mock.patch.object(oracle, "updated", lambda _images, update, _types: made[updates.index(update)]):
        return _changed_images(images, updates, removals, types)


def _new_first(images: list[Json], updates: list[Json], removals: list[str], types: Json) -> list[Json]:
    changed = _changed_images(images, updates, removals, types)
    known = [image["zarr_url"] for image in images]
    return sorted(changed, key=lambda image: image["zarr_url"] in known)


def _half(images: list[Json], updates: list[Json], removals: list[str], types: Json) -> list[Json]:
    for update in updates:
        try:
            images = _changed_images(images, [update], [], types)
        except oracle.OracleError:
            return images
    return _changed_images(images, [], removals, types)


def _unknown_removed(images: list[Json], updates: list[Json], removals: list[str], types: Json) -> list[Json]:
    changed = _changed_images(images, updates, [], types)
    return [image for image in changed if image["zarr_url"] not in removals]


def _all_counted(task: RandomTask, inputs: list[Json], outputs: list[Json | None]) -> list[Json]:
    return _counted(task, inputs, [output or {} for output in outputs])


def _without_filters(outputs: list[Json], errors: list[str]) -> Any:
    return _merged([{**output, "filters": None} for output in outputs], errors)


def _inputs_of_all(state: State, task: RandomTask) -> list[Json]:
    return _inputs(state, dataclasses.replace(task, kind=task.kind.removeprefix("converter_")))


def _inputs_or_none(state: State, task: RandomTask) -> list[Json]:
    try:
        return _inputs(state, task)
    except oracle.OracleError:
        return []


def _inputs_in_newer_style(state: State, task: RandomTask) -> list[Json]:
    return _inputs(state, dataclasses.replace(task, older_style=False))


MISREADINGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "true is taken for 1": ("same", operator.eq),
    "a missing type is not False": ("has_type", lambda image, name: image["types"].get(name)),
    "identical items and updates count twice": ("without_repeats", list),
    "types are not inherited": ("updated", _without("types")),
    "attributes are not inherited": ("updated", _without("attributes")),
    "an attribute that is None is stored": ("updated", _with_none),
    "an attribute that is None is passed over": ("updated", _none_ignored),
    "new images get no output types": ("updated", _types_for(True)),
    "known images get no output types": ("updated", _types_for(False)),
    "an update's types win over the task's output types": ("updated", _own_types_win),
    "an update replaces all attributes": ("updated", _replaced),
    "an update without an origin takes the stored one away": ("updated", _origin_stored),
    "a known image is never built anew": ("updated", _never_anew),
    "a folder is inside another if its name begins with the other's": ("is_below", str.startswith),
    "a folder is inside itself": ("is_below", lambda url, folder: f"{url}/".startswith(f"{folder}/")),
    "removals come before updates": ("changed_images", _removed_first),
    "updates do not see those before them": ("changed_images", _as_before),
    "new images come first": ("changed_images", _new_first),
    "what comes before an error is done": ("changed_images", _half),
    "an unknown image may be removed": ("changed_images", _unknown_removed),
    "images of failed units count as updated": ("counted_as_updated", _all_counted),
    "without updates nothing is updated": ("counted_as_updated", lambda *_: []),
    "the filters of outputs are passed over": ("merged", _without_filters),
    "converters are like other tasks": ("input_images", _inputs_of_all),
    "filters that leave nothing are no error": ("input_images", _inputs_or_none),
    "older filters are read like newer ones": ("input_images", _inputs_in_newer_style),
}


def _simplest(misreading: str) -> Json:
    state, tasks = find(
        st.tuples(states, workflows),
        lambda example: shows(misreading, *example),
        settings=settings(THOROUGH, max_examples=100_000),
    )
    return {
        "if": misreading,
        "state": dataclasses.asdict(state),
        "tasks": [dataclasses.asdict(task) for task in tasks],
    }


if __name__ == "__main__":
    found = ",\n".join(json.dumps(_simplest(misreading)) for misreading in MISREADINGS)
    FILE.write_text(f"[\n{found}\n]\n")
