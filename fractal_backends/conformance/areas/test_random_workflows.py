"""Random workflows: what nobody thought of, against a second, naive account of what must come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ..examples import THOROUGH, Trials, for_any, number_of_examples, seeded
from ..expectations import Ended, Subject, must, must_contain, must_equal, requirement
from ..oracle import ZARR_DIR, Expected, RandomTask, State, expected_ends
from ..situations import situations
from ..strategies import NO_OUTPUT, states, workflows, written
from ..violations import must_name
from ..workflows import Json, dataset

Part = tuple[State, list[RandomTask], range]
"""A run of a part of a workflow, on a dataset in some state."""


@requirement("RAND-001")
def test_random_workflows(subject: Subject) -> None:
    """Runs random workflows on random datasets; this is the simplest that was found to go wrong."""

    def judge(example: tuple[State, list[RandomTask]], place: str) -> None:
        state, workflow = example
        _judge_run(subject, place, (state, workflow, range(len(workflow))))

    every = st.tuples(states, workflows)
    for_any(subject, every, lambda example: situations(*example), judge, count=16, out_of=160)


@requirement("RAND-002")
def test_runs_that_go_on(subject: Subject) -> None:
    """Takes datasets through random workflows in several runs of one backend object, each going on with what
    the last one saved; a task with failed units is run again when they are mended. This is the simplest
    example that was found to go wrong."""
    trials = Trials(subject)

    class Course(RuleBasedStateMachine):
        """A dataset and what becomes of it; the state is the oracle's."""

        @initialize(state=states)
        def begin(self, state: State) -> None:
            self.place, self.runs = trials.next_place(), 0
            self.state = state
            self.broken: tuple[list[RandomTask], int] | None = None

        @rule(workflow=workflows)
        def run_a_workflow(self, workflow: list[RandomTask]) -> None:
            self._run(workflow, 0)

        @precondition(lambda self: self.broken)
        @rule()
        def mend_and_go_on(self) -> None:
            assert self.broken is not None
            workflow, place = list(self.broken[0]), self.broken[1]
            mended: list[Json | None] = [
                NO_OUTPUT if output is None else output for output in workflow[place].outputs
            ]
            workflow[place] = dataclasses.replace(workflow[place], outputs=mended)
            self._run(workflow, place)

        def _run(self, workflow: list[RandomTask], start: int) -> None:
            if self.place is None:
                return
            self.runs += 1
            part = (self.state, workflow, range(start, len(workflow)))
            where = f"{self.place}/{self.runs}"
            trials.judge(lambda: _judge_run(subject, where, part, backend=self.place))
            ends = expected_ends(self.state, workflow[start:])
            self.state = ends[-1].state
            self.broken = (workflow, start + len(ends) - 1) if ends[-1].failed else None

    count = number_of_examples(subject, 10)
    chosen = settings(THOROUGH, max_examples=count, stateful_step_count=5)
    course = seeded(subject, Course)
    trials.search(lambda: run_state_machine_as_test(course, settings=chosen), at_least=count // 2 - 1)


def _judge_run(subject: Subject, place: str, part: Part, backend: str | None = None) -> None:
    """Run it, and compare how it ends with what the oracle says."""
    state, workflow, tasks = part
    task_list = [written(task) for task in workflow]
    source = dataset(state.images, zarr_dir=ZARR_DIR, filters=state.filters)
    ended = subject.run(
        task_list,
        dataset=source,
        folder=place,
        what=f"tasks {tasks.start} to {tasks.stop - 1} of a random workflow",
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
