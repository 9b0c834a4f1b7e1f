"""What a unit may write to its output file."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import InvalidInputError, JobExecutionError, TaskExecutionError
from tests.helpers.workflows import (
    ZARR,
    Json,
    StepsByImage,
    arguments_of,
    compound,
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

BYTES = list(range(256))


def _invalid(folder: Path, do: StepsByImage, kind: str = "non_parallel") -> str:
    """The error of a task whose output is not valid; checks all that every such error says."""
    with pytest.raises(JobExecutionError) as caught:
        run(folder, [step(kind, do)], ["a", "b"])
    message = str(caught.value)
    what = "init-task" if kind.endswith("compound") else "task"
    first, second, *_ = message.splitlines()
    assert first == f"Validation of {what} output failed."
    assert second.startswith("Original error: ")
    assert "\nOriginal data: " in message
    assert "Unit 0" in message
    state = saved(folder)
    assert statuses(state) == ["failed"]
    assert state["images"] == [image("a"), image("b")]
    return message


def _all_invalid(folder: Path, outputs: list[list[Any]]) -> None:
    """A parallel task whose units write these outputs fails with every one of them."""
    do = {f"{number}": [output] for number, output in enumerate(outputs)}
    with pytest.raises(JobExecutionError, match=r"^Validation of task output failed\."):
        run(folder, [parallel(do)], list(do))
    log = (folder / "workflow.log").read_text()
    for number, output in enumerate(outputs):
        assert f"Unit 0_par_{number:07d}: Validation of task output failed." in log, output


def _one_update(**values: Any) -> Json:
    return {"image_list_updates": [{"zarr_url": url("new"), **values}]}


def _run_output(folder: Path, value: Any, images: tuple[Any, ...] = ()) -> list[Json]:
    """The images after a task with this output."""
    return run(folder, [non_parallel([["output", value]])], images)["images"]


@pytest.mark.parametrize(
    "do", [[], [["raw", "{}"]], [["raw", "null"]], [["raw", " \n null\n"]], [["raw", "\n{ }\n"]]]
)
@pytest.mark.parametrize("kind", ["non_parallel", "compound"])
def test_no_file_an_empty_object_and_null_are_no_output(tmp_path: Path, kind: str, do: list[Any]) -> None:
    result = run(tmp_path / "run", [step(kind, do, task={"output_types": {"ran": True}})], ["a"])
    assert result["images"] == [image("a", {"ran": True})]


NOT_OUTPUTS = {
    "an empty file": "",
    "blanks": " \n",
    "half an object": '{"image_list_updates": [{"zarr_url": "/data/zarr/n',
    "two objects": "{}{}",
    "words": "all went well",
    "python": "{'image_list_updates': []}",
    "a list": "[]",
    "a number": "1",
    "a string": '"x"',
    "true": "true",
    "an unknown key": '{"image_list_update": []}',
    "deeply nested": "[" * 100_000,
    "a byte order mark": "\ufeff{}",
    "half a surrogate pair": r'{"parallelization_list": [{"zarr_url": "/\ud800"}], "filters": "\ud800"}',
}


@pytest.mark.parametrize("what", NOT_OUTPUTS)
def test_what_is_no_output_is_a_job_error_that_shows_it(tmp_path: Path, what: str) -> None:
    message = _invalid(tmp_path / "run", [["raw", NOT_OUTPUTS[what]]], "compound")
    assert f"Original data: {NOT_OUTPUTS[what][:1000]}" in message


def test_what_is_no_output_of_an_init_is_none_of_a_task_either(tmp_path: Path) -> None:
    _all_invalid(tmp_path / "run", [["raw", text] for text in NOT_OUTPUTS.values()])


def test_bytes_that_are_no_text_are_a_job_error(tmp_path: Path) -> None:
    assert "Original data: " in _invalid(tmp_path / "run", [["raw_bytes", BYTES]])


WRONG_OUTPUTS: list[Json] = [
    {"parallelization_list": []},
    {"image_list_updates": None},
    {"image_list_updates": {}},
    {"image_list_updates": ["/data/zarr/new"]},
    {"image_list_updates": [{}]},
    {"image_list_removals": "/data/zarr/new"},
    {"image_list_removals": [None]},
    {"image_list_removals": [{"zarr_url": "/data/zarr/new"}]},
    {"filters": []},
    {"filters": {"images": {}}},
    {"filters": {"types": {"x": None}}},
    {"filters": {"types": {"x": 1}}},
    {"filters": {"attributes": {"x": [1]}}},
    _one_update(zarr_url=1),
    _one_update(zarr_url=None),
    _one_update(origin=1),
    _one_update(unknown=1),
    _one_update(attributes=None),
    _one_update(attributes=[]),
    _one_update(attributes={"x": []}),
    _one_update(attributes={"x": {}}),
    _one_update(types=None),
    _one_update(types={"x": 1}),
    _one_update(types={"x": "true"}),
    _one_update(types={"x": None}),
]


def test_unknown_keys_and_wrong_types_are_a_job_error(tmp_path: Path) -> None:
    _all_invalid(tmp_path / "run", [["output", value] for value in WRONG_OUTPUTS])


@pytest.mark.parametrize(
    "value",
    [
        {"image_list_updates": []},
        {"filters": {}},
        {"parallelization_list": None},
        {"parallelization_list": {}},
        {"parallelization_list": ["/data/zarr/a"]},
        {"parallelization_list": [{}]},
        {"parallelization_list": [{"zarr_url": 1}]},
        {"parallelization_list": [{"zarr_url": "a"}]},
        {"parallelization_list": [{"zarr_url": "/a/../b"}]},
        {"parallelization_list": [{"zarr_url": "/a", "args": {}}]},
        {"parallelization_list": [{"zarr_url": "/a", "init_args": []}]},
    ],
    ids=json.dumps,
)
def test_an_inits_unknown_keys_and_wrong_types_are_a_job_error(tmp_path: Path, value: Json) -> None:
    _invalid(tmp_path / "run", [["output", value]], "compound")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_a_job_error(tmp_path: Path, number: str) -> None:
    update = f'{{"image_list_updates": [{{"zarr_url": "/data/zarr/n", "attributes": {{"x": {number}}}}}]}}'
    _invalid(tmp_path / "update", [["raw", update]])
    item = f'{{"parallelization_list": [{{"zarr_url": "/a", "init_args": {{"x": {number}}}}}]}}'
    _invalid(tmp_path / "init", [["raw", item]], "compound")


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    changes = [{"zarr_url": "a"}, {"zarr_url": url("b"), "types": {"x": 1}, "size": 3}]
    message = _invalid(tmp_path / "run", [["output", {"image_list_updates": changes, "more": 1}]])
    for place in (
        "image_list_updates[0].zarr_url",
        "image_list_updates[1].types",
        "image_list_updates[1].size",
        "more",
    ):
        assert place in message


def test_the_error_says_which_unit_it_was(tmp_path: Path) -> None:
    message = _invalid(tmp_path / "run", {"b": [["raw", "?"]], "*": [["raw", "{}"]]}, "parallel")
    assert "Unit 0_par_0000001" in message
    assert str(tmp_path / "run" / "0_task" / "0_par_0000001.metadiff.json") in message


def test_attributes_are_scalars_and_come_back_as_they_were(tmp_path: Path) -> None:
    values = [1, -1, 0, 1.5, 2.0, 1e300, 2**70, True, False, "text", "", "日本\n\"'\0"]
    attributes: Json = {f"{number}": value for number, value in enumerate(values)}
    images = _run_output(tmp_path / "run", _one_update(attributes=attributes))
    assert images == saved(tmp_path / "run")["images"] == [image("new", **attributes)]
    assert [type(value) for value in images[0]["attributes"].values()] == [type(value) for value in values]


def test_none_in_an_update_removes_the_attribute(tmp_path: Path) -> None:
    update = {"zarr_url": url("a"), "attributes": {"x": None, "never there": None}}
    images = _run_output(tmp_path / "run", {"image_list_updates": [update]}, (image("a", x=1, y=2),))
    assert images == [image("a", y=2)]


URLS = [
    ("/data/zarr/a", "/data/zarr/a"),
    ("//data/zarr/a", "/data/zarr/a"),
    ("/data//zarr/./a/./", "/data/zarr/a"),
    ("///data/zarr/a///", "/data/zarr/a"),
    ("/./data/zarr/a/.", "/data/zarr/a"),
    ("/data/zarr/..a/b..", "/data/zarr/..a/b.."),
    ("/data/zarr/.hidden/a", "/data/zarr/.hidden/a"),
    ("/data/zarr/ a b /\n'\"?#%20*日", "/data/zarr/ a b /\n'\"?#%20*日"),
]


@pytest.mark.parametrize(("given", "stored"), URLS)
def test_urls_in_an_output_are_normalised(tmp_path: Path, given: str, stored: str) -> None:
    make = [["output", _one_update(zarr_url=given, origin=given)]]
    remove = [["output", {"image_list_removals": [given]}]]
    plan = [["output", {"parallelization_list": [{"zarr_url": given}]}]]
    result = run(tmp_path / "run", [non_parallel(make), step("compound", plan, remove)])
    assert arguments_of(tmp_path / "run", "1_task/1")["zarr_urls"] == [stored]
    assert arguments_of(tmp_path / "run", "1_task/1_par_0000000")["zarr_url"] == stored
    assert result["images"] == []


@pytest.mark.parametrize(("given", "stored"), URLS)
def test_urls_in_a_dataset_are_normalised(tmp_path: Path, given: str, stored: str) -> None:
    result = run(
        tmp_path / "run",
        [non_parallel()],
        dataset={"zarr_dir": given, "images": [image(given, origin=given)]},
    )
    assert result["images"] == [image(stored, origin=stored)]
    assert arguments_of(tmp_path / "run") == {"zarr_urls": [stored], "zarr_dir": stored, "do": []}


def test_s3_urls_lose_their_trailing_slashes(tmp_path: Path) -> None:
    made = {"image_list_updates": [{"zarr_url": "s3://bucket/zarr/a//", "origin": "s3://other/b/"}]}
    source = {"zarr_dir": "s3://bucket/zarr///", "images": [image("s3://other/b/", well="B03")]}
    result = run(tmp_path / "run", [non_parallel([["output", made]])], dataset=source)
    assert result["images"] == [
        image("s3://other/b", well="B03"),
        image("s3://bucket/zarr/a", origin="s3://other/b", well="B03"),
    ]
    assert arguments_of(tmp_path / "run")["zarr_dir"] == "s3://bucket/zarr"


BAD_URLS = ["", "a", "./a", "a/b", "~/a", "file:///a", "s3:/a", "S3://a/b", "http://a/b", " /a", "C:\\a"]


@pytest.mark.parametrize("place", ["zarr_url", "origin", "removal", "dataset"])
def test_other_urls_are_an_error(tmp_path: Path, place: str) -> None:
    if place == "dataset":
        with pytest.raises(InvalidInputError) as caught:
            run(tmp_path, [], dataset={"zarr_dir": "a", "images": [{"zarr_url": bad} for bad in BAD_URLS]})
        problems, what = str(caught.value), "images[{}].zarr_url"
        assert "zarr_dir: URLs must begin with '/' or 's3://'." in problems
    elif place == "removal":
        problems = _invalid(tmp_path / "run", [["output", {"image_list_removals": BAD_URLS}]])
        what = "image_list_removals[{}]"
    else:
        changes = [{"zarr_url": url("new"), place: bad} for bad in BAD_URLS]
        problems = _invalid(tmp_path / "run", [["output", {"image_list_updates": changes}]])
        what = f"image_list_updates[{{}}].{place}"
    for index, bad in enumerate(BAD_URLS):
        assert f"{what.format(index)}: URLs must begin with '/' or 's3://'. Got: {bad!r}" in problems


DOTS = ["/data/zarr/../a", "/..", "/data/zarr/a/..", "s3://bucket/../a", "/data/zarr/..//"]


def test_two_dots_as_a_component_of_a_url_are_an_error(tmp_path: Path) -> None:
    problems = _invalid(tmp_path / "run", [["output", {"image_list_removals": DOTS}]])
    assert all(f"image_list_removals[{index}]: " in problems for index in range(len(DOTS)))
    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "dataset", [non_parallel()], [{"zarr_url": bad} for bad in DOTS])
    assert all(f"images[{index}].zarr_url: " in str(caught.value) for index in range(len(DOTS)))


def test_two_spellings_of_one_image_in_a_dataset_are_an_error_that_shows_both(tmp_path: Path) -> None:
    images = [image("a", p=1), image("b"), {"zarr_url": "/data//zarr/a/", "attributes": {"p": 2}}]
    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "run", [non_parallel()], dataset={"zarr_dir": ZARR, "images": images})
    message = str(caught.value)
    assert "images[0]" in message and "images[2]" in message
    assert "{'p': 1}" in message and "{'p': 2}" in message


def test_repeated_parallelization_items_are_dropped_and_the_order_is_kept(tmp_path: Path) -> None:
    wanted = [("b", {}), ("a", {"x": 1}), ("b", {}), ("a", {"x": True}), ("a", {"x": 1.0}), ("a", {"x": "1"})]
    wanted += [
        ("a", {"x": [1, {"y": None}]}),
        ("/data//zarr/b/", {}),
        ("a", {"x": [1, {"y": None}]}),
        ("a", {}),
    ]
    items = [{"zarr_url": url(name), "init_args": init_args} for name, init_args in wanted]
    run(tmp_path / "run", [step("compound", [["output", {"parallelization_list": items}]])])
    count = len(list((tmp_path / "run" / "0_task").glob("*_par_*.args.json")))
    made = [arguments_of(tmp_path / "run", f"0_task/0_par_{index:07d}") for index in range(count)]
    assert [(names([unit])[0], unit["init_args"]) for unit in made] == [
        ("b", {}),
        ("a", {"x": 1}),
        ("a", {"x": True}),
        ("a", {"x": "1"}),
        ("a", {"x": [1, {"y": None}]}),
        ("a", {}),
    ]


def test_the_output_of_a_unit_that_failed_does_not_count(tmp_path: Path) -> None:
    do = [updates({"zarr_url": "new"}), removals("a"), ["exit_with", 1]]
    with pytest.raises(TaskExecutionError):
        run(tmp_path / "run", [non_parallel([updates({"zarr_url": "new"}), ["exit_with", 1]])], ["a"])
    with pytest.raises(TaskExecutionError):
        run(tmp_path / "removal", [non_parallel(do[1:])], ["a"])
    for name in ("run", "removal"):
        assert saved(tmp_path / name)["images"] == [image("a")]


def test_a_hundred_megabytes_that_are_not_json_are_a_short_error(tmp_path: Path) -> None:
    message = _invalid(tmp_path / "run", [["fill_output", "{", 100]])
    assert len(message) < 10_000
    assert "Original data: {xxx" in message
    assert (tmp_path / "run" / "workflow.log").stat().st_size < 50_000


def test_an_output_with_many_mistakes_is_a_short_error(tmp_path: Path) -> None:
    wrong = [{"zarr_url": "x" * 1000, "types": {"t": 1}}] * 10_000
    assert len(_invalid(tmp_path / "run", [["output", {"image_list_updates": wrong}]])) < 20_000


def test_a_folder_in_place_of_the_output_is_a_job_error(tmp_path: Path) -> None:
    assert "It is not a regular file" in _invalid(tmp_path / "run", [["output_file_is", "folder"]])


@pytest.mark.parametrize("what", ["fifo", "endless"])
def test_what_is_no_regular_file_in_place_of_the_output_is_a_job_error(tmp_path: Path, what: str) -> None:
    """Reading it would wait for ever, or never end."""
    assert "It is not a regular file" in _invalid(tmp_path / "run", [["output_file_is", what]])


def test_an_output_that_no_memory_could_hold_is_a_job_error(tmp_path: Path) -> None:
    problem = "It has 68,719,476,736 bytes, more than 1,073,741,824"
    assert problem in _invalid(tmp_path / "run", [["output_file_is", "huge"]])


def test_an_output_takes_the_memory_of_its_size(tmp_path: Path) -> None:
    """Where the runner may have little, as on many login nodes."""
    (size,) = re.findall(r"^VmSize:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((int(size) << 10) + (800 << 20), before[1]))
    try:
        run(tmp_path / "run", [parallel([updates({"zarr_url": "new"})])], ["a"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert names(saved(tmp_path / "run")["images"]) == ["a", "new"]


def test_other_units_outputs_count_when_one_is_not_valid(tmp_path: Path) -> None:
    do = {"b": [["raw", "{"]], "*": [updates({"zarr_url": "new"})]}
    with pytest.raises(JobExecutionError, match="Validation of task output failed"):
        run(tmp_path / "run", [parallel(do)], ["a", "b", "c"])
    assert names(saved(tmp_path / "run")["images"]) == ["a", "b", "c", "new"]


def test_a_compute_unit_has_the_output_of_a_task(tmp_path: Path) -> None:
    with pytest.raises(
        JobExecutionError, match=r"^Validation of task output failed\.(.|\n)*Unit 0_par_0000001"
    ):
        run(
            tmp_path / "run",
            [compound(["a", "b"], {"b": [["raw", '{"parallelization_list": []}']], "*": []})],
        )
