"""Errors: outputs that cannot be used, and outputs that must not be."""

from __future__ import annotations

import json

import pytest

from ..expectations import Ended, Subject, must, must_equal, requirement
from ..traces import must_not_have_run
from ..workflows import (
    ZARR,
    Json,
    Steps,
    compound,
    image,
    non_parallel,
    parallel,
    removals,
    step,
    updates,
    url,
)


def _update_of_a(**fields: object) -> str:
    return json.dumps({"image_list_updates": [{"zarr_url": url("a"), **fields}]})


_INVALID = {
    "no JSON": "Done!",
    "an empty file": "",
    "JSON and more": "{} {}",
    "cut off": '{"image_list_updates": [{"zarr_ur',
    "a list": "[]",
    "a text": '"done"',
    "an unknown key": '{"image_list_updates": [], "images": []}',
    "an init's output": '{"parallelization_list": []}',
    "no list": '{"image_list_updates": {}}',
    "an update that is a URL": json.dumps({"image_list_updates": [url("a")]}),
    "an update without URL": '{"image_list_updates": [{"attributes": {}}]}',
    "an unknown key in an update": _update_of_a(path="/x"),
    "a list as an attribute": _update_of_a(attributes={"wells": ["A01"]}),
    "a number as a type": _update_of_a(types={"raw": 1}),
    "a relative URL": json.dumps({"image_list_removals": ["relative/a"]}),
    "a URL with ..": json.dumps({"image_list_updates": [{"zarr_url": f"{ZARR}/x/../a"}]}),
    "filters that are a list": '{"filters": []}',
}


@requirement("ERR-013")
def test_invalid_outputs(subject: Subject) -> None:
    """Runs units that exit with 0 and leave invalid outputs, each its own kind, and one that is right."""
    do: dict[str, Steps] = {f"image-{i}": [["raw", text]] for i, text in enumerate(_INVALID.values())}
    do["good"] = [updates({"zarr_url": "good", "attributes": {"seen": 1}})]
    ended = subject.run([parallel(do)], [*do])
    failure = ended.failure.must_be("JobExecutionError")
    for place, (case, text) in enumerate(_INVALID.items()):
        label = f"0_par_{place:07d}"
        must(
            label in failure.message, f"unit {label} to fail, whose output is {case}: {text}", failure.message
        )
    must_equal(ended.images[-1], image("good", seen=1), "the image of the unit whose output is valid")


def _in_part(part: str, do: Steps) -> Json:
    return compound(["a"], do) if part == "compute" else step(part, do)


@requirement("ERR-013")
@pytest.mark.parametrize("part", ["non_parallel", "parallel", "compute"])
def test_what_is_told_of_an_invalid_output(subject: Subject, part: str) -> None:
    """Runs a unit that leaves an output with an unknown key."""
    text = '{"image_list_changes": ["some data"]}'
    ended = subject.run([_in_part(part, [["raw", text]])], ["a"], what=part)
    label = "unit 0" if part == "non_parallel" else "0_par_0000000"
    told = ("Validation of task output failed.", "Original error:", "Original data:", text)
    message = ended.failure.must_be("JobExecutionError", *told).message
    must(label in message.lower(), f"the message to name the unit ({label})", message)


_NO_INIT_OUTPUT = {
    "no JSON": "Done!",
    "a list": json.dumps([{"zarr_url": url("a")}]),
    "an output of a task": '{"image_list_updates": []}',
    "a list of URLs": json.dumps({"parallelization_list": [url("a")]}),
    "an item without URL": '{"parallelization_list": [{"init_args": {}}]}',
    "an unknown key in an item": json.dumps({"parallelization_list": [{"zarr_url": url("a"), "args": {}}]}),
    "init_args that are a list": json.dumps(
        {"parallelization_list": [{"zarr_url": url("a"), "init_args": []}]}
    ),
    "a relative URL": '{"parallelization_list": [{"zarr_url": "a"}]}',
}


@requirement("ERR-014")
def test_invalid_outputs_of_an_init(subject: Subject) -> None:
    """Runs compound tasks whose init exits with 0 and leaves an output that is none, each in its way."""
    ran = subject.folder / "ran"
    for case, text in _NO_INIT_OUTPUT.items():
        task = step("compound", [["raw", text]], [["touch", str(ran)]])
        subject.start([task], ["a"], what=f"the init's output is {case}: {text}")
    for run, text in zip(subject.runs, _NO_INIT_OUTPUT.values(), strict=True):
        parts = ("Validation of init-task output failed.", "Original error:", "Original data:", text)
        run.wait().failure.must_be("JobExecutionError", *parts)
    must_not_have_run(ran, "any compute unit")


