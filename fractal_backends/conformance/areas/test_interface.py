"""Interface: what a server sees, as long as it lets runs end."""

from __future__ import annotations

from typing import Any

import pytest

from ...interface import INTERFACE_VERSION, OPTIONAL_ARGUMENTS
from ..expectations import Subject, must, must_contain, must_equal, not_judged, requirement
from ..workflows import Json, compound, image, names, non_parallel, parallel, updates, url

_TASKS = [
    parallel([["output", {"filters": {"types": {"seen": False}}}]], task={"output_types": {"clean": True}}),
    non_parallel([updates({"zarr_url": "c", "origin": "a"})], type_filters={"clean": True}),
]


@requirement("IFACE-001")
def test_name_and_version(subject: Subject) -> None:
    """Gets the backend by its name, and lets it run a task."""
    must_equal(subject.declared.interface_version, INTERFACE_VERSION, "the backend's interface_version")
    must_equal(subject.run([parallel()], ["a"]).statuses, ["done"], "the statuses in the history")


@requirement("IFACE-002")
def test_every_argument(subject: Subject) -> None:
    """Runs a task with every optional argument given as None, and with none of them given."""
    nothing = dict.fromkeys([*OPTIONAL_ARGUMENTS, "first_task_index", "last_task_index"])
    must_equal(names(subject.run([parallel()], ["a"], **nothing).result["images"]), ["a"], "the images")
    must_equal(names(subject.run([parallel()], ["a"]).result["images"]), ["a"], "the images")


@requirement("IFACE-003")
@pytest.mark.parametrize("form", ["models", "objects"])
def test_forms(subject: Subject, form: str) -> None:
    """Runs one workflow given as dicts, and again given in another form."""
    images = [image("a", {"s": True}, size=3), image("b", origin="a")]
    expected = subject.run(_TASKS, images, filters={"types": {}, "attributes": {"size": None}}).result
    got = subject.run(
        _TASKS, images, filters={"types": {}, "attributes": {"size": None}}, form=form, what=f"as {form}"
    ).result
    for part in ("images", "filters"):
        must_equal(got.get(part), expected.get(part), f"{part}, given as {form},")


@requirement("IFACE-004")
def test_the_result(subject: Subject) -> None:
    """Runs two tasks on two images and looks at what comes back."""
    result = subject.run(_TASKS, ["a", image("b", {"s": False}, size=1)]).result
    must(isinstance(result, dict), "the result to be a dict", result)
    must_equal(sorted(result), ["filters", "history", "images"], "the keys of the result")
    expected = [
        image("a", {"clean": True}),
        image("b", {"s": False, "clean": True}, size=1),
        image("c", {"clean": True}, origin="a"),
    ]
    must_equal(result["images"], expected, "the images of the result")
    must_equal(
        result["filters"], {"types": {"seen": False, "clean": True}, "attributes": {}}, "the result's filters"
    )
    statuses = [entry.get("status") for entry in result["history"]]
    must_equal(statuses, ["done", "done"], "the statuses in the result's history")


def _wrong_workflows() -> list[Any]:
    reserved: list[Json] = [{"zarr_url": "/x"}, {"zarr_urls": []}, {"zarr_dir": "/x"}, {"init_args": {}}]
    cases: list[Any] = [
        pytest.param([], "task", id="no tasks"),
        pytest.param([{"task": {"name": "t", "type": "sequential"}}], "sequential", id="unknown type"),
        *(
            pytest.param([{**parallel(), "args_parallel": given}], next(iter(given)), id=next(iter(given)))
            for given in reserved
        ),
    ]
    return cases


def _must_be_refused(subject: Subject, ended: Any, part: str) -> None:
    must_contain(ended.failure.must_be("ValueError").message, part, "the error's message")
    must(not (subject.folder / "ran").exists(), "no unit to start", "a unit ran")
    left = sorted(str(path) for path in ended.folder.rglob("*") if path.name != "workflow.log")
    must_equal(left, [], "the files written")


@requirement("IFACE-010")
@pytest.mark.parametrize(("tasks", "part"), _wrong_workflows())
def test_wrong_workflows(subject: Subject, tasks: list[Json], part: str) -> None:
    """Gives a workflow that is wrong, behind a task that is right and would leave a trace."""
    right = [parallel([["touch", str(subject.folder / "ran")]])] if tasks else []
    _must_be_refused(subject, subject.run([*right, *tasks], ["a"]), part)


@requirement("IFACE-010")
@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        ({"zarr_dir": "/data", "images": [{"zarr_url": "/data/a"}, {"zarr_url": "/data//a/"}]}, "/data/a"),
        ({"images": []}, "zarr_dir"),
        ({"zarr_dir": "/data", "images": [{"zarr_url": "relative/a"}]}, "relative/a"),
    ],
    ids=["one image twice", "no zarr_dir", "relative URL"],
)
def test_wrong_datasets(subject: Subject, dataset: Json, part: str) -> None:
    """Gives a dataset that is wrong."""
    task = parallel([["touch", str(subject.folder / "ran")]])
    _must_be_refused(subject, subject.run([task], dataset=dataset), part)


