"""`Backend`: the standard interface on top of a `UnitExecutor`."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FractalBackendsError, InvalidInputError, JobExecutionError
from ..hooks import Observers
from ..interface import BackendAttributes, RunInfo, RunLogger, RunResult, TaskPart, UnitExecutor
from ..options import Options, Source
from .folder import RunFolder
from .parts import task_parts
from .preparation import PreparedRun, prepare
from .run import Run
from .run_info import make_run_info
from .run_log import run_log

ResultT = TypeVar("ResultT")


class Backend(BackendAttributes, ABC):
    """Base class of backends: give it a `name`, an `interface_version` and `open`.

    `options` are values for `options_model`; they win over the configuration file and the tasks' meta.
    `observers` are told how every run goes (see `fractal_backends.hooks`). One backend object may serve any
    number of runs, at the same time too.
    """

    options_model = Options
    options_source = "the backend's options"
    """What error messages call the place where `options` came from."""

    def __init__(self, options: Mapping[str, Any] | None = None, observers: Iterable[object] = ()) -> None:
        self.options = dict(options or {})
        self.observers = list(observers)

    @abstractmethod
    def open(self, run: RunInfo) -> UnitExecutor:
        """An executor for one run. It is entered as a context manager before its first unit."""

    def problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """Why the run cannot be as a whole, such as options that contradict an argument.

        Asked for before anything starts, by dry runs too; a run with problems is refused with all of them.
        How many units a part has is not told here.
        """
        return ()

    def explain(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """What a dry run shows of this backend: how the parts would run, a paragraph each.

        It may ask the engine, but starts nothing and writes nothing.
        """
        return ()

    async def process_workflow(
        self,
        *,
        workflow: Any,
        dataset: Any,
        workflow_dir_local: Path,
        workflow_dir_remote: Path | None = None,
        first_task_index: int | None = None,
        last_task_index: int | None = None,
        logger_name: str,
        user_cache_dir: str | os.PathLike[str] | None = None,
        slurm_user: str | None = None,
        slurm_account: str | None = None,
        worker_init: str | None = None,
    ) -> RunResult:
        """Run a workflow on a dataset; its files go to `workflow_dir_local`.

        `workflow` and `dataset` may be models, dicts, paths of JSON files or objects with the same
        attributes. Returns the run's history, and the dataset's filters and images after it. The event loop
        stays free. Cancelling the awaiting task ends the run: what had ended is saved, and no process is
        left when the cancellation comes through.

        Raises InvalidInputError (a ValueError) for wrong input, before anything runs;
        UnsupportedArgumentError (a NotImplementedError) for an argument that this backend refuses;
        TaskExecutionError and JobExecutionError for what goes wrong afterwards.
        """
        info = self.run_info(
            workflow_dir_local,
            logger_name,
            workflow_dir_remote=workflow_dir_remote,
            user_cache_dir=user_cache_dir,
            slurm_user=slurm_user,
            slurm_account=slurm_account,
            worker_init=worker_init,
        )
        control = _Control()

        def work() -> RunResult:
            prepared = self.prepare(workflow, dataset, first_task_index, last_task_index)
            self.check(info, prepared)
            if control.cancelled.is_set():
                raise JobExecutionError("The run was cancelled.")
            return self._run(info, prepared, control)

        return await _in_thread(work, control.cancel)

    def run_info(self, workflow_dir_local: Path, logger_name: str, **arguments: Any) -> RunInfo:
        """A new run with those of the optional arguments that this backend heeds, as in `process_workflow`.

        Raises UnsupportedArgumentError for one that it refuses, InvalidInputError for one that is wrong.
        """
        return make_run_info(type(self), workflow_dir_local, logger_name, **arguments)

    def prepare(
        self,
        workflow: Any,
        dataset: Any,
        first_task_index: int | None = None,
        last_task_index: int | None = None,
    ) -> PreparedRun:
        """Validate the input of a run, as `process_workflow` does. Raises InvalidInputError."""
        return prepare(
            type(self),
            Source(self.options_source, self.options),
            workflow=workflow,
            dataset=dataset,
            first_task_index=first_task_index,
            last_task_index=last_task_index,
        )

    def check(self, run: RunInfo, prepared: PreparedRun) -> None:
        """Raises InvalidInputError where this backend sees problems in the run as a whole."""
        if problems := list(dict.fromkeys(self.problems(run, task_parts(run, prepared)))):
            raise InvalidInputError(f"Backend {self.name!r} cannot run this", problems)

    def _open(self, info: RunInfo) -> UnitExecutor:
        try:
            return self.open(info)
        except FractalBackendsError:
            raise
        except Exception as error:
            raise JobExecutionError(
                f"Backend {self.name!r} cannot start: {type(error).__name__}: {error}"
            ) from error

    def _run(self, info: RunInfo, prepared: PreparedRun, control: _Control) -> RunResult:
        folder = RunFolder(info.workflow_dir_local)
        folder.claim()
        with run_log(info):
            logger = info.logger
            observers = Observers(self.observers, logger)
            logger.info("Run starts: backend %s, %d tasks", self.name, len(prepared.tasks))
            for text in prepared.warnings():
                logger.warning("%s", text)
            observers.notify("run_started", run=info)
            error: BaseException | None = None
            try:
                with self._open(info) as executor:
                    control.attach(executor)
                    run = Run(info, prepared, folder, executor, observers, control.cancelled)
                    return run.execute()
            except BaseException as raised:
                error = raised
                raise
            finally:
                _log_end(logger, error, is_cancelled=control.cancelled.is_set())
                observers.notify("run_ended", run=info, error=error)


def _log_end(logger: RunLogger, error: BaseException | None, *, is_cancelled: bool) -> None:
    end = "cancelled" if is_cancelled else "failed"
    if error is None:
        logger.info("Run ends: done")
    elif isinstance(error, FractalBackendsError):
        logger.error("Run ends: %s\n%s", end, error)
    else:
        logger.error("Run ends: %s", end, exc_info=error)


class _Control:
    """Cancels a run from another thread, also one whose executor is not open yet."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._executor: UnitExecutor | None = None

    def attach(self, executor: UnitExecutor) -> None:
        with self._lock:
            self._executor = executor

    def cancel(self) -> None:
        self.cancelled.set()
        with self._lock:
            executor = self._executor
        if executor is not None:
            executor.cancel()


async def _in_thread(work: Callable[[], ResultT], cancel: Callable[[], None]) -> ResultT:
    """Await `work`, done in a thread of its own. When cancelled, `cancel` it and wait for its end."""
    # Not asyncio.to_thread: its pool is small, and a run may take days.
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            loop.call_soon_threadsafe(_settle, future, None, error)
        else:
            loop.call_soon_threadsafe(_settle, future, result, None)

    thread = threading.Thread(target=run, name="fractal-run")
    thread.start()
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
        await _until_ended(future, cancel)
        thread.join()
        raise
    thread.join()
    return result


async def _until_ended(future: asyncio.Future[Any], cancel: Callable[[], None]) -> None:
    """Cancel, and wait whatever happens: further cancellations change nothing."""
    canceller = threading.Thread(target=cancel, name="fractal-cancel")
    canceller.start()
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    future.exception()
    canceller.join()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