_OUTSIDE = "Cannot create image if zarr_url is not a subfolder of zarr_dir."
_TWICE = "has non-unique zarr_urls"
_UNKNOWN = "Cannot remove missing image"
_UPDATE_OF_A = {"zarr_url": "a", "attributes": {"seen": 1}}
_BAD_LISTS: dict[str, tuple[str, Steps]] = {
    "a new image elsewhere": (_OUTSIDE, [updates(_UPDATE_OF_A, {"zarr_url": "/elsewhere/new"})]),
    "a new image beside zarr_dir": (_OUTSIDE, [updates(_UPDATE_OF_A, {"zarr_url": f"{ZARR}-2/new"})]),
    "zarr_dir as a new image": (_OUTSIDE, [updates(_UPDATE_OF_A, {"zarr_url": f"{ZARR}/"})]),
    "two updates of one image": (_TWICE, [updates(_UPDATE_OF_A, {"zarr_url": f"{ZARR}//a"})]),
    "an update and a removal of one image": (_TWICE, [updates(_UPDATE_OF_A, image_list_removals=[url("a")])]),
    "a removal of an unknown image": (
        _UNKNOWN,
        [updates(_UPDATE_OF_A, image_list_removals=[url("b"), url("c")])],
    ),
}


def _must_be_as_before(ended: Ended) -> None:
    must_equal(ended.images, [image("a"), image("b")], "the images in images.json")
    must_equal(ended.saved["filters"], {"types": {}, "attributes": {}}, "the filters in filters.json")


@requirement("ERR-015")
@pytest.mark.parametrize("case", _BAD_LISTS)
def test_bad_lists(subject: Subject, case: str) -> None:
    """Runs a unit whose output updates an image, and says something that cannot be."""
    message, do = _BAD_LISTS[case]
    ended = subject.run([non_parallel(do, task={"output_types": {"done": True}})], ["a", "b"], what=case)
    ended.failure.must_be("JobExecutionError", message)
    _must_be_as_before(ended)


@requirement("ERR-015")
def test_units_that_do_not_agree(subject: Subject) -> None:
    """Runs two units that give different attributes to one image."""
    do: dict[str, Steps] = {
        "a": [updates(_UPDATE_OF_A)],
        "b": [updates({"zarr_url": "a", "attributes": {"seen": True}})],
    }
    ended = subject.run([parallel(do)], ["a", "b"])
    ended.failure.must_be("JobExecutionError", _TWICE, url("a"))
    _must_be_as_before(ended)


@requirement("ERR-015")
def test_a_bad_list_and_a_failure(subject: Subject) -> None:
    """Runs three units: one fails, one updates an image, one removes an image that is unknown."""
    do: dict[str, Steps] = {"a": [updates(_UPDATE_OF_A)], "b": [["exit_with", 1]], "c": [removals("unknown")]}
    ended = subject.run([parallel(do)], ["a", "b", "c"])
    ended.failure.must_be("TaskExecutionError", _UNKNOWN)
    must_equal(ended.images, [image("a"), image("b"), image("c")], "the images in images.json")


_ENDS = pytest.mark.parametrize("end", [["exit_with", 1], ["kill_self", 15]], ids=["exit code", "signal"])


@requirement("ERR-017")
@_ENDS
def test_outputs_of_failures(subject: Subject, end: list[object]) -> None:
    """Runs a unit that writes a valid output and then fails, and one that succeeds."""
    do: dict[str, Steps] = {
        "a": [updates(_UPDATE_OF_A, {"zarr_url": "new"}), end],
        "b": [updates({"zarr_url": "b"})],
    }
    ended = subject.run([parallel(do, task={"output_types": {"done": True}})], ["a", "b"])
    ended.must_fail()
    must_equal(ended.images, [image("a"), image("b", {"done": True})], "the images in images.json")


@requirement("ERR-017")
@_ENDS
def test_outputs_of_failed_inits(subject: Subject, end: list[object]) -> None:
    """Runs a compound task whose init writes a valid list and then fails."""
    ran = subject.folder / "ran"
    ended = subject.run([compound(["a"], [["touch", str(ran)]], [end])], ["a"])
    ended.must_fail()
    must_not_have_run(ran, "any compute unit")
