"""What a task's outputs do to the image list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fractal_backends import JobExecutionError
from tests.helpers.workflows import (
    ZARR,
    Json,
    compound,
    dataset,
    image,
    names,
    non_parallel,
    parallel,
    removals,
    run,
    saved,
    statuses,
    step,
    updates,
    url,
)

BEFORE = [
    image("a", {"is_3d": True, "kept": True}, origin="source", well="B03", count=1),
    image("b", {"is_3d": False}, well="C04"),
]
TYPES = {"is_3d": False, "made": True}


def _after(folder: Path, *changes: Json, images: list[Json] | None = None, **task: Any) -> list[Json]:
    """The image list after a task with these updates."""
    return run(folder, [non_parallel([updates(*changes)], task=task)], BEFORE if images is None else images)[
        "images"
    ]


def _error(folder: Path, do: list[Any], images: list[Json] | None = None, **fields: Any) -> str:
    """The error of a task with this output; checks that nothing changed."""
    images = BEFORE if images is None else images
    task = non_parallel(do, task={"output_types": {"made": True}})
    source = dataset(images, filters={"types": {"before": False}, "attributes": {}}, **fields)
    with pytest.raises(JobExecutionError) as caught:
        run(folder, [task, non_parallel()], dataset=source)
    state = saved(folder)
    assert statuses(state) == ["failed"]
    assert state["images"] == images
    assert state["filters"] == {"types": {"before": False}, "attributes": {}}
    return str(caught.value)


def test_outputs_are_merged_in_unit_order_whichever_unit_ends_first(tmp_path: Path) -> None:
    last = str(tmp_path / "last ended")
    do = {
        "a": [["wait", last], updates({"zarr_url": "from a"})],
        "b": [updates({"zarr_url": "from b"})],
        "c": [updates({"zarr_url": "from c"}), ["touch", last]],
    }
    task = parallel(do, meta_parallel={"parallel_tasks_per_job": 3})
    assert names(run(tmp_path / "run", [task], "abc")["images"]) == [
        "a",
        "b",
        "c",
        "from a",
        "from b",
        "from c",
    ]


def test_identical_updates_and_identical_removals_count_once(tmp_path: Path) -> None:
    change = {"zarr_url": url("new"), "attributes": {"x": 1, "y": "2"}, "types": {"t": True}}
    same = {
        "zarr_url": "/data//zarr/new/",
        "types": {"t": True},
        "attributes": {"y": "2", "x": 1},
        "origin": None,
    }
    both = {
        "image_list_updates": [change, same],
        "image_list_removals": [url("a"), "/data/zarr/./a", url("a")],
    }
    result = run(tmp_path / "run", [parallel([["output", both]])], ["a", "b"])
    assert result["images"] == [image("b"), image("new", {"t": True}, x=1, y="2")]


@pytest.mark.parametrize("other", [True, "1", 2])
def test_updates_that_differ_as_json_values_are_not_identical(tmp_path: Path, other: object) -> None:
    changes = ({"zarr_url": "a", "attributes": {"x": 1}}, {"zarr_url": "a", "attributes": {"x": other}})
    assert "has non-unique zarr_urls:" in _error(tmp_path / "run", [updates(*changes)])


def test_units_that_set_different_filters_are_an_error_that_shows_both(tmp_path: Path) -> None:
    do = {name: [updates(filters={"attributes": {"plate": f"plate of {name}"}})] for name in "ab"}
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [parallel(do)], "ab")
    assert "plate of a" in str(caught.value) and "plate of b" in str(caught.value)
    assert saved(tmp_path / "run")["filters"] == {"types": {}, "attributes": {}}


def test_units_that_set_filters_of_different_json_types_are_an_error(tmp_path: Path) -> None:
    do = {
        "a": [updates(filters={"attributes": {"x": 1}})],
        "b": [updates(filters={"attributes": {"x": True}})],
    }
    with pytest.raises(JobExecutionError, match="different filters"):
        run(tmp_path / "run", [parallel(do)], "ab")


def test_a_unit_that_sets_no_filters_agrees_with_all(tmp_path: Path) -> None:
    wanted = {"types": {"t": True}, "attributes": {"plate": "p"}}
    do = {
        "b": [updates(filters=wanted)],
        "d": [updates(filters=wanted)],
        "e": [updates(filters=None)],
        "*": [],
    }
    assert run(tmp_path / "run", [parallel(do)], "abcde")["filters"] == wanted


@pytest.mark.parametrize("kind", ["parallel", "non_parallel", "compound"])
def test_without_updates_and_removals_every_input_image_counts_as_updated(tmp_path: Path, kind: str) -> None:
    task = step(kind, type_filters={"is_3d": True}, task={"output_types": TYPES})
    assert run(tmp_path / "run", [task], BEFORE)["images"] == [
        image("a", {"is_3d": False, "kept": True, "made": True}, origin="source", well="B03", count=1),
        BEFORE[1],
    ]


@pytest.mark.parametrize("kind", ["converter_non_parallel", "converter_compound"])
def test_a_converter_has_no_input_images_that_count_as_updated(tmp_path: Path, kind: str) -> None:
    assert run(tmp_path / "run", [step(kind, task={"output_types": TYPES})], BEFORE)["images"] == BEFORE


@pytest.mark.parametrize(
    "do", [[updates({"zarr_url": "b"})], [updates({"zarr_url": "new"})], [removals("b")]]
)
def test_with_an_update_or_a_removal_the_other_input_images_stay(tmp_path: Path, do: list[Any]) -> None:
    result = run(tmp_path / "run", [non_parallel(do, task={"output_types": TYPES})], BEFORE)
    assert result["images"][0] == BEFORE[0]


def test_one_url_in_two_updates_is_an_error_that_lists_it(tmp_path: Path) -> None:
    do = [updates({"zarr_url": "a"}, {"zarr_url": "a", "types": {"t": True}}, {"zarr_url": "fine"})]
    lines = _error(tmp_path / "run", do).splitlines()
    assert lines[0] == "TaskOutput (3 image_list_updates and 0 image_list_removals) has non-unique zarr_urls:"
    assert [line.strip() for line in lines[1:]] == [url("a")]


def test_one_url_in_an_update_and_a_removal_is_an_error_that_lists_it(tmp_path: Path) -> None:
    changes = [{"zarr_url": url("a")}, {"zarr_url": url("new")}]
    both = {"image_list_updates": changes, "image_list_removals": [url("b"), url("a"), url("new")]}
    lines = _error(tmp_path / "run", [["output", both]]).splitlines()
    assert lines[0] == "TaskOutput (2 image_list_updates and 3 image_list_removals) has non-unique zarr_urls:"
    assert {line.strip() for line in lines[1:]} == {url("a"), url("new")}


def test_one_url_in_two_units_outputs_is_an_error_too(tmp_path: Path) -> None:
    do = {"a": [updates({"zarr_url": "new"})], "b": [removals("new")], "*": []}
    with pytest.raises(JobExecutionError, match="has non-unique zarr_urls"):
        run(tmp_path / "run", [parallel(do)], "abc")


def test_updates_see_what_the_ones_before_them_did(tmp_path: Path) -> None:
    changes = (
        {"zarr_url": "b", "attributes": {"x": 1}},
        {"zarr_url": "c", "origin": "b", "attributes": {"y": 2}},
        {"zarr_url": "d", "origin": "c", "types": {"t": True}},
        {"zarr_url": "a", "origin": "d"},
    )
    made = {"is_3d": False, "t": True}
    assert _after(tmp_path / "run", *changes) == [
        image("a", made, origin="d", well="C04", x=1, y=2),
        image("b", {"is_3d": False}, well="C04", x=1),
        image("c", {"is_3d": False}, origin="b", well="C04", x=1, y=2),
        image("d", made, origin="c", well="C04", x=1, y=2),
    ]


def test_an_update_does_not_see_what_comes_after_it(tmp_path: Path) -> None:
    changes = ({"zarr_url": "c", "origin": "b"}, {"zarr_url": "b", "attributes": {"x": 1}})
    assert _after(tmp_path / "run", *changes)[-1] == image("c", {"is_3d": False}, origin="b", well="C04")


@pytest.mark.parametrize("own", [{}, {"origin": None}, {"origin": "a"}], ids=["none", "null", "itself"])
def test_an_update_of_a_known_image_merges_and_its_origin_stays(tmp_path: Path, own: Json) -> None:
    change = {
        "zarr_url": "a",
        "attributes": {"well": None, "new": 2.5},
        "types": {"t": True, "is_3d": True},
        **own,
    }
    assert _after(tmp_path / "run", change, output_types=TYPES) == [
        image(
            "a", {"is_3d": False, "kept": True, "t": True, "made": True}, origin="source", count=1, new=2.5
        ),
        BEFORE[1],
    ]


def test_an_update_of_a_known_image_with_another_origin_is_built_anew(tmp_path: Path) -> None:
    change = {"zarr_url": "a", "origin": "b", "attributes": {"new": 1}, "types": {"t": True}}
    assert _after(tmp_path / "run", change, output_types={"made": True}) == [
        image("a", {"is_3d": False, "t": True, "made": True}, origin="b", well="C04", new=1),
        BEFORE[1],
    ]


def test_an_update_of_a_known_image_with_an_unknown_origin_inherits_nothing(tmp_path: Path) -> None:
    """Also where that origin is the one that is stored, but is not in the list."""
    for origin in ("unknown", "source"):
        change = {"zarr_url": "a", "origin": origin, "attributes": {"new": 1, "gone": None}}
        images = _after(tmp_path / origin, change, output_types=TYPES)
        assert images[0] == image("a", TYPES, origin=origin, new=1)


@pytest.mark.parametrize("origin", [None, "a", "unknown", "new", "/elsewhere/x"])
def test_a_new_image_inherits_from_its_origin_and_is_appended(tmp_path: Path, origin: str | None) -> None:
    change = {
        "zarr_url": "new",
        "origin": origin,
        "attributes": {"count": None, "n": 0},
        "types": {"t": False},
    }
    inherited: Json = {"well": "B03"} if origin == "a" else {}
    types = {"kept": True} if origin == "a" else {}
    assert _after(tmp_path / "run", change, output_types=TYPES) == [
        *BEFORE,
        image("new", {**types, "t": False, **TYPES}, origin=origin, **inherited, n=0),
    ]


def test_the_order_of_the_list_is_kept(tmp_path: Path) -> None:
    """Changed and rebuilt images stay in their places; one that is removed and made again comes last."""
    first = [
        updates({"zarr_url": "d"}, {"zarr_url": "b", "origin": "c"}, {"zarr_url": "a"}, {"zarr_url": "_"})
    ]
    tasks = [non_parallel(first), non_parallel([removals("b")]), non_parallel([updates({"zarr_url": "b"})])]
    assert names(run(tmp_path / "run", tasks, "abc")["images"]) == ["a", "c", "d", "_", "b"]


@pytest.mark.parametrize(
    ("zarr_dir", "new"),
    [
        ("/D", "/D"),
        ("/D", "/D/"),
        ("/D", "/Dother/x"),
        ("/D/e", "/D/ex"),
        ("/D/e", "/D"),
        ("/D/", "/E/x"),
        ("/D", "/d/x"),
        ("/D", "s3://D/x"),
        ("s3://bucket/D", "s3://bucket/Dother/x"),
        ("s3://bucket/D", "s3://bucket/D"),
        ("s3://bucket", "/bucket/x"),
    ],
)
def test_a_new_image_outside_zarr_dir_is_an_error(tmp_path: Path, zarr_dir: str, new: str) -> None:
    message = _error(tmp_path / "run", [updates({"zarr_url": new})], [], zarr_dir=zarr_dir)
    assert message.startswith("Cannot create image if zarr_url is not a subfolder of zarr_dir.")
    assert zarr_dir.rstrip("/") in message and new.rstrip("/") in message


@pytest.mark.parametrize(
    ("zarr_dir", "new"), [("/", "/x"), ("/D/", "/D//e/f"), ("s3://bucket", "s3://bucket/x"), ("/D", "/D/D")]
)
def test_a_new_image_inside_zarr_dir_is_fine(tmp_path: Path, zarr_dir: str, new: str) -> None:
    task = non_parallel([updates({"zarr_url": new})])
    result = run(tmp_path / "run", [task], dataset={"zarr_dir": zarr_dir})
    assert result["images"] == [image(new.replace("//e", "/e"))]


def test_a_known_image_may_be_anywhere(tmp_path: Path) -> None:
    change = {"zarr_url": "/elsewhere/a", "attributes": {"x": 1}}
    assert _after(tmp_path / "run", change, images=[image("/elsewhere/a")]) == [image("/elsewhere/a", x=1)]


def test_removals_come_last(tmp_path: Path) -> None:
    both = {
        "image_list_updates": [{"zarr_url": url("new"), "origin": url("a")}],
        "image_list_removals": [url("a")],
    }
    result = run(tmp_path / "run", [non_parallel([["output", both]])], BEFORE)
    inherited = image("new", BEFORE[0]["types"], origin="a", well="B03", count=1)
    assert result["images"] == [BEFORE[1], inherited]


def test_removing_an_unknown_image_is_an_error(tmp_path: Path) -> None:
    message = _error(tmp_path / "run", [removals("a", "unknown")])
    assert message.startswith(f"Cannot remove missing image (zarr_url={url('unknown')})")


def test_an_error_changes_nothing_also_after_updates_that_were_fine(tmp_path: Path) -> None:
    outside = updates(
        {"zarr_url": "a", "attributes": {"x": 1}}, {"zarr_url": "new"}, {"zarr_url": "/outside"}
    )
    assert _error(tmp_path / "run", [outside]).startswith("Cannot create image")


def test_a_units_failure_is_what_is_raised_and_it_tells_of_the_other_error(tmp_path: Path) -> None:
    do: Json = {"a": [["kill_self", 9]], "b": [removals("unknown")], "c": [updates({"zarr_url": "new"})]}
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [parallel(do, task={"output_types": TYPES})], "abc")
    message = str(caught.value)
    assert message.startswith("Task failed with returncode=-9")
    assert f"Cannot remove missing image (zarr_url={url('unknown')})" in message
    assert saved(tmp_path / "run")["images"] == [image(name) for name in "abc"]


def test_of_a_parallel_task_only_images_whose_units_succeeded_count_as_updated(tmp_path: Path) -> None:
    do: Json = {"b": [["kill_self", 9]], "d": [["raw", "?"]], "*": []}
    with pytest.raises(JobExecutionError):
        run(tmp_path / "run", [parallel(do, task={"output_types": {"made": True}})], "abcde")
    made = {"made": True}
    expected = [image("a", made), image("b"), image("c", made), image("d"), image("e", made)]
    assert saved(tmp_path / "run")["images"] == expected


def test_of_a_compound_task_with_a_failed_unit_no_image_counts_as_updated(tmp_path: Path) -> None:
    task = compound(["a", "b"], {"b": [["kill_self", 9]], "*": []}, task={"output_types": {"made": True}})
    with pytest.raises(JobExecutionError):
        run(tmp_path / "run", [task], "ab")
    assert saved(tmp_path / "run")["images"] == [image("a"), image("b")]


def test_an_image_in_a_result_has_exactly_four_keys(tmp_path: Path) -> None:
    given: list[Json] = [{"zarr_url": f"{ZARR}/a"}, {"zarr_url": f"{ZARR}/b", "types": {}, "origin": None}]
    result = run(tmp_path / "run", [non_parallel([updates({"zarr_url": "c"}, {"zarr_url": "b"})])], given)
    assert result["images"] == saved(tmp_path / "run")["images"] == [image(name) for name in "abc"]
