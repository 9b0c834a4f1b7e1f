"""What is checked before anything runs, and in which forms a workflow and a dataset may come."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fractal_backends import Dataset, InvalidInputError, Workflow
from tests.helpers.workflows import (
    COMMAND,
    ZARR,
    Json,
    arguments_of,
    dataset,
    image,
    non_parallel,
    parallel,
    run,
    saved,
    statuses,
    step,
    updates,
)

WORKFLOW: Json = {
    "name": "Two steps",
    "id": 5,
    "task_list": [
        step(
            "converter_non_parallel",
            [updates({"zarr_url": "c", "attributes": {"well": "B03"}, "types": {"is_3d": True}})],
            task={"output_types": {"raw": True}, "id": 1, "source": "here", "version": "1.0"},
            id=10,
            alias="first",
        ),
        parallel(
            {"c": [["print_out", "done"]], "*": [["exit_with", 1]]},
            type_filters={"raw": True},
            meta_parallel={"parallel_tasks_per_job": 1, "other_backends_key": "x"},
            task={"input_types": {"is_3d": True}, "meta_parallel": {"mem": "1G"}},
        ),
    ],
}
DATASET: Json = {
    "zarr_dir": ZARR,
    "name": "Data",
    "images": [image("a", {"x": True}, well="A01"), image("b", origin="a")],
    "filters": {"types": {"is_3d": True}, "attributes": {"well": "B03", "plate": None}},
    "history": [{"anything": [1, None]}],
}


def _problems(folder: Path, **arguments: Any) -> list[str]:
    """What is wrong with a run's arguments; checks that nothing was done."""
    arguments = {"workflow": {"task_list": [non_parallel()]}, "dataset": dataset(), **arguments}
    with pytest.raises(InvalidInputError) as caught:
        run(folder, [], **arguments)
    assert isinstance(caught.value, ValueError)
    assert not folder.exists()
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems or [str(caught.value)]


def _objects(value: Any) -> Any:
    """Objects with attributes, and some more attributes, where a model has keys of its own."""
    if isinstance(value, list):
        return [_objects(item) for item in value]
    if not isinstance(value, dict) or not value.keys() & {
        "task_list",
        "task",
        "type",
        "zarr_dir",
        "zarr_url",
    }:
        return value
    fields = {name: _objects(item) for name, item in value.items()}
    return SimpleNamespace(**fields, timestamp_created="today", project_id=1, metadata=object())


def _with_filters_as_object(value: Any) -> Any:
    source = _objects(value)
    if hasattr(source, "filters"):
        source.filters = SimpleNamespace(**source.filters, extra=1)
    return source


def _in_a_file(folder: Path, value: Any, name: str) -> Path:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


FORMS = ["models", "dicts", "files", "objects", "objects throughout"]


def _in_form(form: str, folder: Path) -> tuple[Any, Any]:
    workflow, data = copy.deepcopy((WORKFLOW, DATASET))
    match form:
        case "models":
            return Workflow(**workflow), Dataset(**data)
        case "files":
            return _in_a_file(folder, workflow, "workflow.json"), _in_a_file(folder, data, "dataset.json")
        case "objects":
            return _objects(workflow), _objects(data)
        case "objects throughout":
            return _with_filters_as_object(workflow), _with_filters_as_object(data)
    return workflow, data


@pytest.mark.parametrize("form", FORMS)
def test_workflow_and_dataset_may_be_models_dicts_files_or_objects(tmp_path: Path, form: str) -> None:
    workflow, data = _in_form(form, tmp_path)
    result = run(tmp_path / "run", [], workflow=workflow, dataset=data)
    new = image("c", {"is_3d": True, "raw": True}, well="B03")
    assert result["images"] == [*DATASET["images"], new]
    assert result["filters"] == {
        "types": {"is_3d": True, "raw": True},
        "attributes": {"well": "B03", "plate": None},
    }
    assert statuses(result) == ["done", "done"]
    assert [entry["workflowtask"]["id"] for entry in result["history"]] == [10, None]
    assert json.loads(json.dumps(result)) == result == saved(tmp_path / "run")


def test_the_callers_objects_stay_as_they_were(tmp_path: Path) -> None:
    workflow, data = copy.deepcopy((WORKFLOW, DATASET))
    run(tmp_path / "run", [], workflow=workflow, dataset=data)
    assert (workflow, data) == (WORKFLOW, DATASET)


