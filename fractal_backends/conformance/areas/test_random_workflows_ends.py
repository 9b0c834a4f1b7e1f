"""Random ends: units that end in any mix of ways, and runs that are cancelled at any moment."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ..examples import for_any
from ..expectations import Ended, Subject, must, must_contain, must_equal, requirement
from ..violations import must_name
from ..workflows import Json, StepsByImage, image, parallel, step, updates, url


@dataclass(frozen=True)
class _Way:
    """A way for a unit to end."""

    name: str
    steps: tuple[list[Any], ...]
    """What the unit does after it has written a good output."""
    error: str | None = None
    told: str = ""
    """What the error's message holds."""


_UPDATES = _Way("updates its image", ())
_WAYS = (
    _UPDATES,
    _Way("has no output", (["raw", "{}"],)),
    *(_Way(f"exits with {code}", (["exit_with", code],), "TaskExecutionError") for code in (1, 127, 137)),
    *(
        _Way(
            f"kills itself by {number}",
            (["kill_self", number],),
            "JobExecutionError",
            f"returncode=-{number}",
        )
        for number in (1, 6, 9, 11, 15)
    ),
    *(
        _Way(f"writes {text!r}", (["raw", text],), "JobExecutionError", "Validation of task output failed.")
        for text in (
            "done",
            '{"image_list_updates": [',
            "[]",
            '{"updates": []}',
            '{"image_list_removals": "x"}',
        )
    ),
)


@requirement("RAND-003")
def test_random_failures(subject: Subject) -> None:
    """Runs a parallel task whose units write a good output, and then end in a random mix of ways. This is the
    simplest mix that was found to go wrong."""

    def judge(ways: list[_Way], place: str) -> None:
        names = [f"unit-{number}" for number in range(len(ways))]
        trace = subject.folder / f"{place}.txt"
        good = {
            name: updates({"zarr_url": name, "attributes": {"by": name}, "types": {"new": True}})
            for name in names
        }
        steps = {
            name: [["append", str(trace), name], good[name], *way.steps]
            for name, way in zip(names, ways, strict=True)
        }
        what = "; ".join(f"{name} {way.name}" for name, way in zip(names, ways, strict=True))
        ended = subject.run([parallel(steps)], names, folder=place, what=what)
        _must_tell(ended, ways)
        must_equal(sorted(_lines(trace)), names, "the units that ran, each once,")
        must_equal(
            ended.images, [_left(name, way) for name, way in zip(names, ways, strict=True)], "the images"
        )

    mixes = st.lists(st.sampled_from(_WAYS), min_size=2, max_size=6)
    for_any(subject, mixes, _order_of_ways, judge, count=14, out_of=150)


def _order_of_ways(ways: list[_Way]) -> set[str]:
    """What is new about a mix: which way comes first, and which kinds follow each other."""
    failures = [way for way in ways if way.error]
    found = {f"first: {way.name}" for way in failures[:1]}
    return found | {f"{one.told} before {other.told}" for one, other in itertools.pairwise(ways)}


def _left(name: str, way: _Way) -> Json:
    return image(name, {"new": True}, by=name) if way is _UPDATES else image(name)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _must_tell(ended: Ended, ways: list[_Way]) -> None:
    """The first failure has to be raised, and all of them be told of."""
    failed = [number for number, way in enumerate(ways) if way.error]
    must_equal(ended.statuses, ["failed" if failed else "done"], "the history's statuses")
    if not failed:
        ended.must_succeed()
        return
    first = ways[failed[0]]
    message = ended.failure.must_be(str(first.error), first.told).message.replace(str(ended.folder), "…")
    if first.error == "TaskExecutionError":
        must_name(message, int(first.name.split()[-1]), "the exit code of the first unit that failed")
    must_name(message, len(failed), "the number of units that failed")
    for number in failed if len(failed) > 1 else ():
        must_contain(message, f"0_par_{number:07d}", "the message, for each unit that failed,")


_TASKS = 3
_STATE = ("images", "filters", "history")
_HANGS: tuple[str, ...] = ("hang", "session", "write_until_killed")


