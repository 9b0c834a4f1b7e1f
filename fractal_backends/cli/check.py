"""The command `check`: judge a backend, show the report and write it where it is wanted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import InvalidInputError
from .terminal import make_console, one_line

if TYPE_CHECKING:
    from ..conformance.report import Report
    from ..conformance.session import Judge

    OnResult = Callable[[Judge], None]

_LINE_EVERY_S = 10.0
_MISSING = (
    "The conformance suite needs pytest, hypothesis and jinja2; get them with:"
    " pip install 'fractal-backends[conformance]'"
)


@dataclass(frozen=True)
class CheckRequest:
    """What the command line asks for."""

    backend: str
    options_file: Path | None
    only: Sequence[str]
    deadline_s: float
    seed: int | None
    examples: int | None
    json_file: Path | None
    junit_file: Path | None
    html_file: Path | None
    badge_file: Path | None


def check_backend(request: CheckRequest) -> bool:
    """Judge a backend, show the report and write it where it is wanted. Returns whether the backend conforms.

    Raises RegistryError for a backend that cannot be had, InvalidInputError for what else is wrong.
    """
    try:
        import hypothesis  # noqa: F401

        from ..conformance.report.badge import render_badge
        from ..conformance.report.page import render_page
        from ..conformance.settings import Chance
        from ..conformance.suite import check
    except ImportError as error:
        raise InvalidInputError(f"{_MISSING} ({error})") from error
    files = (request.json_file, request.junit_file, request.html_file, request.badge_file)
    for path in files:
        _check_writable(path)
    _check_apart([path for path in files if path is not None])
    console = make_console()
    with _progress(console, request.backend) as on_result:
        report = check(
            request.backend,
            options_file=request.options_file,
            only=request.only,
            deadline_s=request.deadline_s,
            chance=Chance(request.seed, request.examples),
            junit_file=request.junit_file,
            on_result=on_result,
        )
    _write(request.json_file, lambda: json.dumps(report.as_json(), indent=2) + "\n")
    _write(request.html_file, lambda: render_page(report))
    _write(request.badge_file, lambda: render_badge(report))
    _show(report, console)
    if report.interrupted:
        raise KeyboardInterrupt
    return report.conforms


def _show(report: Report, console: Console) -> None:
    from .check_report import print_report

    print_report(report, console)


def _check_writable(path: Path | None) -> None:
    """Before minutes of work, not after."""
    if path is None:
        return
    needed = path if _is_special(path) else path.absolute().parent
    if path.is_dir() or not os.access(needed, os.W_OK):
        raise InvalidInputError(f"Cannot write {path}: it must be a file in a folder that can be written to")


def _check_apart(paths: Sequence[Path]) -> None:
    """One report does not overwrite another; a device takes all."""
    places = [path.absolute() for path in paths if not _is_special(path)]
    for path in places:
        if places.count(path) > 1:
            raise InvalidInputError(
                f"Several reports are to be written to {path}: give each a file of its own"
            )


def _write(path: Path | None, content: Callable[[], str]) -> None:
    if path is not None:
        part = path if _is_special(path) else path.with_name(f".{path.name}.part")
        part.write_text(content(), encoding="utf-8")
        if part != path:
            part.replace(path)


def _is_special(path: Path) -> bool:
    """Whether something is there that must not be replaced by a file: a device, a pipe, a link."""
    return path.is_symlink() or (path.exists() and not path.is_file())


@contextmanager
def _progress(console: Console, name: str) -> Iterator[OnResult]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _Lines(console, name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console, transient=True) as progress:
        bar = progress.add_task(f"checking {one_line(name)}", total=None, now="")

        def on_result(judge: Judge) -> None:
            total, completed = judge.planned.total(), len(judge.results)
            progress.update(bar, total=total, completed=completed, now=_failures(judge))

        yield on_result


class _Lines:
    """Tells how far a check is, every few seconds."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._last = time.monotonic()

    def __call__(self, judge: Judge) -> None:
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            so_far = f"{len(judge.results)} of {judge.planned.total()} tests {_failures(judge)}".rstrip()
            text = f"checking {one_line(self._name)}: {so_far}"
            self._console.print(text, markup=False, highlight=False)


def _failures(judge: Judge) -> str:
    failed = sum(result.outcome == "failed" for result in judge.results)
    return f"({failed} failed)" if failed else ""
