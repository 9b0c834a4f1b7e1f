"""Errors: what becomes of the other units, of the tasks after, and of images, filters and history."""

from __future__ import annotations

import re

import pytest

from ..expectations import Ended, Subject, must, must_contain, must_equal, requirement
from ..traces import QUIET_S, Gate, must_not_have_run, recorded, stays
from ..workflows import (
    Json,
    Steps,
    compound,
    image,
    names,
    non_parallel,
    parallel,
    removals,
    updates,
)


def _changed(name: str, **more: object) -> list[object]:
    """The step that says that an image was updated."""
    return updates({"zarr_url": name, "attributes": {"seen": 1}}, **more)


@requirement("ERR-005")
def test_siblings_go_on(subject: Subject) -> None:
    """Runs five units: the first one fails while the second one is under way, the others come after."""
    gate, lock, trace = Gate(subject), subject.folder / "lock", subject.folder / "trace"
    note = ["record", str(trace)]
    do: dict[str, Steps] = {
        "a": [["alive", str(lock)], note, ["exit_with", 1]],
        "b": [*gate.steps("the second unit"), note],
        "*": [note],
    }
    run = subject.start([parallel(do)], ["a", "b", "c", "d", "e"], **subject.room_for(2))
    gate.must_come("the second unit")
    subject.wait_for(lock)
    stays(lambda: not run.is_over, QUIET_S, "the run to go on while a unit does", "the run ended")
    gate.let("the second unit")
    run.wait().failure.must_be("TaskExecutionError")
    must_equal(names(recorded(trace)), ["a", "b", "c", "d", "e"], "the images whose units ran to their end")


@requirement("ERR-006")
def test_successes_of_a_parallel_task(subject: Subject) -> None:
    """Runs four units: one updates its image, one makes an image, one removes its own, and one fails."""
    do = {
        "a": [_changed("a")],
        "b": [["exit_with", 1]],
        "c": [updates({"zarr_url": "new", "origin": "c"})],
        "d": [removals("d")],
    }
    task = parallel(do, task={"output_types": {"done": True}})
    ended = subject.run([task], ["a", "b", "c", "d"])
    ended.failure.must_be("TaskExecutionError")
    done = {"done": True}
    expected = [image("a", done, seen=1), image("b"), image("c"), image("new", done, origin="c")]
    must_equal(ended.images, expected, "the images in images.json")


@requirement("ERR-006")
def test_successes_of_a_compound_task(subject: Subject) -> None:
    """Runs a compound task of which one compute unit is killed, and the other updates an image."""
    do: dict[str, Steps] = {"a": [["kill_self", 9]], "b": [_changed("b")]}
    task = compound(["a", "b"], do, task={"output_types": {"done": True}})
    ended = subject.run([task], ["a", "b"])
    ended.failure.must_be("JobExecutionError")
    must_equal(ended.images, [image("a"), image("b", {"done": True}, seen=1)], "the images in images.json")


@requirement("ERR-006")
def test_successes_without_outputs(subject: Subject) -> None:
    """Runs a parallel and a compound task of three units each, all without outputs; one of each fails."""
    do: dict[str, Steps] = {"b": [["exit_with", 1]], "*": []}
    fields: Json = {"task": {"output_types": {"done": True}}}
    runs = [
        subject.start([task], ["a", "b", "c"])
        for task in (parallel(do, **fields), compound(["a", "b", "c"], do, **fields))
    ]
    done = {"done": True}
    for run, expected in zip(
        runs,
        ([image("a", done), image("b"), image("c", done)], [image("a"), image("b"), image("c")]),
        strict=True,
    ):
        run.wait().failure.must_be("TaskExecutionError")
        must_equal(run.wait().images, expected, f"the images in {run.folder / 'images.json'}")


@requirement("ERR-007")
def test_the_first_failure(subject: Subject) -> None:
    """Runs four units: the second one fails when the third has been killed, and the fourth one fails too."""
    lock, here = subject.folder / "lock", subject.folder / "here"
    do: dict[str, Steps] = {
        "a": [],
        "b": [["wait", str(here)], ["outlive", str(lock)], ["sleep", 0.1], ["exit_with", 91]],
        "c": [["alive", str(lock)], ["touch", str(here)], ["kill_self", 9]],
        "d": [["exit_with", 92]],
    }
    ended = subject.run([parallel(do)], ["a", "b", "c", "d"], **subject.room_for(2))
    message = ended.failure.must_be("TaskExecutionError", "91").message.replace(str(ended.folder), "…")
    must(re.search(r"\b3\b", message) is not None, "the message to name the number of failures, 3", message)
    for label in ("0_par_0000001", "0_par_0000002", "0_par_0000003"):
        must_contain(message, label, "the message, which names each unit that failed,")
    must("0_par_0000000" not in message, "the message not to name the unit that succeeded", message)


def _must_tell(ended: Ended, *statuses: str) -> None:
    """The history has to say this of each task."""
    must_equal(ended.statuses, list(statuses), "the statuses in history.json")


_FAILING: dict[str, Json] = {
    "exit code": parallel({"a": [["exit_with", 1]], "b": []}),
    "signal": non_parallel([["kill_self", 9]]),
    "init": compound(["a"], init=[["exit_with", 1]]),
    "invalid output": parallel([["raw", "[]"]]),
    "unknown image": non_parallel([removals("unknown")]),
    "no images left": parallel(task={"input_types": {"nothing has": True}}),
    "shell characters": parallel(task={"command_parallel": "true; true"}),
    "no program": parallel(task={"command_parallel": "/nowhere/program"}),
}


@requirement("ERR-008")
@pytest.mark.parametrize("case", _FAILING)
def test_history(subject: Subject, case: str) -> None:
    """Runs three tasks of which the second one fails, some before their first unit."""
    ended = subject.run([non_parallel(), _FAILING[case], non_parallel()], ["a", "b"], what=case)
    ended.must_fail()
    _must_tell(ended, "done", "failed")


@requirement("ERR-008")
def test_history_of_a_success(subject: Subject) -> None:
    """Runs two tasks that succeed."""
    ended = subject.run([parallel(), non_parallel()], ["a"])
    statuses = [entry.get("status") for entry in ended.result["history"]]
    must_equal(statuses, ["done", "done"], "the statuses in the result's history")
    _must_tell(ended, "done", "done")


@requirement("ERR-009")
@pytest.mark.parametrize("case", ["exit code", "invalid output", "no images left"])
def test_nothing_after_a_failure(subject: Subject, case: str) -> None:
    """Runs a task that fails, and then one that leaves a trace."""
    trace = subject.folder / "trace"
    tasks = [_FAILING[case], non_parallel([["record", str(trace)]])]
    ended = subject.run(tasks, ["a", "b"], what=case)
    ended.must_fail()
    must_not_have_run(trace, "the task after the one that failed")


@requirement("ERR-010")
@pytest.mark.parametrize("end", [["exit_with", 1], ["raw", "[]"]], ids=str)
def test_filters_stay(subject: Subject, end: list[object]) -> None:
    """Runs a task with output types: a unit succeeds and sets a filter, another fails."""
    do: dict[str, Steps] = {"a": [_changed("a", filters={"attributes": {"well": "A01"}})], "b": [end]}
    filters: Json = {"types": {"raw": True}, "attributes": {"plate": None}}
    images = [image("a", {"raw": True}), image("b", {"raw": True})]
    task = parallel(do, task={"output_types": {"done": True, "raw": False}})
    ended = subject.run([task], images, filters=filters)
    ended.must_fail()
    must_equal(ended.saved["filters"], filters, "the filters in filters.json")
