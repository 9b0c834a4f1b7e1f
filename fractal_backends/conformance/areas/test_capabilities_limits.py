"""Capabilities: limits of memory and time."""

from __future__ import annotations

from ..expectations import Subject, must, must_equal, requirement
from ..workflows import Json, image, names, parallel, updates


@requirement("CAP-008")
def test_memory_limit(subject: Subject) -> None:
    """Runs, with a memory limit of 128 MB, a unit that takes 400 MB and one that takes 30 MB."""
    lock = subject.folder / "lock"
    change = updates({"zarr_url": "b", "attributes": {"ended": True}})
    do: Json = {
        "a": [["alive", str(lock)], ["take_memory", 400], ["hang"]],
        "b": [["take_memory", 30], change],
    }
    options = subject.declared.asking_for("memory_limit", "128M")
    ended = subject.run([parallel(do)], ["a", "b"], options=options, what=f"options: {options}")
    ended.failure.must_be("JobExecutionError", "out of memory")
    subject.must_be_dead(lock, "when the run was over")
    must_equal(ended.images, [image("a"), image("b", ended=True)], "the images")


@requirement("CAP-008")
def test_memory_limit_in_mb(subject: Subject) -> None:
    """Runs, with a memory limit of 128, which is in MB, a unit that takes 30 MB."""
    options = subject.declared.asking_for("memory_limit", 128)
    task = parallel([["take_memory", 30]])
    subject.run([task], ["a"], options=options, what=f"options: {options}").must_succeed()


@requirement("CAP-009")
def test_time_limit(subject: Subject) -> None:
    """Runs, with a time limit of 2 s, a unit that ends in time and one that hangs with a stubborn child."""
    lock, child = subject.folder / "lock", subject.folder / "child"
    change = updates({"zarr_url": "b", "attributes": {"ended": True}})
    do: Json = {
        "a": [["alive", str(lock)], ["stubborn", str(child)], ["hang"]],
        "b": [["sleep", 0.2], change],
    }
    options = subject.declared.asking_for("time_limit", "00:00:02")
    ended = subject.run([parallel(do)], ["a", "b"], options=options, what=f"options: {options}")
    ended.failure.must_be("JobExecutionError", "time limit")
    subject.must_be_dead(lock, "when the run was over")
    must(ended.seconds >= 2, "the unit to have its 2 s", f"the run took {ended.seconds:.1f} s")
    must_equal(ended.images, [image("a"), image("b", ended=True)], "the images")


@requirement("CAP-009")
def test_waiting_takes_no_time(subject: Subject) -> None:
    """Runs four units of 0.8 s, one at a time where that can be asked for, with a time limit of 3 s."""
    room = subject.room_for(1).get("options", {})
    options = {**room, **subject.declared.asking_for("time_limit", "00:00:03")}
    images = [f"image-{i}" for i in range(4)]
    ended = subject.run([parallel([["sleep", 0.8]])], images, options=options, what=f"options: {options}")
    ended.must_succeed()
    must_equal(names(ended.images), images, "the images")
