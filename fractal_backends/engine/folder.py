"""The folder of a run: claimed once, private to its owner, its state files whole at any time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from ..errors import JobExecutionError, RunFolderError
from ..models import Dataset, Filters, Image, task_slug

IMAGES_FILE, FILTERS_FILE, HISTORY_FILE = "images.json", "filters.json", "history.json"
STATE_FILES = (IMAGES_FILE, FILTERS_FILE, HISTORY_FILE)
LOG_FILE = "workflow.log"

_TASK_FOLDER = re.compile(r"\d+_.*", re.DOTALL)
_UNIT_FILE = re.compile(r"\d+(_par_\d{7,})?\.(args\.json|log)")
_OUTPUT_FILE = re.compile(r"\d+(_par_\d{7,})?\.metadiff\.json")
_CHUNK = 10_000


class RunFolder:
    """Where a run's files live."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self) -> None:
        """Make the folder, or take one that holds no run.

        Raises RunFolderError where it holds an earlier run, which is left untouched, or cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = next(self._traces_of_a_run(), None)
            if found is not None:
                raise RunFolderError(
                    f"The run folder {self.path} holds an earlier run (found {found}). Give another folder"
                    " for this run, or move that one away."
                )
            self._write_first_history()
        except FileExistsError as error:
            what = "is not a folder" if not self.path.is_dir() else f"is in use: {error.filename} exists"
            raise RunFolderError(f"The run folder {self.path} {what}.") from None
        except OSError as error:
            raise RunFolderError(f"Cannot use the run folder {self.path}: {error.strerror}.") from None

    def _write_first_history(self) -> None:
        """Whole from the start; and of runs that start at once only one gets the folder."""
        history, temporary = self.path / HISTORY_FILE, self.path / f"{HISTORY_FILE}.tmp"
        write_new(str(temporary), b"[]\n")  # exclusive: the lock
        if history.exists():  # another run was quicker
            temporary.unlink()
            raise FileExistsError(errno.EEXIST, "exists", str(history))
        temporary.rename(history)

    def _traces_of_a_run(self) -> Iterator[str]:
        for entry in sorted(os.scandir(self.path), key=lambda entry: entry.name):
            if entry.name in STATE_FILES:
                yield entry.name
            elif _TASK_FOLDER.fullmatch(entry.name) and entry.is_dir():
                yield from (f"{entry.name}/{n}" for n in os.listdir(entry.path) if _UNIT_FILE.fullmatch(n))

    def make_task_folder(self, order: int, task_name: str) -> Path:
        """The folder of a task's units. Raises JobExecutionError."""
        path = self.path / f"{order}_{task_slug(task_name)}"
        with reporting_disk_errors():
            path.mkdir(mode=0o700, exist_ok=True)
            for name in os.listdir(path):
                if _OUTPUT_FILE.fullmatch(name):  # stale: tasks may refuse to overwrite it
                    (path / name).unlink()
        return path

    def save(self, images: Iterable[Image], filters: Filters, history: list[dict[str, Any]]) -> None:
        """Replace the three state files, each of them whole at any time. Raises JobExecutionError."""
        with reporting_disk_errors():
            _replace(self.path / IMAGES_FILE, _array(image.as_dict() for image in images))
            _replace(self.path / FILTERS_FILE, [to_json(filters, indent=1) + b"\n"])
            _replace(self.path / HISTORY_FILE, _array(history))


def save_dataset(run_dir: Path, before: Dataset, path: Path) -> None:
    """Write the dataset as a run left it, ready to be the next run's. Raises JobExecutionError."""
    state = {name: run_dir / name for name in STATE_FILES}
    with reporting_disk_errors():
        about: dict[str, Any] = {"name": before.name, "id": before.id, "zarr_dir": before.zarr_dir}
        about["history"] = [*before.history, *json.loads(state[HISTORY_FILE].read_text())]
        about["filters"] = json.loads(state[FILTERS_FILE].read_text())
        known = {key: value for key, value in about.items() if value is not None}
        head = to_json(known, indent=1)[:-2]
        _replace(path, [head, b',\n "images": ', state[IMAGES_FILE].read_bytes().rstrip(), b"\n}\n"])


@contextlib.contextmanager
def reporting_disk_errors() -> Iterator[None]:
    """Turn the system's errors on a run's own files into JobExecutionError."""
    try:
        yield
    except OSError as error:
        raise JobExecutionError(
            f"Cannot write {error.filename or 'a file'} of the run: {error.strerror}."
            " What was saved before is unchanged."
        ) from error


def write_new(path: str, data: bytes) -> None:
    """Write a new file, private to its owner, whole or not at all. Raises OSError, with the path in it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data, path)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes, path: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        error.filename = path
        raise


def _array(items: Iterable[Any]) -> Iterator[bytes]:
    """A JSON array, an item a line, in chunks."""
    lines: list[bytes] = []
    separator = b"[\n"
    for item in items:
        lines.append(separator + to_json(item))
        separator = b",\n"
        if len(lines) >= _CHUNK:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines) + (b"[]\n" if separator == b"[\n" else b"\n]\n")


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            for chunk in chunks:
                _write_all(fd, chunk, temporary)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
