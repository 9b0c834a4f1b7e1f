"""Execution: which images a task gets, and which filters it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..expectations import Ended, Subject, must, must_begin, must_contain, must_equal, requirement
from ..traces import must_not_have_run, recorded
from ..violations import shown
from ..workflows import ZARR, Json, Steps, compound, image, non_parallel, parallel, updates


def _must_get(trace: Path, expected: list[str], what: str) -> None:
    """The one unit that recorded its arguments has to have got these images."""
    units = recorded(trace)
    must(len(units) == 1, f"one unit to run, where {what}", f"{len(units)} ran")
    got = [str(item).removeprefix(f"{ZARR}/") for item in units[0].get("zarr_urls", ())]
    must_equal(got, expected, f"the images of a task, where {what},")


@requirement("EXEC-015")
def test_types(subject: Subject) -> None:
    """Runs tasks with input_types and type_filters, of a dataset that has filters of its own."""
    images = [
        image("a", {"t": True}),
        image("b", {"t": False}),
        image("c"),
        image("d", {"t": True, "u": True}),
    ]
    cases: list[tuple[Json, list[str]]] = [
        ({}, ["a", "d"]),
        ({"task": {"input_types": {"t": False}}}, ["b", "c"]),
        ({"type_filters": {"t": False}}, ["b", "c"]),
        ({"type_filters": {"u": True}}, ["d"]),
        ({"task": {"input_types": {"u": False}}, "type_filters": {"t": True}}, ["a"]),
        ({"task": {"input_types": {"u": False}}, "type_filters": {"t": False}}, ["b", "c"]),
    ]
    traces = [subject.folder / f"trace-{i}" for i in range(len(cases))]
    tasks = [
        non_parallel([["record", str(trace)]], **fields)
        for trace, (fields, _) in zip(traces, cases, strict=True)
    ]
    filters: Json = {"types": {"t": True}, "attributes": {}}
    ended = subject.run(tasks, images, filters=filters)
    ended.must_succeed()
    for trace, (fields, expected) in zip(traces, cases, strict=True):
        _must_get(
            trace, expected, f"the dataset's filters are {shown(filters)}, and the task has {shown(fields)}"
        )
    must_equal(ended.result["filters"], filters, "the dataset's filters after tasks without output types")


@requirement("EXEC-015")
def test_attributes(subject: Subject) -> None:
    """Runs tasks with filters for attributes that are numbers, texts, true and None."""
    values = {"one": 1, "float": 1.0, "text": "1", "true": True, "zero": 0, "false": False, "empty": ""}
    images = [*(image(name, v=value, w=1) for name, value in values.items()), image("none", w=2)]
    cases: list[tuple[Any, list[str]]] = [
        ({"v": 1}, ["one", "float"]),
        ({"v": 1.0}, ["one", "float"]),
        ({"v": "1"}, ["text"]),
        ({"v": True}, ["true"]),
        ({"v": 0}, ["zero"]),
        ({"v": False}, ["false"]),
        ({"v": ""}, ["empty"]),
        ({"v": None, "w": 2}, ["none"]),
        ({"v": None}, [*values, "none"]),
    ]
    traces = [subject.folder / f"trace-{i}" for i in range(len(cases))]
    for trace, (attributes, _) in zip(traces, cases, strict=True):
        filters = {"types": {}, "attributes": attributes}
        subject.start(
            [non_parallel([["record", str(trace)]])],
            images,
            filters=filters,
            what=f"filters: {shown(filters)}",
        )
    for run in subject.runs:
        run.wait().must_succeed()
    for trace, (attributes, expected) in zip(traces, cases, strict=True):
        _must_get(trace, expected, f"the attribute filters are {shown(attributes)}")


@requirement("EXEC-015")
def test_older_filters(subject: Subject) -> None:
    """Runs a task with input_filters, of which one opens an attribute that the dataset's filters fix."""
    trace = subject.folder / "trace"
    images = [image("a", {"t": True}, w=1), image("b", {"t": True}, w=2), image("c", w=1)]
    task = non_parallel(
        [["record", str(trace)]],
        input_filters={"types": {"t": True}, "attributes": {"w": None}},
        task={"input_types": {"t": True}},
    )
    filters: Json = {"types": {"t": False}, "attributes": {"w": 1}}
    ended = subject.run([task], images, filters=filters)
    ended.must_succeed()
    given = f"the dataset's filters are {shown(filters)}, and the task has {shown(task['input_filters'])}"
    _must_get(trace, ["a", "b"], given)
    must_equal(ended.result["filters"], filters, "the dataset's filters after the task")


