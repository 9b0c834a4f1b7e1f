"""The command `run`."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..engine.backend import Backend
from ..engine.folder import LOG_FILE, save_dataset
from ..engine.planning import split_command
from ..errors import FractalBackendsError, InvalidInputError, UnsupportedArgumentError
from ..hooks import hookimpl
from ..interface import RunInfo
from ..models import Dataset, Workflow, load, read_json, task_slug
from ..registry import get_backend, get_backend_class
from .arguments import check_arguments
from .overrides import apply_overrides, parse_options
from .preview import show_preview
from .progress import Counts, make_display
from .resolve import resolve_workflow
from .terminal import add_row, harmless, make_console, make_table, one_line

DATASET_FILE = "dataset.json"
_WIDTH_OF_TABLE = 76
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for."""

    workflow: Path
    dataset: Path | None
    zarr_dir: str | None
    backend: str
    run_dir: Path | None
    task_environments: list[str]
    first_task: int | None
    last_task: int | None
    options: list[str]
    overrides: list[str]
    remote_dir: Path | None
    cache_dir: Path | None
    slurm_user: str | None
    slurm_account: str | None
    worker_init: str | None
    check: bool
    dry_run: bool


def run_workflow(request: RunRequest) -> bool:
    """Run a workflow and show how it goes. Returns whether it was interrupted.

    Raises FractalBackendsError: wrong input before anything runs, or the run's own error.
    """
    console = make_console(stderr=True)
    counts = Counts()
    display = make_display(console, counts)
    keeper = DatasetKeeper()
    backend = _make_backend(request, [counts, display, keeper])
    workflow = load_workflow(request)
    run_dir = (request.run_dir or _default_run_dir(workflow)).absolute()
    dataset = keeper.dataset = _load_dataset(request, run_dir)
    if isinstance(backend, Backend):
        prepared = backend.prepare(workflow, dataset, request.first_task, request.last_task)
        if request.dry_run:
            run = backend.run_info(run_dir, _logger_name(run_dir), **optional_arguments(request))
            backend.check(run, prepared)
            show_preview(backend, prepared, run)
            return False
        for text in prepared.warnings():
            console.print(Text(f"Warning: {harmless(text)}"), soft_wrap=True)
    elif request.dry_run:
        raise InvalidInputError(f"Backend {request.backend!r} offers no dry run")
    error: FractalBackendsError | None = None
    interrupted = False
    with display:
        try:
            logger = logging.getLogger(_logger_name(run_dir))
            _await(_process(backend, request, workflow, dataset, run_dir), console, logger)
        except asyncio.CancelledError:
            interrupted = True
        except FractalBackendsError as raised:
            error = raised
    if counts.reports or error is None:
        _show_end(counts, run_dir, dataset, interrupted=interrupted, failed=error is not None)
    if error is not None:
        raise error
    return interrupted


class DatasetKeeper:
    """An observer that keeps `dataset.json` up to date: whatever ends the run, it can be gone on with."""

    dataset: Dataset

    @hookimpl
    def task_started(self, run: RunInfo) -> None:
        """See `ObserverHooks`."""
        if not (run.workflow_dir_local / DATASET_FILE).exists():
            self.task_ended(run)

    @hookimpl
    def task_ended(self, run: RunInfo) -> None:
        """See `ObserverHooks`."""
        save_dataset(run.workflow_dir_local, self.dataset, run.workflow_dir_local / DATASET_FILE)


def _make_backend(request: RunRequest, observers: list[object]) -> Any:
    options = parse_options(request.options)
    if not issubclass(get_backend_class(request.backend), Backend):
        return get_backend(request.backend, options=options)  # it need not know of observers
    backend = get_backend(request.backend, options=options, observers=observers)
    backend.options_source = "--option"
    return backend


def load_workflow(request: RunRequest) -> Workflow:
    """The workflow with the user's changes, its tasks resolved and its arguments checked.

    Raises InvalidInputError, with all problems at once.
    """
    document = read_json(request.workflow)
    apply_overrides(document, request.overrides)
    resolved = resolve_workflow(document, request.task_environments, str(request.workflow))
    problems = check_arguments(resolved) if request.check else []
    try:
        workflow = load(Workflow, resolved.document)
    except InvalidInputError as error:
        problems = error.problems + problems
    else:
        problems += _check_commands(workflow)
    if problems:
        raise InvalidInputError(f"The workflow in {request.workflow} is not valid", problems)
    return workflow


def _check_commands(workflow: Workflow) -> list[str]:
    """What a run would find only when it comes to the task."""
    problems = []
    for order, workflow_task in enumerate(workflow.task_list):
        task = workflow_task.task
        for command in filter(None, (task.command_non_parallel, task.command_parallel)):
            try:
                split_command(command)
            except ValueError as error:
                text = str(error).replace("\n", " ")
                problems.append(f"task_list[{order}] {task.name!r}: Invalid command. Original error: {text}")
    return problems


