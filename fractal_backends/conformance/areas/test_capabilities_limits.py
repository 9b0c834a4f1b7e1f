"""Capabilities: limits of memory and time."""

from __future__ import annotations

from ..expectations import Subject, must, must_equal, requirement
from ..workflows import Json, image, names, non_parallel, parallel, updates


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


def _with_time_limit(subject: Subject, seconds: int) -> Json:
    """The options that ask for a time limit; the test has more time, as engines look now and then."""
    subject.deadline.extend(2 * seconds)
    minutes, rest = divmod(seconds, 60)
    return subject.declared.asking_for("time_limit", f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}")


@requirement("CAP-009")
def test_time_limit(subject: Subject) -> None:
    """Runs, with a time limit (of 2 s, or the engine's smallest one), a unit that ends in time and one that
    hangs with a stubborn child."""
    lock, child = subject.folder / "lock", subject.folder / "child"
    change = updates({"zarr_url": "b", "attributes": {"ended": True}})
    limit = max(2, subject.settings.time_limit_s)
    options = _with_time_limit(subject, limit)
    do: Json = {
        "a": [["alive", str(lock)], ["stubborn", str(child)], ["hang"]],
        "b": [["sleep", 0.1 * limit], change],
    }
    ended = subject.run([parallel(do)], ["a", "b"], options=options, what=f"options: {options}")
    ended.failure.must_be("JobExecutionError", "time limit")
    subject.must_be_dead(lock, "when the run was over")
    must(ended.seconds >= limit, f"the unit to have its {limit} s", f"the run took {ended.seconds:.1f} s")
    must_equal(ended.images, [image("a"), image("b", ended=True)], "the images")


@requirement("CAP-009")
def test_time_limit_of_a_single_unit(subject: Subject) -> None:
    """Runs, with a time limit (of 1 s, or the engine's smallest one), a non-parallel task that hangs."""
    limit = max(1, subject.settings.time_limit_s)
    options = _with_time_limit(subject, limit)
    ended = subject.run([non_parallel([["hang"]])], options=options, what=f"options: {options}")
    ended.failure.must_be("JobExecutionError", "time limit")


@requirement("CAP-009")
def test_waiting_takes_no_time(subject: Subject) -> None:
    """Runs five units, one at a time where that can be asked for, that take a third of their time limit each
    (which is 3 s, or the engine's smallest one)."""
    limit = max(3, subject.settings.time_limit_s)
    options = {**subject.room_for(1).get("options", {}), **_with_time_limit(subject, limit)}
    images = [f"image-{i}" for i in range(5)]
    task = parallel([["sleep", 0.3 * limit]])
    ended = subject.run([task], images, options=options, what=f"options: {options}")
    ended.must_succeed()
    must_equal(names(ended.images), images, "the images")
