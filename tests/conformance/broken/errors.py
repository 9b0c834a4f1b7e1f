"""Broken in what a caller learns when something goes wrong, and in what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Cause,
    InitOutput,
    JobExecutionError,
    Options,
    Outcome,
    RunResult,
    TaskExecutionError,
    Unit,
    UnitEvent,
    UnitState,
)
from fractal_backends.engine import outputs, planning, run, verdicts
from tests.conformance.broken import caught_by
from tests.conformance.broken.tools import Really, WithEngine, WithExecutor, WithUnits

_failure_error = verdicts.failure_error
_commands, _parallel_units = planning.TaskPlace.commands, planning.TaskPlace.parallel_units
_read_output, _merge_outputs = outputs.read_output, outputs.merge_outputs
_merge, _end_task, _run_task = run.Run._merge, run.Run._end_task, run.Run._run_task


@caught_by("ERR-001", "a task's error does not say which task it was")
class AnonymousTaskErrors(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except TaskExecutionError as error:
            raise TaskExecutionError(str(error)) from error


@caught_by("ERR-001", "exit codes are not looked at")
class ExitCodesIgnored(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return outcome if outcome.exit_code is None else Outcome.exited(0)


@caught_by("ERR-002", "the log is left out of errors")
class ErrorsWithoutLog(WithEngine):
    changes: ClassVar = {"verdicts._log_end": lambda _failure: []}


def _read_start(path: Path, limit: int) -> str:
    return path.read_bytes()[:limit].decode(errors="replace")


@caught_by("ERR-002", "errors hold the beginning of the log")
class BeginningOfTheLog(WithEngine):
    changes: ClassVar = {"verdicts.read_end": _read_start}


@caught_by("ERR-003", "a unit is started by a shell, which turns signals into exit codes")
class SignalsAsExitCodes(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return outcome if outcome.signal is None else Outcome.exited(128 + outcome.signal)


@caught_by("ERR-004", "an exit code above 128 is read as a signal")
class ExitCodesAsSignals(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        code = outcome.exit_code or 0
        return Outcome.exited(128 - code) if code > 128 else outcome


@caught_by("ERR-005", "after a failure no more units are started")
class NoUnitAfterFailure(WithUnits):
    failed = False

    def execute(self, unit: Unit, really: Really) -> Outcome:
        if self.failed:
            return Outcome(Cause.CANCELLED)
        outcome = really(unit)
        self.failed = outcome.cause is not Cause.DONE
        return outcome


class _EndsSiblings(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for event in super().run(units, options):
            yield event
            if event.state is UnitState.ENDED and event.outcome and event.outcome.cause is not Cause.DONE:
                self.cancel()


@caught_by("ERR-005", "a failure ends the units that are under way")
class SiblingsEnded(WithExecutor):
    executor = _EndsSiblings


def _all_or_nothing(self: run.Run, state: Any, found: Sequence[Any]) -> Any:
    return _merge(self, state, [None] * len(found) if state.failures else found)


@caught_by("ERR-006", "what succeeded is lost when another unit failed")
class AllOrNothing(WithEngine):
    changes: ClassVar = {"run.Run._merge": _all_or_nothing}


@caught_by("ERR-006", "all images count as updated, although units failed")
class FailedImagesUpdated(WithEngine):
    changes: ClassVar = {"run._untouched": lambda state, _outputs: state.images}


@caught_by("ERR-007", "the last failure is raised")
class LastFailureFirst(WithEngine):
    changes: ClassVar = {
        "run.failure_error": lambda failures, *more: _failure_error(failures[::-1], *more),
    }


@caught_by("ERR-007", "only the first failure is told of")
class OtherFailuresUntold(WithEngine):
    changes: ClassVar = {"run.failure_error": lambda failures, *more: _failure_error(failures[:1], *more)}


def _end_without_trace(self: run.Run, state: Any, error: Any) -> None:
    if error and not state.outcomes:
        raise error
    _end_task(self, state, error)


@caught_by("ERR-008", "a task that fails before its first unit is not in the history")
class EarlyFailuresNotInHistory(WithEngine):
    changes: ClassVar = {"run.Run._end_task": _end_without_trace}


def _execute_all(self: run.Run) -> Any:
    errors = []
    for task in self._tasks:
        try:
            self._run_task(task)
        except (TaskExecutionError, JobExecutionError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return {
        "history": self._history,
        "filters": self._filters.model_dump(),
        "images": [i.as_dict() for i in self._images],
    }


@caught_by("ERR-009", "the tasks after one that failed are run all the same")
class OnAfterFailure(WithEngine):
    changes: ClassVar = {"run.Run.execute": _execute_all}


def _merge_with_filters(self: run.Run, state: Any, found: Sequence[Any]) -> Any:
    failures, state.failures = state.failures, []
    _merge(self, state, found)
    filters, state.failures = self._filters, failures
    error = _merge(self, state, found)
    self._filters = filters
    return error


@caught_by("ERR-010", "filters change although units failed")
class FiltersChangeAnyway(WithEngine):
    changes: ClassVar = {"run.Run._merge": _merge_with_filters}


@caught_by("ERR-011", "shell characters are allowed")
class ShellCharactersAllowed(WithEngine):
    changes: ClassVar = {"planning.FORBIDDEN_CHARACTERS": ""}


def _first_command(place: planning.TaskPlace) -> Any:
    task = place.workflow_task.task
    if not task.command_non_parallel or not task.command_parallel:
        return _commands(place)
    init = task.model_copy(update={"command_parallel": None})
    first = replace(place, workflow_task=place.workflow_task.model_copy(update={"task": init}))
    return _commands(first)[0], tuple(task.command_parallel.split())


def _checked_units(place: planning.TaskPlace, command: Any, arguments: Iterable[Any]) -> Any:
    _commands(place)
    return _parallel_units(place, command, arguments)


@caught_by("ERR-011", "the command of a compound task's units is checked after its init")
class CheckedAfterTheInit(WithEngine):
    changes: ClassVar = {
        "planning.TaskPlace.commands": _first_command,
        "planning.TaskPlace.parallel_units": _checked_units,
    }


@caught_by("ERR-012", "a command that is not there ends with 127, as in a shell")
class NotFoundAsExitCode(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return Outcome.exited(127) if outcome.cause is Cause.INVALID_COMMAND else outcome


def _no_output_where_invalid(unit: Unit, model: Any) -> Any:
    try:
        return _read_output(unit, model)
    except outputs.InvalidOutputError:
        if model is InitOutput:
            raise
        return model()


@caught_by("ERR-013", "an output that is none is taken for no output")
class InvalidOutputsIgnored(WithEngine):
    changes: ClassVar = {"run.read_output": _no_output_where_invalid}


def _empty_is_none(unit: Unit, model: Any) -> Any:
    path = Path(unit.output_file)
    if path.exists() and not path.read_bytes():
        return model()
    return _read_output(unit, model)


@caught_by("ERR-013", "an empty output file is taken for no output")
class EmptyOutputsIgnored(WithEngine):
    changes: ClassVar = {"run.read_output": _empty_is_none}


def _no_items_where_invalid(unit: Unit, model: Any) -> Any:
    try:
        return _read_output(unit, model)
    except outputs.InvalidOutputError:
        if model is InitOutput:
            return model()
        raise


@caught_by("ERR-014", "an init's output that is none asks for nothing")
class InvalidInitsIgnored(WithEngine):
    changes: ClassVar = {"run.read_output": _no_items_where_invalid}


@caught_by("ERR-015", "a path that begins as zarr_dir does counts as inside")
class PrefixIsInside(WithEngine):
    changes: ClassVar = {"image_list.is_inside": lambda url, folder: url.startswith(folder)}


def _merge_last_wins(found: Iterable[Any]) -> Any:
    last = {update.zarr_url: update for output in found for update in output.image_list_updates}
    return outputs.MergedOutput(list(last.values()))


@caught_by("ERR-015", "of two updates of an image the last one wins")
class LastUpdateWins(WithEngine):
    changes: ClassVar = {"run.merge_outputs": _merge_last_wins}


@caught_by("ERR-016", "errors have a message, and point to nothing")
class ErrorsWithoutFiles(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except JobExecutionError as error:
            raise JobExecutionError(str(error)) from error


@caught_by("ERR-016", "errors point to files that are not there")
class ErrorsWithOtherFiles(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except JobExecutionError as error:
            error.stderr_file = f"{error.stderr_file}.err"
            raise


@caught_by("ERR-017", "a unit that left an output counts as a success")
class OutputIsEnough(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return replace(outcome, cause=Cause.DONE) if Path(unit.output_file).exists() else outcome
