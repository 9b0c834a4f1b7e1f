"""Broken where there is much to do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import Cause, Options, Outcome, Unit, UnitEvent
from fractal_backends.engine.folder import RunFolder
from fractal_backends.engine.preparation import PreparedRun
from fractal_backends.engine.verdicts import failure_error
from tests.conformance.broken import caught_by
from tests.conformance.broken.tools import Really, WithEngine, WithExecutor, WithUnits


class _FirstThousand(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        return super().run(units[:1000], options)


@caught_by("SCALE-001", "what is beyond the engine's limit of 1,000 units is not submitted")
class FirstThousandOnly(WithExecutor):
    executor = _FirstThousand


class _WholeBatches(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        left_over = len(units) % 5 if len(units) > 5 else 0
        return super().run(units[: len(units) - left_over], options)


@caught_by("SCALE-001", "units go in batches of five, and those that are left over are forgotten")
class WholeBatchesOnly(WithExecutor):
    executor = _WholeBatches


class _OneAndTheOthers(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        yield from super().run(units[:2], options)
        if len(units) > 2:
            yield from self.run(units[2:], options)


@caught_by("SCALE-001", "the units that are left are a matter for another call, inside the one before")
class OneCallInsideTheOther(WithExecutor):
    executor = _OneAndTheOthers


class _AllStatesWritten(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        states = {unit.label: "waiting" for unit in units}
        path = Path(units[0].stem).parent / "states.json"
        for event in super().run(units, options):
            states[event.unit.label] = event.state
            path.write_text(json.dumps(states, indent=1))
            yield event


@caught_by("SCALE-001", "the states of all units are written down whenever one of them changes")
class AllStatesWrittenEachTime(WithExecutor):
    executor = _AllStatesWritten


def _with_all_logs(failures: Any, *others: Any) -> Exception:
    error = failure_error(failures, *others)
    error.args = (
        "\n".join([str(error), *(Path(failure.unit.log_file).read_text() for failure in failures)]),
    )
    return error


@caught_by("SCALE-002", "the error holds the logs of all units that failed")
class AllLogsInTheError(WithEngine):
    changes: ClassVar = {"run.failure_error": _with_all_logs}


@caught_by("SCALE-002", "after 100 failures the others are not attempted")
class EnoughFailures(WithUnits):
    failures = 0

    def execute(self, unit: Unit, really: Really) -> Outcome:
        if self.failures >= 100:
            return Outcome(Cause.TASK_ERROR, exit_code=3)
        outcome = really(unit)
        self.failures += outcome.cause is not Cause.DONE
        return outcome


def _first_of_many(failures: Any, units: int, *others: Any) -> Exception:
    return failure_error(failures[:100], units, *others)


@caught_by("SCALE-002", "no more than 100 failures are counted")
class HundredFailuresCounted(WithEngine):
    changes: ClassVar = {"run.failure_error": _first_of_many}


@caught_by("SCALE-003", "the log of every unit stays open until the run is over")
class LogsStayOpen(WithUnits):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logs: list[int] = []

    def execute(self, unit: Unit, really: Really) -> Outcome:
        self._logs.append(os.open(unit.log_file, os.O_RDONLY | os.O_CREAT, 0o600))
        return really(unit)


def _by_name(tasks: Sequence[Any]) -> list[Any]:
    return sorted(tasks, key=lambda task: f"{task.order}_{task.workflow_task.task.name}")


@caught_by("SCALE-004", "tasks are run in the order of the names of their folders")
class TasksInOrderOfNames(LocalBackend):
    def prepare(self, *arguments: Any, **more: Any) -> PreparedRun:
        prepared = super().prepare(*arguments, **more)
        return PreparedRun(_by_name(prepared.tasks), prepared.dataset)


_save = RunFolder.save


def _save_the_last(folder: RunFolder, images: Any, filters: Any, history: list[Any]) -> None:
    _save(folder, images, filters, history[-30:])


@caught_by("SCALE-004", "the history has room for 30 tasks")
class HistoryOfThirty(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _save_the_last}


class _CancelsOneByOne(LocalExecutor):
    _units: Sequence[Unit] = ()

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        self._units = units
        yield from super().run(units, options)

    def cancel(self) -> None:
        if not self._cancelled.is_set():
            for unit in self._units:
                if not os.path.exists(unit.log_file):
                    time.sleep(0.1)
        super().cancel()


@caught_by("SCALE-005", "each unit that waits is cancelled by a command of its own, which takes 0.1 s")
class WaitingUnitsCancelledOneByOne(WithExecutor):
    executor = _CancelsOneByOne
