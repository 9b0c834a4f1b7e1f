"""Tasks that get no images, or make no units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fractal_backends import JobExecutionError
from tests.helpers.workflows import (
    arguments_of,
    image,
    non_parallel,
    parallel,
    removals,
    run,
    saved,
    statuses,
    step,
    updates,
)

FAIL = [["exit_with", 1]]


def test_a_parallel_task_on_an_empty_dataset_runs_zero_units_and_succeeds(tmp_path: Path) -> None:
    result = run(tmp_path / "run", [parallel(FAIL, task={"output_types": {"ran": True}})])
    assert statuses(result) == ["done"]
    assert result["images"] == []
    assert result["filters"] == {"types": {"ran": True}, "attributes": {}}
    assert list((tmp_path / "run" / "0_task").iterdir()) == []


def test_a_parallel_task_with_filters_on_an_empty_dataset_runs_zero_units_and_succeeds(
    tmp_path: Path,
) -> None:
    result = run(
        tmp_path / "run", [parallel(FAIL, type_filters={"x": True})], filters={"attributes": {"a": 1}}
    )
    assert statuses(result) == ["done"]


@pytest.mark.parametrize("kind", ["non_parallel", "compound"])
def test_a_non_parallel_unit_on_an_empty_dataset_gets_an_empty_list(tmp_path: Path, kind: str) -> None:
    result = run(tmp_path / "run", [step(kind)])
    assert statuses(result) == ["done"]
    assert arguments_of(tmp_path / "run")["zarr_urls"] == []


@pytest.mark.parametrize("kind", ["compound", "converter_compound"])
@pytest.mark.parametrize("init", [[], [["output", {}]], [["output", {"parallelization_list": []}]]])
def test_a_compound_task_whose_init_yields_nothing_succeeds(
    tmp_path: Path, kind: str, init: list[Any]
) -> None:
    result = run(tmp_path / "run", [step(kind, init, FAIL, task={"output_types": {"ran": True}})], ["a"])
    assert statuses(result) == ["done"]
    assert result["filters"]["types"] == {"ran": True}
    assert [path.name for path in (tmp_path / "run").glob("*_task/*par*")] == []


@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound"])
def test_filters_that_leave_no_image_are_an_error_that_shows_filters_and_images(
    tmp_path: Path, kind: str
) -> None:
    images = [image("a", {"is_3d": True}, well="B03", count=1), image("b", {}, well="C04", flag=True)]
    task = step(kind, type_filters={"is_3d": True}, task={"name": "Measure"})
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [task], images, filters={"attributes": {"well": "D05"}})
    message = str(caught.value)
    assert message.startswith("Cannot run task 'Measure' for an empty image list")
    assert "'well': 'D05'" in message
    assert "'is_3d': True" in message
    assert "'B03'" in message and "'C04'" in message and "count" in message and "flag" in message
    assert not list((tmp_path / "run").glob("0_*/*"))
    assert statuses(saved(tmp_path / "run")) == ["failed"]


def test_the_error_shows_values_that_look_alike_but_differ_as_json(tmp_path: Path) -> None:
    images = [image(name, value=value) for name, value in (("a", 1), ("b", True), ("c", "1"))]
    with pytest.raises(JobExecutionError, match="for an empty image list") as caught:
        run(tmp_path / "run", [parallel()], images, filters={"attributes": {"value": "true"}})
    shown = str(caught.value).rpartition("Attributes of the images")[2]
    assert "true" in shown.lower()
    assert shown.count("1") == 2


@pytest.mark.parametrize("kind", ["converter_non_parallel", "converter_compound"])
def test_converters_run_whatever_the_filters_leave(tmp_path: Path, kind: str) -> None:
    result = run(tmp_path / "run", [step(kind)], ["a"], filters={"types": {"never": True}})
    assert statuses(result) == ["done"]


@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound"])
def test_what_counts_is_whether_the_list_is_empty_at_that_moment(tmp_path: Path, kind: str) -> None:
    tasks = [non_parallel([removals("a")]), step(kind, type_filters={"x": True})]
    assert statuses(run(tmp_path / "run", tasks, ["a"])) == ["done", "done"]


def test_an_image_list_that_a_task_filled_is_no_longer_empty(tmp_path: Path) -> None:
    tasks = [non_parallel([updates({"zarr_url": "a"})]), parallel(type_filters={"x": True})]
    with pytest.raises(JobExecutionError, match="for an empty image list"):
        run(tmp_path / "run", tasks)