def _load_dataset(request: RunRequest, run_dir: Path) -> Dataset:
    if request.dataset is not None and request.zarr_dir is not None:
        raise InvalidInputError("--dataset and --zarr-dir: give one of them; a dataset has its own zarr_dir")
    if request.dataset is not None:
        return load(Dataset, request.dataset)
    place = request.zarr_dir or str(run_dir / "zarr")
    return load(Dataset, {"zarr_dir": place if place.startswith("s3://") else os.path.abspath(place)})


def _default_run_dir(workflow: Workflow) -> Path:
    name = re.sub(r"[\W_]+", "-", task_slug(workflow.name or "workflow")).strip("-") or "workflow"
    # Others may start in the same second.
    return Path("runs") / f"{name[:80]}-{datetime.now():%Y%m%d-%H%M%S-%f}"


async def _process(
    backend: Any, request: RunRequest, workflow: Workflow, dataset: Dataset, run_dir: Path
) -> None:
    arguments = optional_arguments(request)
    try:
        await backend.process_workflow(
            workflow=workflow,
            dataset=dataset,
            workflow_dir_local=run_dir,
            first_task_index=request.first_task,
            last_task_index=request.last_task,
            logger_name=_logger_name(run_dir),
            **arguments,
        )
    except NotImplementedError as error:  # a backend without our base class need not know our errors
        if isinstance(error, FractalBackendsError) or not arguments:
            raise
        raise UnsupportedArgumentError(str(error)) from error


def optional_arguments(request: RunRequest) -> dict[str, Any]:
    """Those of the standard interface's optional arguments that were given."""
    arguments = {
        "workflow_dir_remote": request.remote_dir and request.remote_dir.absolute(),
        "user_cache_dir": request.cache_dir and str(request.cache_dir.absolute()),
        "slurm_user": request.slurm_user,
        "slurm_account": request.slurm_account,
        "worker_init": request.worker_init and _text(request.worker_init),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _text(value: str) -> str:
    """The text itself, or for `@FILE` that of the file. Raises InvalidInputError where it cannot be read."""
    if not value.startswith("@"):
        return value
    file = Path(value[1:])
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"Cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not a text file in UTF-8: {error}") from None


def _logger_name(run_dir: Path) -> str:
    return f"fractal_backends.run.{run_dir.name}"


class _Warnings(logging.Handler):
    """Shows why the end of a run that was interrupted takes long."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.levelno == logging.WARNING:  # errors are told at the end
            self._console.print(record.getMessage(), markup=False, highlight=False)


def _await(run: Coroutine[Any, Any, Any], console: Console, logger: logging.Logger) -> None:
    """Await a run; a signal to end ends it, and what it started. Raises asyncio.CancelledError then.

    Further signals change nothing, not even once the run has ended: where its files are is to be shown.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(run)

        def stop() -> None:
            if task.cancel() and task.cancelling() == 1:
                console.print("Interrupted: ending what runs…")
                logger.addHandler(_Warnings(console))

        def handle(*_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop)

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, handle)  # the loop's own way would end with the loop
        await task

    asyncio.run(main())


def _show_end(counts: Counts, run_dir: Path, dataset: Dataset, *, interrupted: bool, failed: bool) -> None:
    console = make_console()
    titles = ["", "Task", "State", "Units>", "Failed>", "Time>", "Peak memory>", "New images>"]
    titles = titles if console.width >= _WIDTH_OF_TABLE else titles[:-2]
    table = make_table(*titles)
    for task, report in counts.reports:
        status = "interrupted" if interrupted and report.status == "failed" else report.status
        state = Text(status, style="green" if status == "done" else "red")
        peak = "" if report.peak_mb is None else f"{report.peak_mb:,.0f} MB"
        numbers = (report.units, report.failed, f"{report.wall_s:.1f} s", peak, report.images_new)
        add_row(table, *(task.order, one_line(task.name), state, *numbers)[: len(titles)])
    if counts.reports:
        console.print(table)
    for title, place in (
        ("Images", dataset.zarr_dir),
        ("Run folder", run_dir),
        ("Log", run_dir / LOG_FILE),
        ("Dataset", run_dir / DATASET_FILE),
    ):
        if isinstance(place, str) or place.exists():
            console.print(Text(f"{title:<11}{place}"), soft_wrap=True)
    for task, report in counts.reports:
        if report.status == "done" and report.units == 0:
            console.print(Text(f"Task {task.order} had no images to work on."))
    if interrupted or failed:
        console.print("What had finished is saved.")
