"""Broken in how tasks are run, and in what becomes of what they give back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Filters,
    JobExecutionError,
    Options,
    Outcome,
    RunInfo,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)
from fractal_backends.engine import filters, image_list, outputs, planning, run
from fractal_backends.models import TaskOutput, TaskType, json_key
from tests.conformance.broken import caught_by
from tests.conformance.broken.tools import Really, WithEngine, WithExecutor, WithUnits

_non_parallel_arguments = planning.TaskPlace.non_parallel_arguments
_lines, _split_command = planning._lines, planning.split_command
_judge, _read_output = run._judge, outputs.read_output
_select_images, _next_filters = filters.select_images, filters.next_filters
_effective_filters = filters._effective_filters


def _sorted_arguments(place: planning.TaskPlace, images: Iterable[Any]) -> dict[str, Any]:
    return _non_parallel_arguments(place, sorted(images, key=lambda image: image.zarr_url))


@caught_by("EXEC-001", "zarr_urls are sorted")
class SortedUrls(WithEngine):
    changes: ClassVar = {"planning.TaskPlace.non_parallel_arguments": _sorted_arguments}


@caught_by("EXEC-002", "arguments that are None are left out")
class ArgumentsThatAreNoneLost(WithEngine):
    changes: ClassVar = {
        "planning._lines": lambda given: _lines({k: v for k, v in given.items() if v is not None})
    }


@caught_by("EXEC-002", "units are planned in the order of their URLs")
class UnitsInOrderOfUrls(WithEngine):
    changes: ClassVar = {
        "run.image_arguments": lambda images: [
            {"zarr_url": url} for url in sorted(i.zarr_url for i in images)
        ]
    }


def _unique_for_python(items: Iterable[Any]) -> list[Any]:
    unique: list[Any] = []
    for item in items:
        if item not in unique:
            unique.append(item)
    return unique


@caught_by("EXEC-003", "items of the parallelization list that differ as 1 and true do count as one")
class ItemsComparedByPython(WithEngine):
    changes: ClassVar = {"run.unique_items": _unique_for_python}


@caught_by("EXEC-003", "items that are twice in the parallelization list are run twice")
class ItemsRunTwice(WithEngine):
    changes: ClassVar = {"run.unique_items": list}


@caught_by("EXEC-004", "converters are run like other tasks")
class ConvertersLikeOthers(WithEngine):
    changes: ClassVar = {"run.TaskType.is_converter": False}


@caught_by("EXEC-005", "compound converters are run like other compound tasks")
class CompoundConvertersLikeOthers(WithEngine):
    changes: ClassVar = {
        "run.TaskType.is_converter": property(lambda kind: kind is TaskType.CONVERTER_NON_PARALLEL)
    }


class _InOrderOfEnds:
    """Keeps outputs as they come."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def judge(self, unit: Unit, outcome: Outcome, model: Any) -> Any:
        verdict, output = _judge(unit, outcome, model)
        if isinstance(output, TaskOutput):
            self.outputs.append(output)
        return verdict, output

    def merge(self, _: Iterable[Any]) -> Any:
        ended, self.outputs = self.outputs, []
        return outputs.merge_outputs(ended)


_ends = _InOrderOfEnds()


@caught_by("EXEC-006", "outputs are merged in the order in which units end")
class MergedAsTheyEnd(WithEngine):
    changes: ClassVar = {"run._judge": _ends.judge, "run.merge_outputs": _ends.merge}


@caught_by("EXEC-007", "units run one after the other")
class OneAfterTheOther(WithUnits):
    lock = threading.Lock()

    def execute(self, unit: Unit, really: Really) -> Outcome:
        with self.lock:
            return really(unit)


class _OneMore(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Any) -> Iterator[UnitEvent]:
        limit = options.parallel_tasks_per_job
        more = options.model_copy(update={"parallel_tasks_per_job": limit and limit + 1})
        return super().run(units, more)


@caught_by("EXEC-008", "one unit more than the limit runs")
class OneMoreThanTheLimit(WithExecutor):
    executor = _OneMore


class _Chunks(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Any) -> Iterator[UnitEvent]:
        size = options.ceiling
        for start in range(0, len(units), size):
            yield from super().run(units[start : start + size], options)


@caught_by("EXEC-008", "the limit is a chunk size: a slow unit keeps free slots idle")
class ChunksAsLimit(WithExecutor):
    executor = _Chunks


class _AtLeastTwo(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Any) -> Iterator[UnitEvent]:
        return super().run(
            units, options.model_copy(update={"parallel_tasks_per_job": max(2, options.ceiling)})
        )


@caught_by("EXEC-008", "a limit of 1 is not kept")
class LimitOfOneNotKept(WithExecutor):
    executor = _AtLeastTwo


