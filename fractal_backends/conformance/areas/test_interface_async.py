"""Interface: the event loop, and cancelling."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ..expectations import Run, Subject, must, must_equal, not_judged, requirement, violation
from ..workflows import (
    PARTS,
    Json,
    StepsByImage,
    compound,
    image,
    in_part,
    names,
    non_parallel,
    parallel,
    updates,
)

_GAP_S = 0.5
_TRIES = 3
"""A machine that is busy may hold anything for a moment; a backend that does, does it each time."""


@requirement("IFACE-005")
def test_the_event_loop_is_free(subject: Subject) -> None:
    """Runs a task whose one unit takes 0.8 s, and one of fifty units, beside a coroutine that ticks.

    Where that is held, it is done again in a new process, up to three times.
    """
    tasks = [parallel({"a": [["sleep", 0.8]], "*": []}, type_filters={"slow": True}), parallel()]
    images = [{"zarr_url": "/data/zarr/a", "types": {"slow": True}}, *(f"image-{i}" for i in range(50))]
    gaps: list[float] = []
    while not gaps or (gaps[-1] >= _GAP_S and len(gaps) < _TRIES):
        runner = subject.new_runner() if gaps else None
        ended = subject.run(tasks, images, dataset=None, runner=runner)
        ended.must_succeed()
        gaps.append(ended.answer["loop_gap_s"])
    told = " and ".join(f"{gap:.2f}" for gap in gaps)
    expected = f"the event loop to be held for less than {_GAP_S} s"
    must(gaps[-1] < _GAP_S, expected, f"it was held for {told} s")


def _cancelled(run: Run) -> None:
    """Cancel a run; CancelledError has to come out."""
    run.cancel()
    run.wait().failure.must_be("CancelledError")


@requirement("IFACE-006")
@pytest.mark.parametrize(
    ("part", "way"), [*zip(PARTS, ("session", "stubborn", "double_fork", "no_environment"), strict=True)]
)
def test_cancel(subject: Subject, part: str, way: str) -> None:
    """Cancels a run while a unit hangs that has a stubborn child, or one that left its group or session."""
    lock, here = subject.folder / "lock", subject.folder / "here"
    do = [["alive", str(lock)], [way, str(subject.folder / "child")], ["touch", str(here)], ["hang"]]
    run = subject.start([in_part(part, do)], ["a"], what=f"{part}, {way}")
    subject.wait_for(here)
    _cancelled(run)
    subject.must_be_dead(lock, "when CancelledError came out")


@requirement("IFACE-007")
@pytest.mark.parametrize("part", ["parallel", "compute"])
def test_cancel_keeps_what_ended(subject: Subject, part: str) -> None:
    """Cancels a run of two tasks when of the second one a unit has ended and another hangs."""
    if not subject.declared.takes_units:
        not_judged("the backend has no observers to tell when it knows of a unit's end")
    ended, here = subject.folder / "ended", subject.folder / "here"
    change = updates({"zarr_url": "new", "origin": "a", "attributes": {"from": "a"}})
    do: StepsByImage = {"a": [change, ["touch", str(ended)]], "b": [["touch", str(here)], ["hang"]]}
    second = parallel(do) if part == "parallel" else compound(["a", "b"], do)
    run = subject.start([parallel(), second], ["a", "b"], observe=True, **subject.room_for(2))
    subject.wait_for(here)
    subject.wait_for(ended)
    _wait_for_end(subject, run, "1_par_0000000")
    _cancelled(run)
    must_equal(names(run.wait().images), ["a", "b", "new"], "the images in images.json")
    must_equal(run.wait().statuses, ["done", "failed"], "the statuses in the history")


@requirement("IFACE-007")
@pytest.mark.parametrize("part", PARTS)
def test_cancel_keeps_tasks(subject: Subject, part: str) -> None:
    """Cancels a run of two tasks when a unit of the second one has written an output, and hangs."""
    here = subject.folder / "here"
    first = parallel([updates({"zarr_url": "new"})], task={"output_types": {"first": True}})
    do = [updates({"zarr_url": "wrong"}), ["touch", str(here)], ["hang"]]
    run = subject.start([first, in_part(part, do, task={"output_types": {"second": True}})], ["a"])
    subject.wait_for(here)
    _cancelled(run)
    must_equal(run.wait().images, [image("a"), image("new", {"first": True})], "the images in images.json")
    filters = {"types": {"first": True}, "attributes": {}}
    must_equal(run.wait().saved["filters"], filters, "the filters in filters.json")
    must_equal(run.wait().statuses, ["done", "failed"], "the statuses in the history")


def _wait_for_end(subject: Subject, run: Run, label: str) -> None:
    """Until the backend has told that a unit ended: what it does not know yet it cannot keep."""

    def told() -> bool:
        return any(event["label"] == label and event["state"] == "ended" for event in run.events)

    subject.eventually(told, f"observers to be told that unit {label} ended", "they were not")


@requirement("IFACE-008")
@pytest.mark.parametrize("part", PARTS)
def test_cancel_starts_nothing(subject: Subject, part: str) -> None:
    """Cancels a run of two tasks on sixty images when the first units hang; each start leaves a line."""
    trace, lock = subject.folder / "trace", subject.folder / "lock"
    do = [["alive", str(lock)], ["append", str(trace), "started"], ["hang"]]
    images = [f"image-{i}" for i in range(60)]
    first = {
        "non_parallel": non_parallel(do),
        "parallel": parallel(do),
        "init": compound(images, do, do),
        "compute": compound(images, do),
    }
    run = subject.start([first[part], parallel(do)], images, what=f"{part}; then a parallel task")
    subject.wait_for(trace)
    _cancelled(run)
    lines = _lines(trace)
    subject.must_be_dead(lock, "when CancelledError came out")
    must_equal(subject.run([parallel()], ["a"]).statuses, ["done"], "another run's statuses")
    must_equal(_lines(trace), lines, "the number of units that had started")


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@requirement("IFACE-009")
@pytest.mark.parametrize("parts", [("parallel", "non_parallel"), ("init", "compute")], ids=" and ".join)
def test_cancel_twice(subject: Subject, parts: tuple[str, str]) -> None:
    """Cancels two runs again and again while a unit of each hangs that ignores SIGTERM."""
    locks = {part: subject.folder / f"{part}-lock" for part in parts}
    here = {part: subject.folder / f"{part}-here" for part in parts}
    runs = []
    for part in parts:
        do = [["alive", str(locks[part])], ["ignore_term"], ["touch", str(here[part])], ["hang"]]
        runs.append(subject.start([in_part(part, do)], ["a"], what=part, **subject.room_for(1)))
    for part in parts:
        subject.wait_for(here[part])
    for _ in range(3):
        for run in runs:
            run.cancel()
        time.sleep(0.1)  # so that the next one comes while this one is under way
    for run, part in zip(runs, parts, strict=True):
        _cancelled(run)
        subject.must_be_dead(locks[part], "when CancelledError came out")
        if not (run.folder / "history.json").exists():
            violation("the history to be there", f"there is no history.json in {run.folder}")


_SERVER, _THREAD = "on the server's event loop", "on an event loop of their own, in a thread,"


@requirement("IFACE-017")
@pytest.mark.parametrize(
    "loops", [(_SERVER, _THREAD, _SERVER), (_THREAD, _SERVER, _THREAD)], ids=["server", "thread"]
)
def test_event_loops(subject: Subject, loops: tuple[str, ...]) -> None:
    """Runs a workflow on one backend object, twice at a time: on the server's event loop, and on one that is
    there for these runs alone, in a thread."""
    task = parallel([updates({"zarr_url": "new"})], task={"output_types": {"seen": True}})
    for loop in loops:
        request: Json = {"object": "shared", "what": loop, **({"together": 2} if loop == _THREAD else {})}
        for run in [subject.start([task], ["a", "b"], **request) for _ in range(2)]:
            expected = [image("a"), image("b"), image("new", {"seen": True})]
            must_equal(run.wait().result["images"], expected, f"the images of {run.name}, {loop}")