@pytest.mark.parametrize("form", ["dict", "object"])
def test_a_tasks_type_follows_from_its_commands_where_it_is_not_given(tmp_path: Path, form: str) -> None:
    for type_field in ({}, {"type": None}):
        task: Any = {"name": "task", "command_parallel": COMMAND, **type_field}
        task = SimpleNamespace(**task) if form == "object" else task
        result = run(tmp_path / f"run {len(type_field)}", [{"task": task}], ["a"])
        assert result["history"][0]["workflowtask"]["task"]["type"] == "parallel"


def test_everything_wrong_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    workflow = {
        "task_list": [
            {"task": {"name": "", "type": "parallel"}, "args_parallel": {"zarr_url": "/x", "ok": 1}},
            {"task": {"name": "a", "type": "serial"}, "argsparallel": {}},
            {"task": {"name": "b", "type": "compound", "command_parallel": "x"}, "type_filters": {"t": 1}},
        ],
        "nmae": "x",
    }
    data = {
        "zarr_dir": "relative/folder",
        "images": [{"zarr_url": "/a", "typos": {}}, {}],
        "filters": {"types": []},
    }
    problems = _problems(tmp_path / "run", workflow=workflow, dataset=data)
    places = [
        "task_list[0].task.name",
        "task_list[0].args_parallel",
        "task_list[1].task.type",
        "task_list[1].argsparallel",
        "task_list[2].task",
        "task_list[2].type_filters.t",
        "nmae",
        "zarr_dir",
        "images[0].typos",
        "images[1].zarr_url",
        "filters.types",
    ]
    for place in places:
        assert any(f"{place}:" in problem for problem in problems), place
    assert any("The workflow" in problem for problem in problems)
    assert any("The dataset" in problem for problem in problems)


@pytest.mark.parametrize("part", ["args_parallel", "args_non_parallel"])
@pytest.mark.parametrize("name", ["zarr_url", "zarr_urls", "zarr_dir", "init_args"])
def test_arguments_of_the_runner_are_refused_before_anything_runs(
    tmp_path: Path, name: str, part: str
) -> None:
    bad = {**step("compound"), part: {name: "x"}}
    problems = _problems(tmp_path / "run", workflow={"task_list": [non_parallel(), bad]})
    assert any(f"task_list[1].{part}: " in problem and name in problem for problem in problems)


def test_both_filter_styles_in_one_workflow_task_are_an_error(tmp_path: Path) -> None:
    both = non_parallel(type_filters={"x": True}, input_filters={"types": {"x": True}, "attributes": {}})
    problems = _problems(tmp_path / "run", workflow={"task_list": [both]})
    assert any("task_list[0]" in p and "type_filters" in p and "input_filters" in p for p in problems)


def test_repeated_image_urls_are_an_error_that_shows_both(tmp_path: Path) -> None:
    images = [image("a", well="B03"), image("b"), image("a", {"t": True})]
    (problem,) = _problems(tmp_path / "run", dataset=dataset(images))
    assert "images[0]" in problem and "images[2]" in problem
    assert "B03" in problem and "'t': True" in problem


def test_very_many_repeated_image_urls_are_a_short_error(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path / "run", dataset=dataset(["a"] * 5_000))
    assert len(problem) < 10_000