@dataclass(frozen=True)
class _Cancelled:
    """A run of some tasks in which a unit may hang, and the moment when it is cancelled."""

    kinds: tuple[str, ...]
    """Of its tasks."""
    images: int
    hangs: tuple[int, int, str] | None
    """Which task's unit does, and how."""
    moment: int
    """How many units have to have started by then."""

    @property
    def names(self) -> list[str]:
        """Of the images."""
        return [f"{number}" for number in range(self.images)]

    def units(self, task: int) -> list[str]:
        """A task's units, in the order of their starts: those of images have their names."""
        units = {"parallel": self.names, "non_parallel": ["all"], "compound": ["init", *self.names]}
        return units[self.kinds[task]]

    @property
    def stuck(self) -> tuple[int, str] | None:
        """The task and the unit that hangs."""
        if self.hangs is None:
            return None
        task, place, _ = self.hangs
        units = self.units(task)
        return task, units[place % len(units)]

    @property
    def after(self) -> int:
        """The moment, if it is sure to come: a unit that hangs may keep all others from starting."""
        task, unit = self.stuck or (_TASKS, "")
        sure = sum(len(self.units(before)) for before in range(task))
        if self.stuck:
            sure += 1 + (self.kinds[task] == "compound" and unit != "init")
        return min(self.moment, sure)

    @property
    def what(self) -> str:
        """For a person to read."""
        stuck = "no unit hangs"
        if self.hangs and self.stuck:
            stuck = f"task {self.stuck[0]}'s unit {self.stuck[1]} hangs ({self.hangs[2]})"
        tasks = f"{', '.join(self.kinds)} on {self.images} images"
        return f"{tasks}, cancelled when {self.after} units have started; {stuck}"

    def situations(self) -> set[str]:
        """What is new about it."""
        found = {f"{self.images}", f"after {self.after}", f"{self.stuck is None} {self.after}"}
        found |= {f"task {task}: {kind}" for task, kind in enumerate(self.kinds)}
        if self.hangs and self.stuck:
            task, unit = self.stuck
            kind = unit if unit in ("init", "all") else self.kinds[task]
            found |= {f"{kind} hangs", f"{kind}: {self.hangs[2]}", f"in task {task}"}
        return found

    def task(self, folder: Path, task: int) -> Json:
        """A task, as a workflow task."""
        steps = {unit: self._steps(folder, task, unit) for unit in self.units(task)}
        parts: list[StepsByImage] = [steps.pop(unit) for unit in ("init", "all") if unit in steps]
        if steps:
            parts.append(steps)
        return step(self.kinds[task], *parts, task={"output_types": {f"t{task}": True}})

    def _steps(self, folder: Path, task: int, unit: str) -> list[list[Any]]:
        """What a unit does."""
        alive, begun = ["alive", f"{folder}/alive"], ["append", f"{folder}/begun.txt", f"{task}"]
        begin = [alive, begun]
        if self.hangs and (task, unit) == self.stuck:
            how = self.hangs[2]
            special = [how, f"{folder}/{how}"]
            # What has begun may be cancelled at once: a session has to be there by then.
            steps = {"session": [alive, special, begun], "write_until_killed": [*begin, special]}
            return [*steps.get(how, begin), ["hang"]]
        if unit == "init":
            return [*begin, ["output", {"parallelization_list": [{"zarr_url": url(n)} for n in self.names]}]]
        changed = self.names if unit == "all" else [unit]
        done = updates(*({"zarr_url": name, "attributes": {f"t{task}": int(name)}} for name in changed))
        return [*begin, done, *(["append", f"{folder}/ended.txt", f"{task} {name}"] for name in changed)]


@requirement("RAND-004")
def test_cancels(subject: Subject) -> None:
    """Cancels a run of three tasks when a random number of units have started. This is the simplest example
    that was found to go wrong."""

    def judge(example: _Cancelled, place: str) -> None:
        folder = subject.folder / place
        folder.mkdir()
        tasks = [example.task(folder, task) for task in range(_TASKS)]
        run = subject.start(tasks, example.names, folder=f"{place}/run", what=example.what)
        subject.before_the_end(
            lambda: len(_lines(folder / "begun.txt")) >= example.after, f"{example.after} units to start"
        )
        run.cancel()
        ended = run.wait()
        if (folder / "alive").exists():
            subject.must_be_dead(folder / "alive", "after the cancel")
        _must_be_whole(ended, example)

    kinds = st.tuples(*[st.sampled_from(("parallel", "non_parallel", "compound"))] * _TASKS)
    hangs = st.tuples(st.integers(0, _TASKS - 1), st.integers(0, 3), st.sampled_from(_HANGS))
    cancelled = st.builds(_Cancelled, kinds, st.integers(1, 4), st.none() | hangs | hangs, st.integers(0, 12))
    for_any(subject, cancelled, _Cancelled.situations, judge, count=10, out_of=100)


def _must_be_whole(ended: Ended, example: _Cancelled) -> None:
    """The state files have to be those of whole tasks, and of a task of which a part succeeded."""
    if not ended.succeeded:
        must(
            "CancelledError" in ended.failure.types,
            "the run to raise CancelledError, or to have succeeded before",
            ended.summary,
        )
        if not example.after and not all((ended.folder / f"{name}.json").exists() for name in _STATE):
            return  # it was cancelled before it began
    statuses, saved = ended.statuses, ended.saved
    done = statuses.count("done")
    failed = [] if ended.succeeded else ["failed"] * (len(statuses) > done)
    must_equal(statuses, ["done"] * done + failed, "the statuses in history.json")
    must(
        not ended.succeeded or done == _TASKS,
        f"a run that succeeds to have done {_TASKS} tasks",
        f"{done} done",
    )
    types = {f"t{task}": True for task in range(done)}
    must_equal(saved["filters"], {"types": types, "attributes": {}}, f"filters.json after {done} whole tasks")
    of_the_last = _of_units_that_ended(ended, done) if failed else set()
    if of_the_last and example.kinds[done] == "non_parallel":
        of_the_last = set(example.names)
    expected = []
    for name in example.names:
        tasks = [*range(done), *([done] if name in of_the_last else [])]
        attributes: Json = {f"t{task}": int(name) for task in tasks}
        expected.append(image(name, {f"t{task}": True for task in tasks}, **attributes))
    must_equal(saved["images"], expected, f"images.json after {done} whole tasks")


def _of_units_that_ended(ended: Ended, task: int) -> set[str]:
    """The images that have what a task says of them, of those whose units wrote it."""
    wrote = {
        line.split()[1] for line in _lines(ended.folder.parent / "ended.txt") if line.startswith(f"{task} ")
    }
    have = {
        found["zarr_url"].rpartition("/")[2]
        for found in ended.images
        if f"t{task}" in found.get("attributes", {})
    }
    return wrote & have
