"""Which tasks of a workflow run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fractal_backends import InvalidInputError
from tests.helpers.workflows import Json, non_parallel, run, statuses, updates

TEN = 10


def _tasks(count: int) -> list[Json]:
    """Tasks that each make an image named after themselves."""
    return [
        non_parallel([updates({"zarr_url": f"{order}"})], task={"name": f"task {order}"}, id=order)
        for order in range(count)
    ]


@pytest.mark.parametrize(
    ("first", "last", "ran"),
    [
        (None, None, [0, 1, 2]),
        (0, 2, [0, 1, 2]),
        (1, None, [1, 2]),
        (None, 1, [0, 1]),
        (1, 1, [1]),
        (2, 2, [2]),
        (0, 0, [0]),
    ],
)
def test_the_range_defaults_to_the_whole_list_and_includes_both_ends(
    tmp_path: Path, first: int | None, last: int | None, ran: list[int]
) -> None:
    result = run(tmp_path / "run", _tasks(3), first_task_index=first, last_task_index=last)
    assert statuses(result) == ["done"] * len(ran)
    assert [item["zarr_url"].rpartition("/")[2] for item in result["images"]] == [str(order) for order in ran]
    folders = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert folders == [f"{order}_task_{order}" for order in ran]
    assert [entry["workflowtask"]["order"] for entry in result["history"]] == ran
    assert [entry["workflowtask"]["id"] for entry in result["history"]] == ran


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (-1, None, "first_task_index=-1 cannot be negative"),
        (None, -1, "last_task_index=-1 cannot be negative"),
        (None, 20, "last_task_index=20 cannot be larger than (num_tasks-1)=9"),
        (10, None, "first_task_index=10 cannot be larger than (num_tasks-1)=9"),
        (0, 10, "last_task_index=10 cannot be larger than (num_tasks-1)=9"),
        (2, 1, "first_task_index=2 cannot be larger than last_task_index=1"),
    ],
)
def test_a_range_outside_the_list_is_a_value_error_and_nothing_runs(
    tmp_path: Path, first: int | None, last: int | None, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "run", _tasks(TEN), first_task_index=first, last_task_index=last)
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("index", ["0", 0.0, True])
def test_an_index_that_is_no_whole_number_is_a_value_error(tmp_path: Path, index: object) -> None:
    with pytest.raises(ValueError, match=r"first_task_index=.* must be a whole number"):
        run(tmp_path / "run", _tasks(TEN), first_task_index=index)


@pytest.mark.parametrize("first", [None, 0, -1, 5])
def test_a_workflow_without_tasks_is_an_error_that_says_so(tmp_path: Path, first: int | None) -> None:
    with pytest.raises(InvalidInputError, match="the workflow has no tasks"):
        run(tmp_path / "run", [], first_task_index=first)
    assert not (tmp_path / "run").exists()


def test_only_the_tasks_in_the_range_need_valid_options(tmp_path: Path) -> None:
    broken = {**_tasks(1)[0], "meta_non_parallel": {"parallel_tasks_per_job": 0}}
    result = run(tmp_path / "run", [*_tasks(1), broken], last_task_index=0)
    assert statuses(result) == ["done"]
    with pytest.raises(InvalidInputError, match="parallel_tasks_per_job"):
        run(tmp_path / "other", [*_tasks(1), broken])
