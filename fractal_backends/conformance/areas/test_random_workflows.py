"""Random workflows: what nobody thought of, against a second, naive account of what must come out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from random import Random

from ..examples import chosen, for_all
from ..expectations import Ended, Subject, must, must_contain, must_equal, requirement
from ..oracle import ZARR_DIR, Expected, RandomTask, State, expected_ends
from ..random_workflows import NO_OUTPUT, Chance, simpler, without_one, written
from ..situations import situations
from ..violations import must_name
from ..workflows import Json, dataset

Workflow = tuple[State, list[RandomTask]]
Part = tuple[State, list[RandomTask], range]
"""A run of a part of a workflow, on a dataset in some state."""


def _make_workflow(source: Random) -> Workflow:
    chance = Chance(source)
    return chance.state(), chance.workflow(1, 3)


@requirement("RAND-001")
def test_random_workflows(subject: Subject) -> None:
    """Runs random workflows on random datasets; this is the simplest that was found to go wrong."""

    def judge(example: Workflow, place: str) -> None:
        state, workflow = example
        _judge_run(subject, place, (state, workflow, range(len(workflow))))

    examples = chosen(_make_workflow, lambda example: situations(*example), 14, out_of=1_500)
    for_all(subject, examples, judge, lambda example: simpler(*example))


@requirement("RAND-002")
def test_runs_that_go_on(subject: Subject) -> None:
    """Takes datasets through random workflows in several runs of one backend object, each going on with what
    the last one saved; a task with failed units is run again when they are mended. This is the simplest
    example that was found to go wrong."""

    def judge(example: _Course, place: str) -> None:
        for number, part in enumerate(example.parts(), 1):
            _judge_run(subject, f"{place}/{number}", part, backend=place)

    for_all(subject, chosen(_Course.make, _Course.situations, 5, out_of=500), judge, _Course.simpler)


@dataclasses.dataclass
class _Course:
    """A workflow, run in parts of such lengths."""

    state: State
    workflow: list[RandomTask]
    lengths: list[int]

    @classmethod
    def make(cls, source: Random) -> _Course:
        """A random one."""
        chance = Chance(source)
        return cls(chance.state(), chance.workflow(3, 4), chance.parts())

    def simpler(self) -> Iterator[_Course]:
        """Ones that are simpler."""
        for state, workflow in simpler(self.state, self.workflow):
            yield _Course(state, workflow, self.lengths)
        if len(self.lengths) > 1:
            yield from (_Course(self.state, self.workflow, lengths) for lengths in without_one(self.lengths))

    def parts(self) -> Iterator[Part]:
        """The runs, one after another."""
        state, workflow, start, runs = self.state, list(self.workflow), 0, 0
        while start < len(workflow):
            stop = min(start + self.lengths[runs % len(self.lengths)], len(workflow))
            yield state, list(workflow), range(start, stop)
            ends = expected_ends(state, workflow[start:stop])
            state = ends[-1].state
            start += len(ends)
            runs += 1
            if ends[-1].failed:
                start -= 1
                mended: list[Json | None] = [
                    NO_OUTPUT if output is None else output for output in workflow[start].outputs
                ]
                workflow[start] = dataclasses.replace(workflow[start], outputs=mended)

    def situations(self) -> set[str]:
        """What comes about, and after what."""
        found, before = set(), "at first"
        for state, workflow, part in self.parts():
            tasks = workflow[part.start : part.stop]
            found |= {f"{before}: {situation}" for situation in situations(state, tasks)}
            end = expected_ends(state, tasks)[-1]
            before = f"after {'a failure' if end.failed else 'an error' if end.errors else 'a success'}"
        return found


def _judge_run(subject: Subject, place: str, part: Part, backend: str | None = None) -> None:
    """Run it, and compare how it ends with what the oracle says."""
    state, workflow, tasks = part
    task_list = [written(task) for task in workflow]
    source = dataset(state.images, zarr_dir=ZARR_DIR, filters=state.filters)
    folder = subject.folder / place
    folder.mkdir(parents=True)
    for name, value in (("workflow", {"task_list": task_list}), ("dataset", source)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
    ended = subject.run(
        task_list,
        dataset=source,
        folder=f"{place}/run",
        what=f"tasks {tasks.start} to {tasks.stop - 1} of {folder}/workflow.json on dataset.json beside it",
        first_task_index=tasks.start,
        last_task_index=tasks.stop - 1,
        object=backend,
    )
    _must_end_as(ended, tasks.start, expected_ends(state, workflow[tasks.start : tasks.stop]))


def _must_end_as(ended: Ended, first: int, expected: Sequence[Expected]) -> None:
    end, last = expected[-1], first + len(expected) - 1
    if end.is_success:
        must(isinstance(ended.result, dict), "the run to return a dict", ended.result)
    else:
        _must_fail_as(ended, last, end)
    statuses = ["done"] * (len(expected) - 1) + ["done" if end.is_success else "failed"]
    must_equal(ended.statuses, statuses, f"the statuses of the tasks from task {first} on")
    for there, where in ((ended.saved, "state file"), (ended.answer["result"], "result")):
        if there is not None:
            must_equal(there.get("images"), end.state.images, f"the images in the {where} after task {last}")
            must_equal(
                there.get("filters"), end.state.filters, f"the filters in the {where} after task {last}"
            )


def _must_fail_as(ended: Ended, order: int, end: Expected) -> None:
    if end.failed:
        failure = ended.failure.must_be("TaskExecutionError")
        must_name(
            failure.message.replace(str(ended.folder), "…"), len(end.failed), "the number of failed units"
        )
        for component in end.failed if len(end.failed) > 1 else ():
            must_contain(
                failure.message, f"{order}_par_{component:07d}", "the message to name each failed unit"
            )
    else:
        failure = ended.failure.must_be("JobExecutionError")
    if end.errors:
        wanted = " or ".join(repr(text) for text in sorted(set(end.errors)))
        must(
            any(text in failure.message for text in end.errors),
            f"the message of task {order}'s error to hold {wanted}",
            failure.message,
        )
