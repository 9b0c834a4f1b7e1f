"""Random datasets, tasks and outputs, against a naive second account of what a run makes of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings

from fractal_backends import (
    Backend,
    JobExecutionError,
    Options,
    Outcome,
    RunInfo,
    TaskExecutionError,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)
from fractal_backends.conformance.oracle import ZARR_DIR, Expected, RandomTask, State, expected_ends, same
from fractal_backends.conformance.strategies import states, workflows, written
from tests.helpers.workflows import dataset, run, saved, statuses

FAILED = "units failed"


class _StepsExecutor(UnitExecutor):
    """Does what a unit's arguments say by itself: far quicker than a process for each unit."""

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for unit in reversed(units):  # in no order that the engine could rely on
            yield UnitEvent(unit, UnitState.ENDED, self._outcome(unit))

    def _outcome(self, unit: Unit) -> Outcome:
        arguments = json.loads(Path(unit.args_file).read_text())
        steps = arguments["do"]
        if isinstance(steps, dict):
            steps = steps[arguments["zarr_url"].rpartition("/")[2]]
        for name, value in steps:
            if name == "exit_with":
                return Outcome.exited(value)
            Path(unit.output_file).write_text(json.dumps(value))
        return Outcome.exited(0)

    def cancel(self) -> None:
        """Nothing runs on its own here."""


class StepsBackend(Backend):
    """Runs tasks without processes."""

    name = "steps"
    interface_version = 1

    def open(self, run: RunInfo) -> UnitExecutor:
        return _StepsExecutor()


def _check(folder: Path, backend: Backend | None, state: State, tasks: list[RandomTask]) -> None:
    """Run the tasks; after one that fails go on with what was saved, in a run of its own."""
    while tasks:
        ends = expected_ends(state, tasks)
        after = ends[-1].state
        own_folder = folder / uuid.uuid4().hex
        message = _run(own_folder, backend, state, tasks)
        found = saved(own_folder)
        shutil.rmtree(own_folder)
        _check_end(ends[-1], message)
        assert statuses(found) == ["done"] * (len(ends) - 1) + ["failed" if message else "done"]
        assert same(found["images"], after.images), (found["images"], after.images)
        assert same(found["filters"], after.filters), (found["filters"], after.filters)
        state, tasks = after, tasks[len(ends) :]


def _run(folder: Path, backend: Backend | None, state: State, tasks: list[RandomTask]) -> str:
    """The message of the run's error, empty where it has none."""
    source = dataset(state.images, zarr_dir=ZARR_DIR, filters=state.filters)
    try:
        run(folder, [written(task) for task in tasks], dataset=source, backend=backend)
    except (JobExecutionError, TaskExecutionError) as error:
        assert isinstance(error, TaskExecutionError) == (FAILED in str(error))
        return str(error)
    return ""


def _check_end(end: Expected, message: str) -> None:
    event(f"units failed: {bool(end.failed)}, errors: {sorted(set(end.errors))}")
    if end.failed:
        assert f": {len(end.failed)} of " in message
    if end.errors:
        assert any(text in message for text in end.errors), (end.errors, message)
    elif end.failed:
        assert "could not be used" not in message
    else:
        assert message == ""


quick = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a run waits for the disk three times a task."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@settings(quick, max_examples=200)
@given(state=states, tasks=workflows)
def test_the_engine_agrees_with_the_oracle(memory: Path, state: State, tasks: list[RandomTask]) -> None:
    _check(memory, StepsBackend(), state, tasks)


@settings(quick, max_examples=8)
@given(state=states, tasks=workflows)
def test_the_local_backend_agrees_with_the_oracle(
    memory: Path, state: State, tasks: list[RandomTask]
) -> None:
    _check(memory, None, state, tasks)
