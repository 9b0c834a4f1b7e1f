"""Broken in ways that only some workflows show."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from unittest import mock

from fractal_backends_local import LocalBackend

from fractal_backends import Cause, Image, JobExecutionError, Outcome, RunResult, Unit
from fractal_backends.engine import filters, image_list, outputs, run
from fractal_backends.engine.folder import RunFolder
from fractal_backends.engine.outputs import read_output
from fractal_backends.engine.verdicts import failure_error
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend
from tests.conformance.broken.tools import WithEngine

_save = RunFolder.save
_apply, _updated = image_list._apply, image_list.ImageList.updated
_judge, _merge, _next_filters = run._judge, outputs.merge_outputs, filters.next_filters


def _removed_first(images: image_list.ImageList, merged: outputs.MergedOutput, *others: Any) -> Any:
    left, _ = _updated(images, outputs.MergedOutput(removals=merged.removals), *others)
    return _updated(left, outputs.MergedOutput(updates=merged.updates), *others)


@caught_by("EXEC-019", "images are removed before others are updated")
class RemovedFirst(WithEngine):
    changes: ClassVar = {"image_list.ImageList.updated": _removed_first}


def _without_types(update: Any, known: Image | None, images: Mapping[str, Image], output_types: Any) -> Image:
    bare = {url: replace(image, types={}) for url, image in images.items()}
    return _apply(update, known, bare, output_types)


@caught_by("EXEC-019", "an image inherits attributes from its origin, but no types")
class TypesNotInherited(WithEngine):
    changes: ClassVar = {"image_list._apply": _without_types}


def _with_nothing(update: Any, *others: Any) -> Image:
    image = _apply(update, *others)
    return replace(image, attributes={**image.attributes, **dict.fromkeys(_nothing(update), "None")})


def _nothing(update: Any) -> Iterator[str]:
    return (name for name, value in update.attributes.items() if value is None)


@caught_by("EXEC-019", "an attribute that is None is stored, as a text")
class NothingIsStored(WithEngine):
    changes: ClassVar = {"image_list._apply": _with_nothing}


@caught_by("EXEC-015", "filters are compared as Python compares: true is 1")
class FiltersComparedByPython(WithEngine):
    changes: ClassVar = {"image_list.json_key": lambda value: value}


def _conflict_if_repeated(given: Iterable[Any]) -> outputs.MergedOutput:
    merged, together = _merge(all_of_them := list(given)), []
    for output in all_of_them:
        together += [update.zarr_url for update in output.image_list_updates]
    if len(set(together)) < len(together):
        raise JobExecutionError(f"TaskOutput has non-unique zarr_urls:\n{together}")
    return merged


@caught_by("EXEC-019", "two units that say the same of an image are in conflict")
class SameUpdatesInConflict(WithEngine):
    changes: ClassVar = {"run.merge_outputs": _conflict_if_repeated}


def _types_for_known(update: Any, known: Image | None, images: Any, output_types: Any) -> Image:
    return _apply(update, known, images, output_types if known else {})


@caught_by("EXEC-019", "new images do not get the task's output types")
class OutputTypesOnlyForKnown(WithEngine):
    changes: ClassVar = {"image_list._apply": _types_for_known}


def _origin_of_the_update(update: Any, *others: Any) -> Image:
    return replace(_apply(update, *others), origin=update.origin)


@caught_by("EXEC-019", "an update without an origin takes away the one that is stored")
class OriginLost(WithEngine):
    changes: ClassVar = {"image_list._apply": _origin_of_the_update}


def _of_the_old_list(images: image_list.ImageList, merged: outputs.MergedOutput, *others: Any) -> Any:
    before = dict(images._by_url)
    with_old = lambda update, known, _, types: _apply(update, known, before, types)  # noqa: E731
    image_list._apply = with_old
    return _updated(images, merged, *others)


@caught_by("EXEC-019", "what is inherited is from before the task, also where the origin was updated")
class OldOriginInherited(WithEngine):
    changes: ClassVar = {"image_list.ImageList.updated": _of_the_old_list}


@caught_by("ERR-015", "a folder is inside another one if its name begins with the other's")
class InsideByPrefix(WithEngine):
    changes: ClassVar = {"image_list.is_inside": lambda url, folder: url.startswith(folder)}


@caught_by("ISO-005", "the images of the last run that succeeded are kept, whatever the dataset has")
class ImagesOfTheLastSuccess(LocalBackend):
    kept: RunResult | None = None

    async def process_workflow(self, *, dataset: Any, **arguments: Any) -> RunResult:
        if self.kept:
            dataset = {**dataset, "images": self.kept["images"]}
        self.kept = await super().process_workflow(dataset=dataset, **arguments)
        return self.kept


@caught_by("RAND-002", "the history is that of all runs of the backend object")
class HistoryOfAllRuns(LocalBackend):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: list[Any] = []

    async def process_workflow(self, **arguments: Any) -> RunResult:
        before = list(self._done)

        def save(folder: RunFolder, images: Any, filters: Any, history: list[Any]) -> None:
            self._done = [*before, *history]
            _save(folder, images, filters, self._done)

        with mock.patch.object(RunFolder, "save", save):
            return await super().process_workflow(**arguments)


_outputs: dict[str, Any] = {}


def _read_once(unit: Unit, model: Any) -> Any:
    return _outputs.setdefault(unit.label, read_output(unit, model))


@caught_by("RAND-002", "an output that was read for an earlier run is not read again")
class OutputsRemembered(WithEngine):
    changes: ClassVar = {"run.read_output": _read_once}


@caught_by("RAND-002", "a task that failed is not begun again: the next one is")
class GoesOnBehindTheFailure(LocalBackend):
    failed: int | None = None

    async def process_workflow(self, *, first_task_index: int | None = None, **arguments: Any) -> RunResult:
        last = arguments.get("last_task_index")
        if self.failed is not None and self.failed == first_task_index and last and last > first_task_index:
            first_task_index += 1
        try:
            return await super().process_workflow(first_task_index=first_task_index, **arguments)
        except Exception:
            self.failed = first_task_index
            raise


@caught_by("RAND-003", "exit codes above 128 are taken for signals")
class LargeCodesAreSignals(PlainBackend):
    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        return Outcome.exited(128 - returncode if returncode > 128 else returncode)


def _last_first(failures: Any, *others: Any) -> Exception:
    return failure_error(failures[::-1], *others)


@caught_by("RAND-003", "the last failure is raised")
class LastFailureRaised(WithEngine):
    changes: ClassVar = {"run.failure_error": _last_first}


def _judge_by_output(unit: Unit, outcome: Outcome, model: Any) -> Any:
    verdict, output = _judge(unit, outcome, model)
    if verdict.cause is Cause.TASK_ERROR:
        _, output = _judge(unit, Outcome.exited(0), model)
    return verdict, output


@caught_by("RAND-003", "the outputs of units that fail are used")
class OutputsOfFailuresUsed(WithEngine):
    changes: ClassVar = {"run._judge": _judge_by_output}


def _of_one_kind(failures: Any, *others: Any) -> Exception:
    cause = failures[0].outcome.cause
    return failure_error([failure for failure in failures if failure.outcome.cause is cause], *others)


@caught_by("RAND-003", "failures of another kind than the first are not counted")
class OneKindCounted(WithEngine):
    changes: ClassVar = {"run.failure_error": _of_one_kind}


@caught_by("RAND-004", "what left a unit's process group outlives a cancel")
class OtherSessionsOutliveACancel(PlainBackend):
    """It does not look for them."""


def _done(folder: RunFolder, images: Any, filters: Any, history: list[Any]) -> None:
    _save(folder, images, filters, [{**entry, "status": "done"} for entry in history])


@caught_by("RAND-004", "a task that was cancelled is done, in the history")
class CancelledIsDone(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _done}


def _singles_done(folder: RunFolder, images: Any, filters: Any, history: list[Any]) -> None:
    last = history[-1:]
    if last and last[0]["workflowtask"]["task"]["type"] == "non_parallel":
        history = [*history[:-1], {**last[0], "status": "done"}]
    _save(folder, images, filters, history)


@caught_by("RAND-004", "a non-parallel task that was cancelled is done, in the history")
class CancelledSingleIsDone(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _singles_done}


def _images_only(folder: RunFolder, images: Any, filters: Any, history: list[Any]) -> None:
    if history and history[-1]["status"] == "failed":
        _save(folder, images, filters, history[:-1])
    else:
        _save(folder, images, filters, history)


@caught_by("IFACE-007", "of a task that was cancelled the images are saved, but not that it was begun")
class CancelledIsNoHistory(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _images_only}


@caught_by("RAND-004", "a cancelled run returns what it has")
class CancelledIsASuccess(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            return {"history": [], "filters": {"types": {}, "attributes": {}}, "images": []}


@caught_by("RAND-001", "the images of a result are sorted by their URLs")
class ImagesSorted(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        result["images"].sort(key=lambda image: image["zarr_url"])
        return result
