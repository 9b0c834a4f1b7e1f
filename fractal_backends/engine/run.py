"""A run, task by task."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import FractalBackendsError, JobExecutionError
from ..hooks import Observers
from ..interface import (
    Cause,
    Outcome,
    RunInfo,
    RunResult,
    TaskInfo,
    TaskReport,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)
from ..models import Image, ImageUpdate, InitOutput, TaskOutput, TaskType
from ..options import Options
from .filters import next_filters, select_images
from .folder import RunFolder, reporting_disk_errors
from .image_list import ImageChanges, ImageList
from .outputs import InvalidOutputError, merge_outputs, read_output, unique_items
from .planning import TaskPlace, image_arguments, item_arguments
from .preparation import PreparedRun, PreparedTask
from .verdicts import Failure, describe_failure, failure_error

CACHE_DIR_VARIABLE = "FRACTAL_CACHE_DIR"

OutputT = TypeVar("OutputT", TaskOutput, InitOutput)


@dataclass
class _TaskState:
    """What is known of the task that is under way."""

    task: PreparedTask
    info: TaskInfo
    started: float = field(default_factory=time.monotonic)
    images: list[Image] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    changes: ImageChanges = field(default_factory=ImageChanges)


class Run:
    """One run: valid input, a claimed folder and an open executor."""

    def __init__(
        self,
        info: RunInfo,
        prepared: PreparedRun,
        folder: RunFolder,
        executor: UnitExecutor,
        observers: Observers,
        cancelled: threading.Event,
    ) -> None:
        self._info = info
        self._tasks = prepared.tasks
        self._zarr_dir = prepared.dataset.zarr_dir
        self._images = ImageList(prepared.dataset.images)
        self._filters = prepared.dataset.filters
        self._history: list[dict[str, Any]] = []
        self._folder = folder
        self._executor = executor
        self._observers = observers
        self._logger = info.logger
        self._cancelled = cancelled
        self._env = {CACHE_DIR_VARIABLE: info.user_cache_dir} if info.user_cache_dir else {}

    def execute(self) -> RunResult:
        """Run the tasks. Raises TaskExecutionError or JobExecutionError."""
        self._save()
        for task in self._tasks:
            if self._cancelled.is_set():
                raise JobExecutionError("The run was cancelled.")
            self._run_task(task)
        return {
            "history": self._history,
            "filters": self._filters.model_dump(),
            "images": [image.as_dict() for image in self._images],
        }

    def _run_task(self, task: PreparedTask) -> None:
        kind = task.workflow_task.task
        state = _TaskState(task, TaskInfo(task.order, kind.name, kind.type))
        self._logger.info("Task %d %r (%s) starts", task.order, kind.name, kind.type)
        self._observers.notify("task_started", run=self._info, task=state.info)
        error: FractalBackendsError | None = None
        try:
            with reporting_disk_errors():
                outputs = self._outputs(state)
            error = self._merge(state, outputs)
        except FractalBackendsError as raised:
            error = raised
        self._end_task(state, error)

    def _outputs(self, state: _TaskState) -> list[TaskOutput | None]:
        """Run the task's units; their outputs in unit order, None for one that did not succeed."""
        workflow_task = state.task.workflow_task
        kind = workflow_task.task.type
        if not kind.is_converter:
            state.images = select_images(self._images, self._filters, workflow_task)
        folder = self._folder.make_task_folder(state.task.order, workflow_task.task.name)
        place = TaskPlace(state.task.order, workflow_task, folder, self._zarr_dir, self._env)
        non_parallel, parallel = place.commands()
        own_arguments = image_arguments(state.images)
        if kind.has_non_parallel_part:
            unit = place.non_parallel_unit(non_parallel, state.images)
            if not kind.has_parallel_part:
                return self._run_units(state, [unit], state.task.non_parallel_options, TaskOutput)
            (init,) = self._run_units(state, [unit], state.task.non_parallel_options, InitOutput)
            own_arguments = item_arguments(unique_items(init.parallelization_list if init else ()))
        units = place.parallel_units(parallel, own_arguments)
        return self._run_units(state, units, state.task.parallel_options, TaskOutput)

    def _run_units(
        self, state: _TaskState, units: Sequence[Unit], options: Options, model: type[OutputT]
    ) -> list[OutputT | None]:
        """Run units to their ends and read their outputs; None for one that did not succeed."""
        if not units:
            return []
        state.info = dataclasses.replace(state.info, units=state.info.units + len(units))
        self._observers.notify("task_changed", run=self._info, task=state.info)
        outputs: list[OutputT | None] = [None] * len(units)
        outcomes: list[Outcome | None] = [None] * len(units)
        reason = "The backend did not say how it ended."
        try:
            for event in self._executor.run(units, options):
                place = event.unit.component or 0
                if event.outcome is None:
                    self._tell(state, event)
                elif outcomes[place] is None:
                    verdict, outputs[place] = _judge(event.unit, event.outcome, model)
                    outcomes[place] = verdict
                    changed = verdict is not event.outcome
                    self._tell(state, dataclasses.replace(event, outcome=verdict) if changed else event)
                else:
                    self._logger.warning("Unit %s ended twice; its first end counts", event.unit.label)
        except Exception as error:
            self._logger.exception("The backend failed")
            reason = f"The backend failed: {str(error) or type(error).__name__}"
        missing = Outcome(Cause.CANCELLED if self._cancelled.is_set() else Cause.LOST, reason)
        for unit, outcome in zip(units, outcomes, strict=True):
            if outcome is None:
                self._tell(state, UnitEvent(unit, UnitState.ENDED, missing))
            self._note(state, unit, outcome or missing)
        return outputs

    def _tell(self, state: _TaskState, event: UnitEvent) -> None:
        self._observers.notify("unit_changed", run=self._info, task=state.info, event=event)

    def _note(self, state: _TaskState, unit: Unit, outcome: Outcome) -> None:
        state.outcomes.append(outcome)
        if outcome.cause is not Cause.DONE:
            state.failures.append(Failure(unit, outcome))
            if outcome.cause is not Cause.CANCELLED or not self._cancelled.is_set():
                self._logger.error("%s", describe_failure(state.failures[-1]))

    def _merge(self, state: _TaskState, outputs: Sequence[TaskOutput | None]) -> FractalBackendsError | None:
        """Take the outputs into the image list and the filters; the error that the task ends with, if any.

        Where merging fails the image list and the filters stay as they were.
        """
        workflow_task = state.task.workflow_task
        problem: JobExecutionError | None = None
        try:
            merged = merge_outputs(output for output in outputs if output is not None)
            if not merged.updates and not merged.removals:
                merged.updates = [ImageUpdate(image.zarr_url) for image in _untouched(state, outputs)]
            filters = self._filters
            if not state.failures:
                filters = next_filters(filters, workflow_task, merged.filters)
            images, state.changes = self._images.updated(
                merged, workflow_task.task.output_types, self._zarr_dir
            )
            self._images, self._filters = images, filters
        except JobExecutionError as error:
            problem = error
        if state.failures:
            also = str(problem) if problem else None
            units, order = len(state.outcomes), state.task.order
            return failure_error(state.failures, units, order, workflow_task, also)
        return problem

    def _end_task(self, state: _TaskState, error: FractalBackendsError | None) -> None:
        status = "failed" if error else "done"
        workflow_task = state.task.workflow_task.model_dump(mode="json")
        self._history.append({"workflowtask": {**workflow_task, "order": state.task.order}, "status": status})
        try:
            self._save()
        except JobExecutionError as save_error:
            self._logger.error("%s", save_error)
            error = error or save_error
            status = "failed"
        report = _report(state, status)
        self._logger.info(
            "Task %d %r %s: %d units, %d failed, %.1f s",
            *(state.task.order, state.info.name, status, report.units, report.failed, report.wall_s),
        )
        self._observers.notify("task_ended", run=self._info, task=state.info, report=report)
        if error:
            raise error

    def _save(self) -> None:
        self._folder.save(self._images, self._filters, self._history)