@requirement("IFACE-011")
@pytest.mark.parametrize(("first", "last"), [(1, 2), (0, 0), (None, 0), (3, None)])
def test_part_of_a_workflow(subject: Subject, first: int | None, last: int | None) -> None:
    """Runs a part of four tasks, each of which adds a line to a file."""
    trace = subject.folder / "trace"
    tasks = [non_parallel([["append", str(trace), str(i)]]) for i in range(4)]
    ended = subject.run(tasks, ["a"], first_task_index=first, last_task_index=last)
    expected = [str(i) for i in range(first or 0, 4 if last is None else last + 1)]
    must_equal(len(ended.result["history"]), len(expected), "the number of tasks in the history")
    must_equal(trace.read_text().split(), expected, "the tasks that ran")


@requirement("IFACE-011")
@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (-1, None, "first_task_index=-1 cannot be negative"),
        (None, 20, "last_task_index=20 cannot be larger than (num_tasks-1)=9"),
        (2, 1, "first_task_index=2 cannot be larger than last_task_index=1"),
    ],
)
def test_ranges_that_are_none(subject: Subject, first: int | None, last: int | None, message: str) -> None:
    """Asks for tasks that a workflow of ten tasks does not have."""
    tasks = [parallel([["touch", str(subject.folder / "ran")]])] * 10
    _must_be_refused(
        subject, subject.run(tasks, ["a"], first_task_index=first, last_task_index=last), message
    )


@requirement("IFACE-012")
def test_a_folder_that_is_taken(subject: Subject) -> None:
    """Starts a second run in the folder of a first one."""
    first = subject.run([parallel([["print_out", "first"]])], ["a"])
    first.must_succeed()
    before = _content(first)
    second = subject.run([parallel([["print_out", "second"]])], ["a"], folder=first.folder)
    must_contain(second.failure.must_be("ValueError").message, str(first.folder), "the error's message")
    must_equal(_content(second), before, "the folder's content")


def _content(ended: Any) -> dict[str, str]:
    return {
        str(path.relative_to(ended.folder)): path.read_bytes().decode(errors="replace")
        for path in sorted(ended.folder.rglob("*"))
        if path.is_file() and path.name != "workflow.log"
    }


@requirement("IFACE-013")
@pytest.mark.parametrize("form", ["dict", "models"])
def test_input_stays(subject: Subject, form: str) -> None:
    """Runs tasks that change images and filters, and compares the given objects with what they were."""
    change = updates({"zarr_url": "a", "attributes": {"new": 1}, "types": {"t": True}})
    task = non_parallel([change], task={"output_types": {"done": True}})
    ended = subject.run([task, *_TASKS], [image("a", {"t": False}, size=1)], form=form)
    ended.must_succeed()
    must(not ended.answer["input_changed"], "the given workflow and dataset to be as before", "changed ones")


@requirement("IFACE-014")
def test_the_log(subject: Subject) -> None:
    """Runs two named tasks and reads what came to the logger that was given."""
    tasks = [parallel(task={"name": "first one"}), compound(["a"], task={"name": "second one"})]
    ended = subject.run(tasks, ["a"], logger_name="conformance.of.this.run")
    ended.must_succeed()
    said = "\n".join(ended.answer["log"])
    for name in ("first one", "second one"):
        must(said.count(name) >= 2, f"lines on the start and the end of the task {name!r} in the log", said)


@requirement("IFACE-015")
def test_unknown_options(subject: Subject) -> None:
    """Gives the backend an option that no backend has."""
    known = subject.declared.option_names
    if known is None:
        not_judged("the backend does not say which options it knows (options_model)")
    task = parallel([["touch", str(subject.folder / "ran")]])
    ended = subject.run([task], ["a"], options={"no_such_option": 1})
    for name in ("no_such_option", *known):
        must_contain(ended.failure.message, name, "the error's message")
    must(not (subject.folder / "ran").exists(), "no unit to start", "a unit ran")


@requirement("IFACE-016")
def test_foreign_meta(subject: Subject) -> None:
    """Runs a compound task whose meta has keys, and nested values, of another backend."""
    meta = {"no_such_option": {"deep": [1]}, "another_one": "x"}
    task = compound(["a"], meta_parallel=meta, meta_non_parallel=meta)
    must_equal(subject.run([task], ["a"]).result["images"], [image("a")], "the images")
    must_equal(url("a"), subject.runs[0].wait().images[0].get("zarr_url"), "the image's URL")
