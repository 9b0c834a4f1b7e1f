"""Which images a task gets, and which filters it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fractal_backends import InvalidInputError, JobExecutionError, TaskExecutionError
from tests.helpers.workflows import (
    Json,
    arguments_of,
    image,
    names,
    non_parallel,
    parallel,
    run,
    saved,
    statuses,
    step,
    updates,
    url,
)

IMAGES = [
    image("plain"),
    image("flat", {"is_3d": False}),
    image("deep", {"is_3d": True}),
    image("both", {"is_3d": True, "corrected": True}, well="B03"),
]
VALUES = [
    image("zero", value=0),
    image("text-zero", value="0"),
    image("one", value=1),
    image("float-one", value=1.0),
    image("true", value=True),
    image("false", value=False),
    image("text", value="true"),
    image("empty", value=""),
    image("half", value=0.5),
    image("none"),
]


def _selected_by_each(folder: Path, tasks: list[Json], images: list[Json]) -> list[list[str]]:
    """The names of the images that each of the tasks gets."""
    run(folder, tasks, images)
    units = [f"{order}_task/{order}" for order in range(len(tasks))]
    return [names({"zarr_url": u} for u in arguments_of(folder, unit)["zarr_urls"]) for unit in units]


def _selected(folder: Path, images: list[Json], filters: Json | None = None, **fields: Any) -> list[str]:
    """The names of the images that a task gets."""
    run(folder, [non_parallel(**fields)], images, filters=filters)
    return names({"zarr_url": item} for item in arguments_of(folder)["zarr_urls"])


BY_TYPES: list[tuple[Json, list[str]]] = [
    ({}, ["plain", "flat", "deep", "both"]),
    ({"is_3d": True}, ["deep", "both"]),
    ({"is_3d": False}, ["plain", "flat"]),
    ({"is_3d": True, "corrected": False}, ["deep"]),
    ({"corrected": False}, ["plain", "flat", "deep"]),
    ({"nobody has it": False}, ["plain", "flat", "deep", "both"]),
]
BY_VALUE: list[tuple[object, list[str]]] = [
    (0, ["zero"]),
    ("0", ["text-zero"]),
    (1, ["one", "float-one"]),
    (1.0, ["one", "float-one"]),
    (True, ["true"]),
    (False, ["false"]),
    ("true", ["text"]),
    ("", ["empty"]),
    (0.5, ["half"]),
    (None, names(VALUES)),
]


@pytest.mark.parametrize(("types", "expected"), BY_TYPES)
def test_a_type_that_is_missing_from_an_image_counts_as_false(
    tmp_path: Path, types: Json, expected: list[str]
) -> None:
    assert _selected(tmp_path / "run", IMAGES, {"types": types}) == expected


@pytest.mark.parametrize("place", ["input_types", "type_filters", "input_filters"])
def test_it_does_so_in_each_kind_of_a_tasks_filters(tmp_path: Path, place: str) -> None:
    def fields(types: Json) -> Json:
        if place == "input_types":
            return {"task": {"input_types": types}}
        return {place: {"types": types} if place == "input_filters" else types}

    tasks = [non_parallel(**fields(types)) for types, _ in BY_TYPES]
    assert _selected_by_each(tmp_path / "run", tasks, IMAGES) == [expected for _, expected in BY_TYPES]


@pytest.mark.parametrize(("wanted", "expected"), BY_VALUE)
def test_attributes_compare_as_json_values_and_none_is_skipped(
    tmp_path: Path, wanted: object, expected: list[str]
) -> None:
    assert _selected(tmp_path / "run", VALUES, {"attributes": {"value": wanted}}) == expected


def test_attributes_compare_as_json_values_in_the_older_style_too(tmp_path: Path) -> None:
    tasks = [non_parallel(input_filters={"attributes": {"value": wanted}}) for wanted, _ in BY_VALUE]
    assert _selected_by_each(tmp_path / "run", tasks, VALUES) == [expected for _, expected in BY_VALUE]


def test_an_image_must_agree_with_every_filter(tmp_path: Path) -> None:
    images = [image("a", {"x": True}, p=1, q=1), image("b", {"x": True}, p=1), image("c", {}, p=1, q=1)]
    filters = {"types": {"x": True}, "attributes": {"p": 1, "q": 1}}
    assert _selected(tmp_path / "run", images, filters) == ["a"]


@pytest.mark.parametrize(
    ("current", "input_types", "type_filters", "expected"),
    [
        (True, None, None, ["deep", "both"]),
        (True, False, None, ["plain", "flat"]),
        (True, None, False, ["plain", "flat"]),
        (False, True, True, ["deep", "both"]),
        (None, True, None, ["deep", "both"]),
    ],
)
def test_input_types_and_type_filters_override_the_datasets_filters(
    tmp_path: Path,
    current: bool | None,
    input_types: bool | None,
    type_filters: bool | None,
    expected: list[str],
) -> None:
    def types(value: bool | None) -> dict[str, bool]:
        return {} if value is None else {"is_3d": value}

    assert (
        _selected(
            tmp_path / "run",
            IMAGES,
            {"types": types(current)},
            task={"input_types": types(input_types)},
            type_filters=types(type_filters),
        )
        == expected
    )


def test_filters_are_overridden_key_by_key(tmp_path: Path) -> None:
    """The dataset asks for deep and corrected; the task wants none corrected, and says nothing of deep."""
    current = {"types": {"is_3d": True, "corrected": True}}
    assert _selected(tmp_path / "run", IMAGES, current, type_filters={"corrected": False}) == ["deep"]
    assert _selected(tmp_path / "input", IMAGES, current, task={"input_types": {"corrected": False}}) == [
        "deep"
    ]
    older = {"types": {"corrected": False}}
    assert _selected(tmp_path / "older", IMAGES, current, input_filters=older) == ["deep"]


def test_a_tasks_own_filters_do_not_stay(tmp_path: Path) -> None:
    tasks = [parallel(type_filters={"is_3d": True}, task={"input_types": {"is_3d": True}}), non_parallel()]
    result = run(tmp_path / "run", tasks, IMAGES)
    assert len(arguments_of(tmp_path / "run", "1_task/1")["zarr_urls"]) == len(IMAGES)
    assert result["filters"] == {"types": {}, "attributes": {}}


def test_a_conflict_of_input_types_and_type_filters_is_found_before_anything_runs(tmp_path: Path) -> None:
    bad = parallel(type_filters={"x": True, "y": True}, task={"input_types": {"x": False, "y": True}})
    with pytest.raises(InvalidInputError, match=r"task_list\[1\].*x=True conflicts.*x=False"):
        run(tmp_path / "run", [non_parallel(), bad], IMAGES)
    assert not (tmp_path / "run").exists()


def test_the_older_style_overrides_and_the_tasks_input_types_pick_nothing(tmp_path: Path) -> None:
    current = {"types": {"is_3d": False}, "attributes": {"well": "C04"}}
    older = {"types": {"is_3d": True}, "attributes": {"well": None}}
    assert _selected(tmp_path / "run", IMAGES, current, input_filters=older) == ["deep", "both"]


@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound"])
def test_the_older_style_then_needs_every_image_left_to_have_the_input_types(
    tmp_path: Path, kind: str
) -> None:
    task = step(kind, task={"input_types": {"corrected": True}}, input_filters={"types": {"is_3d": True}})
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [task], IMAGES)
    assert str(caught.value).startswith("Invalid filtered image list")
    assert url("deep") in str(caught.value)
    assert statuses(saved(tmp_path / "run")) == ["failed"]


@pytest.mark.parametrize("wanted", [{"corrected": True}, {"is_3d": True}, {"nobody has it": False}])
def test_the_older_style_is_fine_where_they_do_have_them(tmp_path: Path, wanted: Json) -> None:
    older = {"types": {"is_3d": True}, "attributes": {"well": "B03"}}
    task: Json = {"task": {"input_types": wanted}, "input_filters": older}
    assert _selected(tmp_path / "run", IMAGES, **task) == ["both"]


@pytest.mark.parametrize("kind", ["converter_non_parallel", "converter_compound"])
def test_converters_receive_no_images(tmp_path: Path, kind: str) -> None:
    run(tmp_path / "run", [step(kind)], IMAGES)
    assert "zarr_urls" not in arguments_of(tmp_path / "run")


@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound", "converter_non_parallel"])
def test_the_filters_gain_the_tasks_output_types(tmp_path: Path, kind: str) -> None:
    task = step(kind, task={"output_types": {"new": True, "old": False}})
    result = run(tmp_path / "run", [task], ["a"], filters={"types": {"kept": False}})
    assert result["filters"] == {"types": {"kept": False, "new": True, "old": False}, "attributes": {}}


def test_output_types_override_what_the_filters_said(tmp_path: Path) -> None:
    task = parallel(type_filters={"x": True}, task={"output_types": {"x": False}})
    result = run(tmp_path / "run", [task], [image("a", {"x": True})], filters={"types": {"x": True}})
    assert result["filters"]["types"] == {"x": False}


def test_the_filters_gain_what_the_output_says(tmp_path: Path) -> None:
    own = {"types": {"t": False}, "attributes": {"plate": "new", "well": None}}
    before = {"types": {"t": True, "kept": False}, "attributes": {"plate": "old", "kept": 1}}
    task = non_parallel([updates(filters=own)], type_filters={"t": False}, task={"output_types": {"o": True}})
    result = run(tmp_path / "run", [task], [image("a", plate="old", kept=1)], filters=before)
    assert result["filters"] == {
        "types": {"t": False, "kept": False, "o": True},
        "attributes": {"plate": "new", "well": None, "kept": 1},
    }


def test_the_next_task_gets_what_the_new_filters_leave(tmp_path: Path) -> None:
    do = {"deep": [updates({"zarr_url": "deep"})], "*": []}
    tasks = [parallel(do, task={"output_types": {"done": True}}), non_parallel()]
    result = run(tmp_path / "run", tasks, IMAGES)
    assert names({"zarr_url": item} for item in arguments_of(tmp_path / "run", "1_task/1")["zarr_urls"]) == [
        "deep"
    ]
    assert saved(tmp_path / "run") == result


@pytest.mark.parametrize("value", [True, False])
def test_one_type_set_by_output_and_output_types_is_an_error(tmp_path: Path, value: bool) -> None:
    do = [updates({"zarr_url": "new"}, filters={"types": {"twice": value, "once": True}})]
    task = non_parallel(do, task={"output_types": {"twice": True}})
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [task], IMAGES, filters={"types": {"before": False}})
    assert str(caught.value).startswith("Some type filters are being set twice")
    assert "twice" in str(caught.value)
    state = saved(tmp_path / "run")
    assert state["images"] == IMAGES
    assert state["filters"] == {"types": {"before": False}, "attributes": {}}


def test_after_a_task_with_failures_the_filters_stay_as_they_were(tmp_path: Path) -> None:
    do = {"bad": [["exit_with", 1]], "*": [updates(filters={"attributes": {"x": 1}})]}
    task = parallel(do, task={"output_types": {"done": True}})
    before = {"types": {"before": False}, "attributes": {"y": None}}
    with pytest.raises(TaskExecutionError):
        run(tmp_path / "run", [task], ["good", "bad"], filters=before)
    state = saved(tmp_path / "run")
    assert state["filters"] == before
    assert state["images"] == [image("good", {"done": True}), image("bad")]


def test_running_a_failed_task_again_finds_the_images_that_are_left(tmp_path: Path) -> None:
    fails_once = [["copy", str(tmp_path / "flag"), str(tmp_path / "copy")]]  # until the flag is there
    fields: Json = {"type_filters": {"done": False}, "task": {"output_types": {"done": True}}}
    task = parallel({"b": fails_once, "*": []}, **fields)
    with pytest.raises(TaskExecutionError):
        run(tmp_path / "first", [task], ["a", "b", "c"])
    (tmp_path / "flag").touch()
    state = saved(tmp_path / "first")
    result = run(tmp_path / "second", [task], state["images"], filters=state["filters"])
    assert arguments_of(tmp_path / "second", "0_task/0_par_0000000")["zarr_url"] == url("b")
    assert len(list((tmp_path / "second").glob("0_task/*.log"))) == 1
    assert [item["types"] for item in result["images"]] == [{"done": True}] * 3