@pytest.mark.parametrize(
    ("model", "value", "place"),
    [
        ("workflow", {"task_list": [], "tasks": []}, "tasks"),
        ("workflow", {"task_list": [{**non_parallel(), "filters": {}}]}, "task_list[0].filters"),
        ("workflow", {"task_list": [non_parallel(task={"commands": ""})]}, "task_list[0].task.commands"),
        ("dataset", {"zarr_dir": ZARR, "image_list": []}, "image_list"),
        ("dataset", dataset([{**image("a"), "path": "/a"}]), "images[0].path"),
        ("dataset", dataset(filters={"type": {}}), "filters.type"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_valid_ones(
    tmp_path: Path, model: str, value: Json, place: str
) -> None:
    problems = _problems(tmp_path / "run", **{model: value})
    (text,) = [problem for problem in problems if problem.startswith(f"{place}: unknown key")]
    valid = {
        "tasks": "task_list",
        "task_list[0].filters": "type_filters",
        "task_list[0].task.commands": "command_parallel",
        "image_list": "images",
        "images[0].path": "zarr_url",
        "filters.type": "types",
    }
    assert valid[place] in text


def test_what_is_no_workflow_or_dataset_at_all_is_an_error(tmp_path: Path) -> None:
    values: list[Any] = [None, 1, "text", [], {}, object(), SimpleNamespace(), Path("/no/such/file")]
    for value in values:
        assert _problems(tmp_path / "run", workflow=value)
        assert _problems(tmp_path / "run", dataset=value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "line 1, column 1"),
        (b'{"task_list": [\n  {}\n  {}]}', "line 3, column 3"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"[]", "The workflow"),
        (b'"x"', "The workflow"),
    ],
)
def test_a_file_that_is_not_json_is_an_error_that_says_where(
    tmp_path: Path, content: bytes, text: str
) -> None:
    path = tmp_path / "workflow.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "run", [], workflow=path)
    assert str(path) in str(caught.value) and text in str(caught.value)


@pytest.mark.parametrize("field", ["args_non_parallel", "meta_non_parallel"])
def test_values_that_are_not_json_are_refused(tmp_path: Path, field: str) -> None:
    values = [float("nan"), float("inf"), object(), {1, 2}, b"x"]
    tasks = [{**non_parallel(), field: {"deep": [{"x": value}]}} for value in values]
    problems = _problems(tmp_path / "run", workflow={"task_list": tasks})
    places = [problem.partition(": ")[0] for problem in problems]
    assert places == [f"task_list[{index}].{field}" for index in range(len(values))]


TASKS_WITHOUT_THEIR_COMMANDS: list[Json] = [
    {"type": "parallel"},
    {"type": "parallel", "command_non_parallel": "x"},
    {"type": "non_parallel", "command_parallel": "x"},
    {"type": "compound", "command_parallel": "x"},
    {"type": "converter_compound", "command_non_parallel": "x"},
    {"type": "converter_non_parallel", "command_non_parallel": "  "},
    {"type": "non_parallel", "command_non_parallel": "x", "command_parallel": "x"},
    {"type": "unknown", "command_non_parallel": "x"},
    {},
]


def test_a_task_needs_the_commands_of_its_type(tmp_path: Path) -> None:
    tasks = [{"task": {"name": "t", **task}} for task in TASKS_WITHOUT_THEIR_COMMANDS]
    problems = _problems(tmp_path / "run", workflow={"task_list": tasks})
    for index, task in enumerate(TASKS_WITHOUT_THEIR_COMMANDS):
        assert any(problem.startswith(f"task_list[{index}].task") for problem in problems), task


HOSTILE = [
    "with spaces",
    'it\'s "quoted"',
    "two\nlines\tand tabs",
    "日本語 ünïcode 🔬",
    "../../../etc/passwd",
    "/absolute",
    "..",
    "-rf",
    "$(touch x) `y`; z",
    "%s %d {name}",
    "x" * 200,
    "é" * 110,
]


def test_hostile_task_names_stay_inside_the_run_folder(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    result = run(outer / "run", [parallel(task={"name": name}) for name in HOSTILE], ["a"])
    assert [entry["workflowtask"]["task"]["name"] for entry in result["history"]] == HOSTILE
    assert [path.name for path in outer.iterdir()] == ["run"]
    folders = [path for path in (outer / "run").iterdir() if path.is_dir()]
    assert {path.name.partition("_")[0] for path in folders} == {f"{order}" for order in range(len(HOSTILE))}
    assert len(list((outer / "run").glob("*/*_par_0000000.log"))) == len(HOSTILE)


def test_names_that_no_folder_can_have_are_refused(tmp_path: Path) -> None:
    bad = ["", "  ", "\n", "x" * 300, "é" * 200, "nul\0", "\ud800", 5, None]
    workflow = {"task_list": [non_parallel(task={"name": name}) for name in bad]}
    places = [problem.partition(": ")[0] for problem in _problems(tmp_path / "run", workflow=workflow)]
    assert places == [f"task_list[{index}].task.name" for index in range(len(bad))]


def test_hostile_image_names_reach_the_task_as_they_are(tmp_path: Path) -> None:
    urls = [f"/data/zarr/x{name.replace('..', '_')}".replace("//", "/").rstrip("/") for name in HOSTILE]
    images = [image(u, {name: True}, **{name: name}) for u, name in zip(urls, HOSTILE, strict=True)]
    run(tmp_path / "run", [parallel()], images)
    units = [f"0_task/0_par_{index:07d}" for index in range(len(urls))]
    assert [arguments_of(tmp_path / "run", unit)["zarr_url"] for unit in units] == urls
    assert saved(tmp_path / "run")["images"] == images


def test_the_error_does_not_run_over_with_what_it_was_given(tmp_path: Path) -> None:
    data = dataset([image("a", {}, big=["x" * 100_000])])
    assert all(len(problem) < 1_000 for problem in _problems(tmp_path / "run", dataset=data))