def _judge(unit: Unit, outcome: Outcome, model: type[OutputT]) -> tuple[Outcome, OutputT | None]:
    """The verdict once the unit's output was read: a success with an invalid output is none."""
    if outcome.cause is not Cause.DONE:
        return outcome, None
    try:
        return outcome, read_output(unit, model)
    except InvalidOutputError as error:
        return dataclasses.replace(outcome, cause=Cause.INVALID_OUTPUT, info=str(error)), None


def _untouched(state: _TaskState, outputs: Sequence[TaskOutput | None]) -> list[Image]:
    """The images that count as updated where a task names none."""
    if not state.failures:
        return state.images
    if state.task.workflow_task.task.type is not TaskType.PARALLEL:
        return []
    return [image for image, output in zip(state.images, outputs, strict=True) if output is not None]


def _report(state: _TaskState, status: str) -> TaskReport:
    cpu = [outcome.cpu_s for outcome in state.outcomes if outcome.cpu_s is not None]
    peak = [outcome.peak_mb for outcome in state.outcomes if outcome.peak_mb is not None]
    return TaskReport(
        status=status,
        units=len(state.outcomes),
        failed=len(state.failures),
        wall_s=time.monotonic() - state.started,
        cpu_s=sum(cpu) if cpu else None,
        peak_mb=max(peak, default=None),
        images_new=state.changes.new,
        images_updated=state.changes.updated,
        images_removed=state.changes.removed,
    )
