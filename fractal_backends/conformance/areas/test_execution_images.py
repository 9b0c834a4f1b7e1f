"""Execution: what becomes of the image list."""

from __future__ import annotations

import pytest

from ..expectations import Subject, must_equal, requirement
from ..workflows import Json, image, non_parallel, parallel, updates, url

_A = image("a", {"t": True, "s": False}, "raw", size=1, plate="a")
_B = image("b", {"s": True}, size=2)

_CASES: dict[str, tuple[list[Json], list[str], list[Json]]] = {
    "updates of known images": (
        [
            {"zarr_url": "a", "attributes": {"size": 3, "plate": None, "no": None}, "types": {"t": False}},
            {"zarr_url": "b", "origin": "b", "attributes": {"new": True}},
        ],
        [],
        [
            image("a", {"t": False, "s": False, "done": True}, "raw", size=3),
            image("b", {"s": True, "done": True}, size=2, new=True),
        ],
    ),
    "a known image built anew from another one": (
        [{"zarr_url": "a", "origin": "b", "attributes": {"new": 1}}],
        [],
        [image("a", {"s": True, "done": True}, "b", size=2, new=1), _B],
    ),
    "a known image built anew from an unknown one": (
        [{"zarr_url": "a", "origin": "x", "types": {"u": True}}],
        [],
        [image("a", {"u": True, "done": True}, "x"), _B],
    ),
    "new images": (
        [
            {"zarr_url": "c", "origin": "a", "attributes": {"size": None, "new": 1}, "types": {"t": False}},
            {"zarr_url": "d", "origin": "x", "attributes": {"new": None}},
            {"zarr_url": "e"},
        ],
        [],
        [
            _A,
            _B,
            image("c", {"t": False, "s": False, "done": True}, "a", plate="a", new=1),
            image("d", {"done": True}, "x"),
            image("e", {"done": True}),
        ],
    ),
    "an image whose origin was updated just before": (
        [
            {"zarr_url": "b", "attributes": {"size": 5}, "types": {"u": True}},
            {"zarr_url": "c", "origin": "b"},
        ],
        [],
        [
            _A,
            image("b", {"s": True, "u": True, "done": True}, size=5),
            image("c", {"s": True, "u": True, "done": True}, "b", size=5),
        ],
    ),
    "an image whose origin is removed": (
        [{"zarr_url": "c", "origin": "a"}],
        ["a"],
        [_B, image("c", {"t": True, "s": False, "done": True}, "a", size=1, plate="a")],
    ),
    "a removal alone": ([], ["a"], [_B]),
}


@requirement("EXEC-019")
@pytest.mark.parametrize("case", _CASES)
def test_the_image_list(subject: Subject, case: str) -> None:
    """Runs a task with `output_types` on two images, `a` (made from `raw`) and `b`, whose output has updates
    and removals."""
    changes, removed, expected = _CASES[case]
    output = updates(*changes, image_list_removals=[url(name) for name in removed])
    task = non_parallel([output], task={"output_types": {"done": True}})
    must_equal(subject.run([task], [_A, _B], what=case).result["images"], expected, "the images")


@requirement("EXEC-019")
def test_units_that_say_the_same(subject: Subject) -> None:
    """Runs two units whose outputs are the same: an image is updated, another one removed."""
    output = updates({"zarr_url": "b", "attributes": {"size": 5}}, image_list_removals=[url("a")])
    ended = subject.run([parallel([output])], [_A, _B])
    must_equal(ended.result["images"], [image("b", {"s": True}, size=5)], "the images")
