"""The commands and their options; what they do is in the modules beside this one, imported when needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FractalBackendsError, JobExecutionError, TaskExecutionError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
_WHERE = "Where and as whom (not every backend heeds these: see info)"

app = typer.Typer(
    name="fractal-backends",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Errors as messages and exit codes: 1 a run failed, 2 wrong input, 130 interrupted."""
    try:
        yield
    except FractalBackendsError as error:
        failed = isinstance(error, TaskExecutionError | JobExecutionError)
        _show_error(error)
        raise typer.Exit(FAILED if failed else WRONG_INPUT) from None
    except OSError as error:
        _show_error(_in_words(error))
        raise typer.Exit(WRONG_INPUT) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _in_words(error: OSError) -> str:
    """Without the number, and the file first."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _show_error(error: Exception | str) -> None:
    from rich.text import Text

    from .terminal import harmless, make_console

    make_console(stderr=True).print(Text(f"Error: {harmless(str(error))}", style="red"), soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib_metadata import version

        print(version("fractal-backends"))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run Fractal workflows (bio-image analysis on OME-Zarr) on any machine, through named backends."""


@app.command("list")
def list_backends(
    check: Annotated[bool, typer.Option("--check", help="Load each one, in a process of its own.")] = False,
    as_json: Json = False,
) -> None:
    """The installed backends: name, distribution, version, state.

    Nothing is imported, so a broken plugin cannot harm; `--check` tells which ones load, and why not.
    Exit code 1 if `--check` finds one that does not.

    Examples: `fractal-backends list`, `fractal-backends list --check --json`
    """
    from .listing import show_backends

    with exit_codes():
        if not show_backends(check=check, as_json=as_json):
            raise typer.Exit(FAILED)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A backend's name, as in `list`.")], as_json: Json = False
) -> None:
    """What a backend can do: capabilities, options with types and defaults, what it ignores or refuses.

    Example: `fractal-backends info local`
    """
    from .listing import show_backend

    with exit_codes():
        show_backend(name, as_json=as_json)


