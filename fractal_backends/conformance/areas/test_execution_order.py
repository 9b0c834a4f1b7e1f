"""Execution: what runs at the same time, and what waits for what."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ..expectations import Subject, must, must_equal, not_judged, requirement
from ..subject import read_json
from ..traces import QUIET_S, Gate, must_not_have_run, recorded, stays
from ..workflows import Steps, compound, names, non_parallel, parallel, updates, url


@requirement("EXEC-006")
def test_slow_first_unit(subject: Subject) -> None:
    """Runs three units, each of which makes an image; the first one ends when the last one has ended."""
    lock, here = subject.folder / "lock", subject.folder / "here"
    made = {name: updates({"zarr_url": f"of {name}", "origin": name}) for name in "abc"}
    do = {
        "a": [made["a"], ["wait", str(here)], ["outlive", str(lock)], ["sleep", 0.1]],
        "b": [made["b"]],
        "c": [["alive", str(lock)], ["touch", str(here)], made["c"]],
    }
    ended = subject.run([parallel(do)], ["a", "b", "c"], **subject.room_for(2))
    expected = ["a", "b", "c", "of a", "of b", "of c"]
    must_equal(names(ended.result["images"]), expected, "the images, in order,")


@requirement("EXEC-007")
def test_two_at_once(subject: Subject) -> None:
    """Runs two units, each of which waits until the other one is there."""
    gate = Gate(subject)
    run = subject.start(
        [parallel({name: gate.steps(name) for name in "ab"})], ["a", "b"], **subject.room_for(2)
    )
    gate.must_come("a", "b")
    gate.let("a", "b")
    run.wait().must_succeed()


@requirement("EXEC-008")
@pytest.mark.parametrize("limit", [1, 3])
def test_ceiling(subject: Subject, limit: int) -> None:
    """Sets a limit for a task of twice as many units; lets all of those that run end, but for one."""
    gate = Gate(subject)
    units = [f"unit-{i}" for i in range(2 * limit)]
    task = parallel({name: gate.steps(name) for name in units})
    run = subject.start([task], units, what=f"limit {limit}, {len(units)} units", **subject.room_for(limit))
    gate.must_hold(limit, "at the start")
    gate.let(*sorted(gate.waiting())[1:] or units[:1])
    gate.must_hold(limit, "when some have ended and another goes on" if limit > 1 else "when one has ended")
    gate.let(*units)
    run.wait().must_succeed()


@requirement("EXEC-010")
def test_tasks_wait(subject: Subject) -> None:
    """Runs two tasks; of the first one a unit ends at once, another makes an image and takes its time."""
    gate, lock, trace = Gate(subject), subject.folder / "lock", subject.folder / "trace"
    slow = [updates({"zarr_url": "of b", "origin": "b"}), *gate.steps("unit b")]
    tasks = [
        parallel({"a": [["alive", str(lock)]], "b": slow}),
        non_parallel([["record", str(trace)]]),
    ]
    run = subject.start(tasks, ["a", "b"], **subject.room_for(2))
    gate.must_come("unit b")
    subject.wait_for(lock)
    must_not_have_run(trace, "the second task, while the first one is under way,", QUIET_S)
    gate.let("unit b")
    run.wait().must_succeed()
    found = [unit.get("zarr_urls") for unit in recorded(trace)]
    must_equal(found, [[url("a"), url("b"), url("of b")]], "the images of the second task")


@requirement("EXEC-011")
def test_the_init_ends_first(subject: Subject) -> None:
    """Runs a compound task whose init writes its list and then goes on for a while."""
    gate, trace = Gate(subject), subject.folder / "trace"
    task = compound(["a", "b"], [["record", str(trace)]], gate.steps("the init"))
    run = subject.start([task], ["a"])
    gate.must_come("the init")
    must_not_have_run(trace, "a compute unit, while the init is under way,", QUIET_S)
    gate.let("the init")
    run.wait().must_succeed()
    must_equal(names(recorded(trace)), ["a", "b"], "the images whose compute units ran")


@requirement("EXEC-012")
def test_the_last_output_counts(subject: Subject) -> None:
    """Runs a unit that writes an output, goes on for a while, and then writes another, larger one."""
    gate, words = Gate(subject), "x" * 200_000
    first = updates({"zarr_url": "a", "attributes": {"words": "first"}})
    last = updates({"zarr_url": "a", "attributes": {"words": words}})
    run = subject.start([parallel([first, *gate.steps("the unit"), last])], ["a"])
    gate.must_come("the unit")
    stays(lambda: not run.is_over, QUIET_S, "the run to go on while its unit does", "the run ended")
    gate.let("the unit")
    run.wait().must_succeed()
    found = str(run.wait().images[0].get("attributes", {}).get("words"))
    expected = f"an attribute of {len(words):,} characters, which the unit wrote at last,"
    must(found == words, f"{expected} to be in images.json", f"{len(found):,} characters, {found[:20]!r}")


@requirement("EXEC-020")
def test_options_of_tasks(subject: Subject) -> None:
    """Runs a task whose meta limits it to one unit at a time, then one whose meta allows three, which wait
    for each other."""
    trace, place = subject.folder / "trace", subject.folder / "place"
    place.mkdir()
    alone: Steps = [["append", str(trace), "begins"], ["sleep", 0.05], ["append", str(trace), "ends"]]
    together = {name: [["meet", str(place), name, 3]] for name in "abc"}
    metas = [subject.declared.asking_for("concurrency_limit", limit) for limit in (1, 3)]
    tasks = [parallel(alone, meta_parallel=metas[0]), parallel(together, meta_parallel=metas[1])]
    subject.run(tasks, ["a", "b", "c"]).must_succeed()
    must_equal(trace.read_text().split(), ["begins", "ends"] * 3, "what the units of the first task wrote")


@requirement("EXEC-021")
def test_precedence(subject: Subject) -> None:
    """Runs units with a limit of 3 in the configuration file, then also one of 1 in the task's meta, then
    also one of 2 that the backend is given; counts how many run at once."""
    declared = subject.declared
    if not declared.config_file_variable or declared.options_model is None:
        not_judged("the backend does not say which options it knows, or where its configuration file is")
    if any(option in subject.settings.options for option in declared.asking_for("concurrency_limit", 0)):
        not_judged("the limit of units that run at once is among the options of --options")
    file, here = subject.folder / "config.json", os.environ.get(declared.config_file_variable)
    configured = {**(read_json(Path(here)) if here else {}), **declared.asking_for("concurrency_limit", 3)}
    file.write_text(json.dumps(configured))
    runner = subject.new_runner(env={declared.config_file_variable: str(file)})
    meta = {"meta_parallel": declared.asking_for("concurrency_limit", 1)}
    images = [f"image-{i}" for i in range(5)]
    for number, (what, limit, fields, options) in enumerate(
        [
            ("with the configuration file's limit of 3", 3, {}, {}),
            ("with a limit of 1 in the meta before the file's 3", 1, meta, {}),
            ("with a limit of 2 given before the meta's 1 and the file's 3", 2, meta, subject.room_for(2)),
        ]
    ):
        gate = Gate(subject, f"gate-{number}")
        task = parallel({name: gate.steps(name) for name in images}, **fields)
        run = subject.start([task], images, runner=runner, what=what, **options)
        gate.must_hold(limit, what)
        gate.let(*images)
        run.wait().must_succeed()
