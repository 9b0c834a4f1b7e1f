"""Broken in what a server sees."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import Options, Outcome, RunInfo, RunResult, Unit, UnitEvent, UnitExecutor, UnitState
from fractal_backends.engine import run as engine_run
from fractal_backends.models import InitOutput
from tests.conformance.broken import caught_by
from tests.conformance.broken.tools import WithEngine

_judge = engine_run._judge


@caught_by("IFACE-001", "it cannot run anything: its executor needs a package that is not there")
class MissingPackage(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        import no_such_package  # type: ignore[import-not-found]

        return no_such_package.Executor(run)  # type: ignore[no-any-return]


@caught_by("IFACE-002", "an optional argument is required")
class RequiredArgument(LocalBackend):
    async def process_workflow(self, *, slurm_user: str | None, **arguments: Any) -> RunResult:  # type: ignore[override]
        return await super().process_workflow(slurm_user=slurm_user, **arguments)


@caught_by("IFACE-003", "only dicts are understood")
class DictsOnly(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        for task in arguments["workflow"]["task_list"]:
            task["task"].setdefault("meta_parallel", {})
        return await super().process_workflow(**arguments)


@caught_by("IFACE-004", "an internal key is left in the result")
class InternalKeyInTheResult(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        return {**result, "elapsed": time.time()}  # type: ignore[typeddict-unknown-key]


@caught_by("IFACE-004", "images come as a mapping from their URLs")
class ImagesByUrl(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        result: Any = await super().process_workflow(**arguments)
        result["images"] = {image["zarr_url"]: image for image in result["images"]}
        return result  # type: ignore[no-any-return]


@caught_by("IFACE-005", "the event loop waits with the run")
class EventLoopBlocked(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, super().process_workflow(**arguments)).result()


@caught_by("IFACE-006", "a cancel returns before the end: the run goes on in its thread")
class CancelThatDoesNotWait(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        task = asyncio.create_task(super().process_workflow(**arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise


@caught_by("IFACE-006", "a cancel is heard when the queue is looked at the next time, 7 s later")
class CancelHeardLate(LocalBackend):
    """The suite has half of its deadline for it: see `test_broken_backends`."""

    async def process_workflow(self, **arguments: Any) -> RunResult:
        task = asyncio.create_task(super().process_workflow(**arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.sleep(7)
            task.cancel()
            await asyncio.wait([task])
            raise


@caught_by("IFACE-006", "a cancel is taken for the end of the run: no CancelledError")
class CancelSwallowed(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            return {"history": [], "filters": {"types": {}, "attributes": {}}, "images": []}


class _ForgetsWhatEnded(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        ends = []
        for event in super().run(units, options):
            if event.state is UnitState.ENDED:
                ends.append(event)
                if len(ends) == len(units) and not self._cancelled.is_set():
                    yield from ends
            else:
                yield event


@caught_by("IFACE-007", "ends are told when all units have ended, so a cancel loses them")
class CancelLosesResults(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _ForgetsWhatEnded(run)


class _KeepsStarting(LocalExecutor):
    def cancel(self) -> None:
        self._supervisor.stop()
        type(self)._cancel_next(self)

    def _cancel_next(self) -> None:
        from fractal_backends import Supervisor

        if not hasattr(self, "_once_more"):
            self._once_more = True
            self._supervisor = Supervisor()
        else:
            super().cancel()


@caught_by("IFACE-007", "images of a run that is cancelled in a task of one unit are those of its beginning")
class CancelOfAnInitLosesTasks(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            folder = Path(arguments["workflow_dir_local"])
            last = max(folder.glob("*_*/*.args.json"), key=lambda path: path.stat().st_mtime_ns)
            if "_par_" not in last.name:
                (folder / "images.json").write_text(json.dumps(arguments["dataset"]["images"]))
            raise


def _init_is_done(unit: Unit, outcome: Outcome, model: Any) -> Any:
    return _judge(unit, Outcome.exited(0) if model is InitOutput else outcome, model)


@caught_by("IFACE-008", "the units that an init asked for start although it was cancelled")
class UnitsOfACancelledInitStart(WithEngine):
    """Each part of a task has an executor of its own, and a cancel is for the one that is there."""

    changes: ClassVar = {"run._judge": _init_is_done}

    def open(self, run: RunInfo) -> UnitExecutor:
        return _EachPartAnew(run)


class _EachPartAnew(UnitExecutor):
    def __init__(self, run: RunInfo) -> None:
        self._info = run
        self._now: UnitExecutor | None = None

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        with LocalExecutor(self._info) as self._now:
            yield from self._now.run(units, options)

    def cancel(self) -> None:
        if self._now is not None:
            self._now.cancel()


@caught_by("IFACE-008", "a cancel ends what runs, and the next units start")
class CancelEndsOnlyWhatRuns(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _KeepsStarting(run)


@caught_by("IFACE-009", "a second cancel lets the awaiting task go")
class SecondCancelLetsGo(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        task = asyncio.create_task(super().process_workflow(**arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise


@caught_by("IFACE-010", "wrong input is found when its task is reached, after others ran")
class InputCheckedTaskByTask(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        tasks = arguments["workflow"]["task_list"]
        if isinstance(tasks, list) and len(tasks) > 1:
            first = {**arguments, "workflow": {"task_list": tasks[:1]}}
            await super().process_workflow(**first)
        return await super().process_workflow(**arguments)


@caught_by("IFACE-011", "last_task_index is not included")
class LastTaskLeftOut(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        last = arguments.get("last_task_index")
        if last is not None and last > (arguments.get("first_task_index") or 0):
            arguments["last_task_index"] = last - 1
        return await super().process_workflow(**arguments)


@caught_by("IFACE-011", "the index 0 is taken for none")
class LastIndexZeroIsNone(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        arguments["last_task_index"] = arguments.get("last_task_index") or None
        return await super().process_workflow(**arguments)


@caught_by("IFACE-012", "an earlier run in the folder is overwritten")
class EarlierRunOverwritten(LocalBackend):
    async def process_workflow(self, *, workflow_dir_local: Path, **arguments: Any) -> RunResult:
        import shutil

        shutil.rmtree(workflow_dir_local, ignore_errors=True)
        return await super().process_workflow(workflow_dir_local=workflow_dir_local, **arguments)


@caught_by("IFACE-013", "the given dataset is updated in place")
class DatasetChangedInPlace(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        result = await super().process_workflow(**arguments)
        dataset = arguments["dataset"]
        if isinstance(dataset, dict):
            dataset["images"] = result["images"]
        return result


@caught_by("IFACE-014", "the given logger's name is ignored")
class LoggerIgnored(LocalBackend):
    async def process_workflow(self, *, logger_name: str, **arguments: Any) -> RunResult:
        return await super().process_workflow(logger_name="my_backend", **arguments)


@caught_by("IFACE-015", "unknown options are dropped")
class UnknownOptionsDropped(LocalBackend):
    def __init__(self, options: Any = None, observers: Any = ()) -> None:
        known = self.options_model.model_fields
        super().__init__({key: value for key, value in (options or {}).items() if key in known}, observers)


@caught_by("IFACE-016", "a key of another backend in a task's meta is an error")
class ForeignMetaRefused(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        known = set(self.options_model.model_fields)
        for task in arguments["workflow"]["task_list"]:
            unknown = {*task.get("meta_parallel", {}), *task.get("meta_non_parallel", {})} - known
            if unknown:
                raise ValueError(f"unknown keys in meta: {unknown}")
        return await super().process_workflow(**arguments)


@caught_by(
    "IFACE-017", "runs log in one after the other, by a lock of the event loop that it was first waited on"
)
class LockOfOneEventLoop(LocalBackend):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = asyncio.Lock()

    async def process_workflow(self, **arguments: Any) -> RunResult:
        async with self._lock:
            await asyncio.sleep(0.05)
        return await super().process_workflow(**arguments)


@caught_by("IFACE-017", "runs are handed to the event loop of the first one, which may be closed")
class FirstEventLoop(LocalBackend):
    _loop: asyncio.AbstractEventLoop | None = None

    async def process_workflow(self, **arguments: Any) -> RunResult:
        self._loop = self._loop or asyncio.get_running_loop()
        run = super().process_workflow(**arguments)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run, self._loop))


@caught_by("IFACE-017", "a run sees to signals, which Python allows in the main thread only")
class MainThreadOnly(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            return await super().process_workflow(**arguments)
        finally:
            signal.signal(signal.SIGTERM, before)