@requirement("EXEC-015")
def test_older_filters_that_leave_too_much(subject: Subject) -> None:
    """Runs a task with input_filters that leave an image which has not the task's input types."""
    trace = subject.folder / "trace"
    task = non_parallel(
        [["record", str(trace)]],
        input_filters={"types": {}, "attributes": {}},
        task={"input_types": {"t": True}},
    )
    failure = subject.run([task], [image("a", {"t": True}), image("b")]).failure.must_be("JobExecutionError")
    must_begin(failure.message, "Invalid filtered image list", "the error's message")
    must_not_have_run(trace, "the task")


@requirement("EXEC-016")
@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound"])
def test_nothing_left(subject: Subject, kind: str) -> None:
    """Runs a task whose filters leave none of two images."""
    trace = subject.folder / "trace"
    do = [["record", str(trace)]]
    fields: Json = {"task": {"name": "The task", "input_types": {"corrected": True}}}
    tasks = {
        "parallel": lambda: parallel(do, **fields),
        "non_parallel": lambda: non_parallel(do, **fields),
        "compound": lambda: compound(["a"], do, do, **fields),
    }
    filters = {"types": {}, "attributes": {"well": "B07"}}
    ended = subject.run([tasks[kind]()], [image("a", well="B07"), image("b", well="C01")], filters=filters)
    failure = ended.failure.must_be("JobExecutionError", "corrected", "well", "B07")
    start = "Cannot run task 'The task' for an empty image list"
    must_begin(failure.message, start, "the error's message")
    must_not_have_run(trace, "the task")


@requirement("EXEC-018")
def test_filters_after_a_task(subject: Subject) -> None:
    """Runs a task with output types whose output sets filters, and then one that records what it gets."""
    trace = subject.folder / "trace"
    set_by_output = {"types": {"small": False, "old": False}, "attributes": {"well": "A01", "plate": None}}
    tasks = [
        non_parallel(
            [updates({"zarr_url": "b"}, {"zarr_url": "c"}, filters=set_by_output)],
            task={"output_types": {"new": True}},
        ),
        non_parallel([["record", str(trace)]]),
    ]
    images = [image("a", plate=1, well="A01"), image("b", plate=1, well="A01"), image("c", plate=1)]
    filters: Json = {"types": {"other": False, "old": False}, "attributes": {"plate": 1, "cycle": None}}
    ended = subject.run(tasks, images, filters=filters)
    expected = {
        "types": {"other": False, "old": False, "new": True, "small": False},
        "attributes": {"plate": None, "cycle": None, "well": "A01"},
    }
    must_equal(ended.result["filters"], expected, "the filters of the result")
    _must_get(trace, ["b"], f"the filters are {shown(expected)}")


@requirement("EXEC-018")
def test_output_types_alone(subject: Subject) -> None:
    """Runs two parallel tasks without outputs; the output types of the second undo one of the first's."""
    tasks = [
        parallel(task={"output_types": {"new": True, "small": True}}),
        parallel(task={"output_types": {"new": False}}),
    ]
    ended = subject.run(tasks, ["a"])
    expected = {"types": {"new": False, "small": True}, "attributes": {}}
    must_equal(ended.result["filters"], expected, "the filters of the result")


@requirement("EXEC-018")
def test_a_type_set_twice(subject: Subject) -> None:
    """Runs a task whose output types and whose output set the same type."""
    do = [["output", {"filters": {"types": {"new": False}}}]]
    ended = subject.run([non_parallel(do, task={"output_types": {"new": True}})], ["a"])
    ended.failure.must_be("JobExecutionError", "Some type filters are being set twice", "new")
    _must_have_changed_nothing(ended)


@requirement("EXEC-018")
def test_units_that_do_not_agree(subject: Subject) -> None:
    """Runs three units: one sets no filters, the others set an attribute's filter to different values."""
    do: dict[str, Steps] = {
        "a": [],
        "b": [["output", {"filters": {"attributes": {"well": "first"}}}]],
        "c": [["output", {"filters": {"attributes": {"well": "second"}}}]],
    }
    ended = subject.run([parallel(do, task={"output_types": {"new": True}})], ["a", "b", "c"])
    failure = ended.failure.must_be("JobExecutionError")
    for value in ("first", "second"):
        must_contain(failure.message, value, "the message, which shows both filters,")
    _must_have_changed_nothing(ended)


def _must_have_changed_nothing(ended: Ended) -> None:
    must_equal(
        [item.get("types") for item in ended.images], [{}] * len(ended.images), "the types of each image"
    )
    must_equal(ended.saved["filters"], {"types": {}, "attributes": {}}, "the filters in filters.json")
