"""Isolation: runs at the same time, and one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..expectations import Ended, Run, Subject, must_equal, not_judged, requirement, violation
from ..traces import Gate
from ..workflows import PARTS, Json, Steps, image, in_part, non_parallel, parallel, updates

_NONE: Json = {"attributes": {}, "types": {}}


@requirement("ISO-001")
def test_one_object(subject: Subject) -> None:
    """Runs two workflows on one backend object, whose units meet; the images, filters and outputs differ."""
    meeting = [_meeting(subject, f"meeting {task}") for task in range(2)]
    first = [
        parallel([meeting[0], updates({"zarr_url": "new", "origin": "a"})]),
        non_parallel([meeting[1]], task={"name": "other", "output_types": {"left": True}}),
    ]
    second = [
        non_parallel([meeting[0], ["output", {"image_list_removals": ["/data/zarr/y"]}]]),
        parallel([meeting[1]], task={"name": "another", "output_types": {"right": True}}),
    ]
    room = {**subject.room_for(2), "object": "shared"}
    filters = {**_NONE, "attributes": {"well": "A"}}
    one = subject.start(first, [image("a", well="A"), image("b", well="B")], filters=filters, **room)
    filters = {**_NONE, "types": {"raw": True}}
    two = subject.start(second, [image("x", {"raw": True}), image("y")], filters=filters, **room)
    images = [
        image("a", {"left": True}, well="A"),
        image("b", well="B"),
        image("new", {"left": True}, origin="a", well="A"),
    ]
    filters = {"attributes": {"well": "A"}, "types": {"left": True}}
    _must_have_given(one.wait(), images, filters, tasks=2)
    images = [image("x", {"raw": True, "right": True})]
    filters = {**_NONE, "types": {"raw": True, "right": True}}
    _must_have_given(two.wait(), images, filters, tasks=2)


def _meeting(subject: Subject, name: str) -> list[Any]:
    """A step that ends when two units do it at the same time."""
    folder = subject.folder / name
    folder.mkdir()
    return ["gather", str(folder), 2]


def _must_have_given(ended: Ended, images: list[Json], filters: Json, tasks: int) -> None:
    """What a run has to have returned and saved."""
    for what, found in (("result", ended.result), ("state files", ended.saved)):
        must_equal(found["images"], images, f"the images in the {what} of {ended.folder.name}")
        must_equal(found["filters"], filters, f"the filters in the {what} of {ended.folder.name}")
        statuses = [entry.get("status") for entry in found["history"]]
        must_equal(statuses, ["done"] * tasks, f"the history's statuses in the {what} of {ended.folder.name}")


@requirement("ISO-002")
def test_two_objects(subject: Subject) -> None:
    """Runs a workflow of two tasks on each of two backend objects; their units meet."""
    meeting = _meeting(subject, "meeting")
    runs = [
        subject.start(
            [parallel([meeting, updates({"zarr_url": f"{name}/new"})]), parallel()], [name], object=name
        )
        for name in ("one", "two")
    ]
    for name, run in zip(("one", "two"), runs, strict=True):
        _must_have_given(run.wait(), [image(name), image(f"{name}/new")], _NONE, tasks=2)


@requirement("ISO-002")
def test_two_objects_with_options(subject: Subject) -> None:
    """Runs units with a concurrency limit of 1, while units of another object with one of 2 are under way."""
    if not subject.room_for(1):
        not_judged("the capability concurrency_limit is not declared")
    trace, gate = subject.folder / "trace", Gate(subject)
    subject.run([parallel()], ["a"], object="narrow", **subject.room_for(1)).must_succeed()
    wide = {name: gate.steps(name) for name in "ab"}
    two = subject.start([parallel(wide)], ["a", "b"], object="wide", **subject.room_for(2))
    gate.must_come("a", "b")
    do: Steps = [["append", str(trace), "start"], ["sleep", 0.2], ["append", str(trace), "end"]]
    subject.run([parallel(do)], ["a", "b"], object="narrow", what="limit: 1").must_succeed()
    gate.let("a", "b")
    two.wait().must_succeed()
    expected = ["start", "end", "start", "end"]
    must_equal(
        trace.read_text().split(), expected, "what the units with the limit of 1 wrote down, in order,"
    )


def _waiting_run(
    subject: Subject, gate: Gate, name: str, part: str = "parallel", **request: Any
) -> tuple[Run, Path]:
    """A run whose first task waits, and whose second one makes an image; and a lock that its unit holds."""
    lock = subject.folder / f"{name}-lock"
    waits = in_part(part, [["alive", str(lock)], *gate.steps(name)])
    tasks = [waits, parallel([updates({"zarr_url": "new"})])]
    run = subject.start(tasks, ["a"], object="shared", **request)
    gate.must_come(name)
    return run, lock


@requirement("ISO-003")
@pytest.mark.parametrize("part", PARTS)
def test_a_failure(subject: Subject, part: str) -> None:
    """Runs, while a unit of another run of the same backend object waits, units that exit with 3, that are
    killed, and that write an output that is none."""
    gate = Gate(subject)
    other, _ = _waiting_run(subject, gate, "the other run's unit", part)
    for last, error in (
        (["exit_with", 3], "TaskExecutionError"),
        (["kill_self", 9], "JobExecutionError"),
        (["output", [1]], "JobExecutionError"),
    ):
        what = f"{part}, {last[0]} {last[1]}"
        failed = subject.run([in_part(part, [last])], ["a"], object="shared", what=what)
        failed.failure.must_be(error)
    _must_go_on(gate, "the other run's unit", other)


def _must_go_on(gate: Gate, name: str, run: Run) -> None:
    """A waiting run has to end well once its unit is let through."""
    if run.is_over:
        violation("the other run to be under way", f"it is over: {run.wait().summary}")
    gate.let(name)
    run.wait().must_succeed()
    must_equal(run.wait().images, [image("a"), image("new")], "the images of the other run")


@requirement("ISO-004")
@pytest.mark.parametrize("part", PARTS)
def test_a_cancel(subject: Subject, part: str) -> None:
    """Cancels one of two runs of a backend object while units of both wait; then lets the other one go on."""
    gate = Gate(subject)
    other, _ = _waiting_run(subject, gate, "the other run's unit", part)
    cancelled, lock = _waiting_run(subject, gate, "the unit", part)
    cancelled.cancel()
    cancelled.wait().failure.must_be("CancelledError")
    subject.must_be_dead(lock, "when the run was cancelled")
    _must_go_on(gate, "the other run's unit", other)


@requirement("ISO-005")
def test_again(subject: Subject) -> None:
    """Runs a workflow on one backend object after a success, a failure and a cancel of others."""
    gate = Gate(subject)
    subject.run([parallel([updates({"zarr_url": "new"})])], ["z"], object="shared").must_succeed()
    _again(subject, "a success")
    subject.run([parallel([["exit_with", 3]])], ["z"], object="shared").failure.must_be("TaskExecutionError")
    _again(subject, "a failure")
    cancelled, _ = _waiting_run(subject, gate, "the unit", filters={**_NONE, "types": {"z": False}})
    cancelled.cancel()
    cancelled.wait().failure.must_be("CancelledError")
    _again(subject, "a cancel")


def _again(subject: Subject, after: str) -> None:
    tasks = [parallel([updates({"zarr_url": "new"})], task={"output_types": {"seen": True}})]
    ended = subject.run(tasks, ["a"], object="shared", what=f"after {after}")
    images = [image("a"), image("new", {"seen": True})]
    _must_have_given(ended, images, {**_NONE, "types": {"seen": True}}, tasks=1)


@requirement("ISO-006")
def test_spoilt_results(subject: Subject) -> None:
    """Runs a workflow twice on one backend object and once on another; the caller spoils the first result."""
    tasks = [parallel([updates({"zarr_url": "new"})])]
    for what, request in (
        ("first", {"object": "shared", "spoil": True}),
        ("second", {"object": "shared"}),
        ("new", {}),
    ):
        ended = subject.run(tasks, [image("a", {"raw": True}, well="A")], what=f"the {what} one", **request)
        images = [image("a", {"raw": True}, well="A"), image("new")]
        _must_have_given(ended, images, _NONE, tasks=1)


@requirement("ISO-007")
def test_logs(subject: Subject) -> None:
    """Runs one workflow twice at the same time on one backend object; its units meet, and print where their
    files are."""
    task = parallel([_meeting(subject, "meeting"), ["print_args_file"]])
    runs = [subject.start([task], ["a"], **subject.room_for(2), object="shared") for _ in range(2)]
    for run in runs:
        run.wait().must_succeed()
        stem = run.folder / "0_task/0_par_0000000"
        log = Path(f"{stem}.log")
        text = log.read_text() if log.exists() else "no log"
        must_equal(text, f"{stem}.args.json", f"the log of unit {stem.name} of {run.folder.name}")