@caught_by("EXEC-009", "a unit that fails is run again")
class FailuresRunAgain(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return outcome if outcome.exit_code == 0 else really(unit)


@caught_by("EXEC-009", "a unit whose first answer is lost is run again")
class LostAnswerRunAgain(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        if unit.component == 1:
            really(unit)
        return really(unit)


class _LastOneTakenForFinished(LocalExecutor):
    """Asks a queue for what is in it; what it does not show is over."""

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        left = {unit.label: unit for unit in units}
        for event in super().run(units, options):
            yield event
            if event.state is UnitState.ENDED:
                del left[event.unit.label]
                if len(left) == 1 < len(units):
                    break
        for unit in left.values():
            yield UnitEvent(unit, UnitState.ENDED, Outcome.exited(0))


@caught_by("EXEC-010", "a unit that is lost sight of is taken for finished")
class UnknownIsFinished(WithExecutor):
    executor = _LastOneTakenForFinished


def _until_there_is_output(unit: Unit, really: Really) -> Outcome:
    ends: list[Outcome] = []
    thread = threading.Thread(target=lambda: ends.append(really(unit)))
    thread.start()
    while thread.is_alive():
        if Path(unit.output_file).exists():
            return Outcome.exited(0)
        time.sleep(0.01)
    return ends[0]


@caught_by("EXEC-011", "an init is over as soon as its list is there")
class ListTakenForTheEnd(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        return really(unit) if unit.component is not None else _until_there_is_output(unit, really)


@caught_by("EXEC-012", "a unit is over as soon as its output is there")
class OutputTakenForTheEnd(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        return _until_there_is_output(unit, really)


def _reading(change: Callable[[bytes], bytes]) -> Callable[[Unit, Any], Any]:
    """Read outputs as if something else were in their files."""

    def read(unit: Unit, model: Any) -> Any:
        path = Path(unit.output_file)
        if path.exists():
            path.write_bytes(change(path.read_bytes()))
        return _read_output(unit, model)

    return read


@caught_by("EXEC-012", "outputs come through a pipe, of which one buffer is read")
class LongOutputsCutOff(WithEngine):
    changes: ClassVar = {"run.read_output": _reading(lambda data: data[:65_536])}


@caught_by("EXEC-013", "images of which a task says nothing stay as they are")
class NoOutputMeansNothing(WithEngine):
    changes: ClassVar = {"run._untouched": lambda _state, _outputs: []}


@caught_by("EXEC-013", "null is not taken as an output")
class NullIsInvalid(WithEngine):
    changes: ClassVar = {"run.read_output": _reading(lambda data: b"[]" if data.strip() == b"null" else data)}


def _select_some(*arguments: Any) -> Any:
    images = _select_images(*arguments)
    if not images:
        raise JobExecutionError("There are no images to work on.")
    return images


@caught_by("EXEC-014", "a task without images is an error")
class NoImagesIsAnError(WithEngine):
    changes: ClassVar = {"run.select_images": _select_some}


def _units_or_error(items: Iterable[Any]) -> Any:
    wanted = outputs.unique_items(items)
    if not wanted:
        raise JobExecutionError("The init returned no parallelization list.")
    return wanted


@caught_by("EXEC-014", "an init that asks for nothing is an error")
class NoItemsIsAnError(WithEngine):
    changes: ClassVar = {"run.unique_items": _units_or_error}


def _select(images: image_list.ImageList, wanted: Filters) -> list[Any]:
    return [
        image
        for image in images
        if all(image.types.get(name) == value for name, value in wanted.types.items())
        and all(
            value is None or json_key(image.attributes.get(name)) == json_key(value)
            for name, value in wanted.attributes.items()
        )
    ]


@caught_by("EXEC-015", "a type that an image does not have is neither true nor false")
class MissingTypeIsUnknown(WithEngine):
    changes: ClassVar = {"image_list.ImageList.select": _select}


@caught_by("EXEC-015", "attributes are compared as Python compares: true is 1")
class TrueIsOne(WithEngine):
    changes: ClassVar = {"image_list.json_key": lambda value: value}


@caught_by("EXEC-015", "the older input_filters are not looked at")
class OlderFiltersIgnored(WithEngine):
    changes: ClassVar = {
        "filters._effective_filters": lambda current, task: _effective_filters(
            current, task.model_copy(update={"input_filters": None})
        )
    }


def _select_or_none(*arguments: Any) -> Any:
    try:
        return _select_images(*arguments)
    except JobExecutionError:
        return []


@caught_by("EXEC-016", "a task whose filters leave nothing is done at once")
class NothingLeftIsDone(WithEngine):
    changes: ClassVar = {"run.select_images": _select_or_none}


def _shell_command(command: str) -> tuple[str, ...]:
    _split_command(command)
    return ("/bin/sh", "-c", f'{command} "$@"', "sh")


@caught_by("EXEC-017", "commands go through a shell")
class ThroughShell(WithEngine):
    changes: ClassVar = {"planning.split_command": _shell_command}


@caught_by("EXEC-017", "commands are split at spaces, whatever the quotes")
class SplitAtSpaces(WithEngine):
    changes: ClassVar = {"planning.shlex": SimpleNamespace(split=str.split)}


@caught_by("EXEC-017", "the words of a command are put together again, without quotes, for a script")
class WordsInScript(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        script = " ".join(unit.task_command) + ' "$@"'
        return really(replace(unit, task_command=("/bin/sh", "-c", script, "sh")))


@caught_by("EXEC-018", "output types are not added to the filters")
class OutputTypesNoFilter(WithEngine):
    changes: ClassVar = {
        "run.next_filters": lambda current, task, own: _next_filters(
            current, task.model_copy(update={"task": task.task.model_copy(update={"output_types": {}})}), own
        )
    }


@caught_by("EXEC-018", "filters from an output replace those of the dataset")
class FiltersReplaced(WithEngine):
    changes: ClassVar = {
        "run.next_filters": lambda current, task, own: _next_filters(Filters() if own else current, task, own)
    }


@caught_by("EXEC-018", "where units set different filters the last one wins")
class LastFiltersWin(WithEngine):
    changes: ClassVar = {"outputs._agreed_filters": lambda known, other: other or known}


class _FirstOptions(LocalExecutor):
    first: Options | None = None

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        self.first = self.first or options
        return super().run(units, self.first)


@caught_by("EXEC-020", "the options of a run's first task hold for all of its tasks")
class FirstOptionsForAll(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _FirstOptions(run)
