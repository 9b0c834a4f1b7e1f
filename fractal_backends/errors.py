"""Every error that a caller of fractal-backends can see."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_SHOWN_CHARACTERS = 20_000


class FractalBackendsError(Exception):
    """Base of all errors raised on purpose by this package and its plugins."""


class InvalidInputError(FractalBackendsError, ValueError):
    """What the caller gave is wrong: a workflow, a dataset, options, an index range.

    `problems` holds one line for each thing that is wrong, all of them found at once.
    """

    def __init__(self, what: str, problems: Sequence[str] = ()) -> None:
        self.what = what
        self.problems = list(problems)
        super().__init__("\n  ".join([f"{what}:" if self.problems else what, *self.problems]))


class RunFolderError(InvalidInputError):
    """The folder given for a run's files holds another run, or cannot be used."""


class UnsupportedArgumentError(FractalBackendsError, NotImplementedError):
    """A backend that declares an argument as refused was given it."""


class RegistryError(FractalBackendsError):
    """A backend cannot be had by its name."""


class UnknownBackendError(RegistryError, LookupError):
    """No installed distribution offers a backend of this name."""


class DuplicateBackendError(RegistryError):
    """Two installed distributions offer a backend of the same name."""


class BrokenBackendError(RegistryError):
    """The plugin is installed, but importing or creating its backend fails, or gives no backend."""


class InterfaceVersionError(RegistryError):
    """The plugin speaks another version of the interface than this core."""


class TaskExecutionError(FractalBackendsError, RuntimeError):
    """A task's command ended with a positive exit code, or is not a command that can be run.

    The message holds the end of the task's log.
    """

    def __init__(
        self,
        message: str = "",
        *,
        workflow_task_id: int | str | None = None,
        workflow_task_order: int | None = None,
        task_name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.workflow_task_id = workflow_task_id
        self.workflow_task_order = workflow_task_order
        self.task_name = task_name


class JobExecutionError(FractalBackendsError, RuntimeError):
    """Everything around a task went wrong: killed by a signal, lost, cancelled, invalid output, ...

    `info` says what; `cmd_file`, `stdout_file` and `stderr_file` are paths to look at, where there are any.
    """

    def __init__(
        self,
        info: str | None = None,
        *,
        cmd_file: str | None = None,
        stdout_file: str | None = None,
        stderr_file: str | None = None,
    ) -> None:
        super().__init__(info or "")
        self.info = info
        self.cmd_file = cmd_file
        self.stdout_file = stdout_file
        self.stderr_file = stderr_file

    def assemble_error(self) -> str:
        """The whole story as one text: the command, the output and `info`; long files by their end."""
        parts = ["JobExecutionError\n"]
        files = [("COMMAND", self.cmd_file), ("STDOUT", self.stdout_file)]
        if self.stderr_file != self.stdout_file:
            files.append(("STDERR", self.stderr_file))
        for title, path in files:
            if path:
                parts.append(f"{title}:\n{_content(Path(path))}\n")
        if self.info:
            parts.append(f"ADDITIONAL INFO:\n{self.info}\n")
        return "\n".join(parts)


def _content(path: Path) -> str:
    try:
        text = read_end(path, _SHOWN_CHARACTERS)
    except OSError:
        return f"File {path} is missing"
    return f"Content of {path}:\n{text}" if text else f"File {path} is empty"


def read_end(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text, whatever is in it; says so where something was left out.

    Raises OSError where the file cannot be read.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - limit))
        text = file.read(limit).decode("utf-8", errors="replace")
    return text if size <= limit else f"[the last {limit:,} of {size:,} bytes]\n…{text}"


def open_regular(path: str | Path) -> BinaryIO:
    """A file that is a task's, to be read; what else a task may have put there is not waited for, or endless.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "It is not a regular file")
    return open(fd, "rb")