@app.command()
def tasks(
    environments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ENV]...", help="Folders of venvs, or interpreters; default: this one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The Fractal tasks in Python environments: package, version, name, type, input and output types.

    Example: `fractal-backends tasks path/to/venv`
    """
    from .listing import show_tasks

    with exit_codes():
        show_tasks(environments or [], as_json=as_json)


@app.command()
def run(
    workflow: Annotated[
        Path, typer.Argument(help="JSON file: a workflow as Fractal exports it, or with commands.")
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="JSON of the dataset to go on with, such as an earlier run's.")
    ] = None,
    zarr_dir: Annotated[
        str | None, typer.Option(help="For a new dataset: where its images go. Default: RUN_DIR/zarr.")
    ] = None,
    backend: Annotated[str, typer.Option(help="The backend's name, as in `list`.")] = "local",
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for the run's files. Default: one in ./runs, with the time.")
    ] = None,
    task_env: Annotated[
        list[str] | None,
        typer.Option(help="Python environment with the tasks' packages: a venv's folder or an interpreter."),
    ] = None,
    first_task: Annotated[int | None, typer.Option(help="Index of the first task to run, from 0.")] = None,
    last_task: Annotated[int | None, typer.Option(help="Index of the last task to run.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the backend, as in `info`.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change the workflow: PATH starts with a task's index, VALUE is JSON or text,"
            " as in 3.args_parallel.label=cells.",
        ),
    ] = None,
    remote_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=_WHERE,
            readable=False,  # who runs this need not be able to enter it
            help="Folder of the run on the cluster, if not RUN_DIR.",
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=_WHERE,
            readable=False,
            help="The user's cache folder.",
        ),
    ] = None,
    slurm_user: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=_WHERE, help="The user of the cluster to run as."),
    ] = None,
    slurm_account: Annotated[
        str | None, typer.Option(metavar="NAME", rich_help_panel=_WHERE, help="The account that is charged.")
    ] = None,
    worker_init: Annotated[
        str | None,
        typer.Option(
            metavar="LINES",
            rich_help_panel=_WHERE,
            help="Shell before the units; `@FILE` reads it from a file.",
        ),
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not check the arguments against the tasks' JSON Schemas.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run; start nothing and write nothing.")
    ] = False,
) -> None:
    """Run a workflow.

    Exit codes: 0 done, 1 a task or the run failed, 2 wrong input, 130 interrupted.

    Examples:

    - `fractal-backends run workflow.json --zarr-dir zarr --task-env venv`
    - `fractal-backends run workflow.json --dataset runs/first/dataset.json --first-task 3`
    - `fractal-backends run workflow.json --set 3.args_parallel.label=cells --option parallel_tasks_per_job=4`
    """
    from .run import RunRequest, run_workflow

    with exit_codes():
        interrupted = run_workflow(
            RunRequest(
                workflow=workflow,
                dataset=dataset,
                zarr_dir=zarr_dir,
                backend=backend,
                run_dir=run_dir,
                task_environments=task_env or [],
                first_task=first_task,
                last_task=last_task,
                options=option or [],
                overrides=set_ or [],
                remote_dir=remote_dir,
                cache_dir=cache_dir,
                slurm_user=slurm_user,
                slurm_account=slurm_account,
                worker_init=worker_init,
                check=not no_check,
                dry_run=dry_run,
            )
        )
        if interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A backend's name, as in `list`.")],
    options: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='What to judge it with: `{"options": {...}, "arguments": {...}, "time_limit_s": 60}`,'
            " with options of the backend, values for its optional arguments, such as a `slurm_user` that"
            " there is, and the smallest time limit that its engine has.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="`smoke`, an area, or a requirement such as EXEC-006; repeatable."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="Write the tests' results as JUnit XML.")
    ] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")] = None,
    badge_file: Annotated[Path | None, typer.Option("--badge", help="Write a badge, as SVG.")] = None,
    deadline: Annotated[
        float,
        typer.Option(
            min=1, max=86_400, help="Seconds that each test has; a backend that hangs fails after them."
        ),
    ] = 60,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Other random examples than the usual ones: those of this seed.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many random examples for each test of such.")
    ] = None,
) -> None:
    """Judge a backend by the conformance suite.

    Exit codes: 0 it conforms, 1 it does not, 2 wrong input, 130 interrupted.

    Examples:

    - `fractal-backends check local`
    - `fractal-backends check local --only smoke`
    - `fractal-backends check my-cluster --options site.json --html report.html --badge badge.svg`
    """
    from .check import CheckRequest, check_backend

    with exit_codes():
        conforms = check_backend(
            CheckRequest(
                backend=name,
                options_file=options,
                only=only or [],
                deadline_s=deadline,
                seed=seed,
                examples=examples,
                json_file=json_file,
                junit_file=junit_file,
                html_file=html_file,
                badge_file=badge_file,
            )
        )
        if not conforms:
            raise typer.Exit(FAILED)


class Kind(StrEnum):
    """What a new backend begins with."""

    FUTURES = "futures"
    UNITS = "units"
    FULL = "full"


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The backend's name, as in `my-cluster`.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="What it begins with: a pool of `concurrent.futures`, an executor of units,"
            " or all that a cluster's backend has."
        ),
    ] = Kind.FUTURES,
    folder: Annotated[
        Path | None, typer.Option(help="Where it is made: new or empty. Default: ./NAME.")
    ] = None,
) -> None:
    """Make a new backend: a distribution with tests and CI, which works, to be edited.

    Examples:

    - `fractal-backends new my-cluster`
    - `fractal-backends new my-cluster --kind full --folder plugins/my-cluster`
    """
    from .new import make_backend

    with exit_codes():
        make_backend(name, kind.value, folder)
