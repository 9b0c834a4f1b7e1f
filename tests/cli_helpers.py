"""What the tests of the command line share: starting it as a user does, and files to give it."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conftest import eventually
from tests.helpers.workflows import TASK_PROGRAM, Json

MODULE = ["-m", "fractal_backends.cli"]
DEADLINE_S = 60.0
"""For a command to end, on a machine that is busy with other things."""
_NOT_FOR_TESTS = ("PYTHONPATH", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "FRACTAL_LOCAL_CONFIG_FILE")
_CONTROL_SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**values: str | Path) -> dict[str, str]:
    """This process's environment without what would change how the command line looks, plus some values."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_TESTS}
    return {**kept, **{name: str(value) for name, value in values.items()}}


# Off a terminal


@dataclass(frozen=True)
class Result:
    """How a command ended, and all that it wrote."""

    code: int
    out: str
    err: str

    def rows(self) -> list[list[str]]:
        """The cells of the tables on stdout, as far as they are on one line each."""
        return table_rows(self.out)


@contextmanager
def started(
    *args: str | Path, cwd: Path, before: Sequence[str] = (), **env: str | Path
) -> Iterator[subprocess.Popen[str]]:
    """The command line, started; it is killed in the end if it still runs then.

    `before` is what stands before the module: a program and options, where it is not just the interpreter.
    """
    with subprocess.Popen(
        [*(before or [sys.executable]), *MODULE, *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> Result:
    """Wait for a command's end."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return Result(process.returncode, out, err)


def cli(*args: str | Path, cwd: Path, before: Sequence[str] = (), **env: str | Path) -> Result:
    """Run the command line to its end."""
    with started(*args, cwd=cwd, before=before, **env) as process:
        return ended(process)


def table_rows(text: str) -> list[list[str]]:
    """The lines of a text, split where there are two or more spaces."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]


def words(text: str) -> str:
    """A text without its line breaks and frames, which depend on widths."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


# On a terminal


class Terminal:
    """The command line in the foreground of a terminal, which it is alone to use."""

    def __init__(
        self,
        *args: str | Path,
        cwd: Path,
        columns: int = 100,
        lines: int = 40,
        redirect: str = "",
        **env: str | Path,
    ) -> None:
        self.raw = b""
        """All that was written to the terminal."""
        self._master, slave = os.openpty()
        self._open = [self._master, slave]
        termios.tcsetwinsize(slave, (lines, columns))
        # The leader of a session gets the terminal that it opens; the shell is gone once it did.
        script = f'exec "$@" <>"$0" >&0 2>&0 {redirect}'
        self.process = subprocess.Popen(
            ["sh", "-c", script, os.ttyname(slave), sys.executable, *MODULE, *map(str, args)],
            cwd=cwd,
            env=environment(**{"TERM": "xterm", **env}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        """All that was written, one picture after the other, without control sequences."""
        text = _CONTROL_SEQUENCE.sub(b"", self.raw).decode(errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _read(self) -> bool:
        ready = select.select([self._master], [], [], 0.05)[0]
        if ready:
            self.raw += os.read(self._master, 1 << 16)
        return bool(ready)

    def shows(self, pattern: str) -> bool:
        """Whether something that matches comes up before the deadline or the command's end."""
        end = time.monotonic() + 10
        while not re.search(pattern, self.text):
            if time.monotonic() > end or (not self._read() and self.process.poll() is not None):
                return False
        return True

    def sees(self, path: Path) -> bool:
        """Whether a file comes to exist."""

        def there() -> bool:
            self._read()
            return path.exists()

        return eventually(there)

    def press(self, keys: bytes) -> None:
        """What a key on the keyboard does; `\\x03` is Ctrl-C."""
        os.write(self._master, keys)

    def end(self) -> int:
        """Wait for the command's end; its exit code."""
        end = time.monotonic() + DEADLINE_S
        while self._read() or self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end:\n{self.text}"
        return self.process.wait()

    def close(self) -> None:
        """Close the window."""
        while self._open:
            os.close(self._open.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.close()


# Files


def write_json(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def workflow(folder: Path, *tasks: Json, **more: Any) -> Path:
    """The file of a workflow, `workflow.json` in the folder."""
    return write_json(folder / "workflow.json", {"task_list": tasks, **more})


def named(name: str, task: Json, **types: Json) -> Json:
    """The workflow task under another name, with `input_types` and `output_types`."""
    return {**task, "task": {**task["task"], "name": name, **types}}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder: what the files hold; None for what is no file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


# What is installed: a folder for PYTHONPATH

GOOD = """
    from pathlib import Path
    Path(__file__).with_suffix(".imported").touch()

    from typing import Literal
    from fractal_backends import Backend, Options

    class HpcOptions(Options):
        queue: Literal["short", "long"] = "short"
        \"\"\"Where the units wait.\"\"\"
        hours: float | None = None
        \"\"\"Time limit of a unit.\"\"\"

    class Hpc(Backend):
        name = "hpc"
        interface_version = 1
        description = "The cluster downstairs"
        options_model = HpcOptions
        capabilities = frozenset({"time_limit", "readopt"})
        config_file_variable = "HPC_CONFIG_FILE"
        arguments = {
            "workflow_dir_remote": "honoured",
            "user_cache_dir": "refused",
            "slurm_user": "ignored",
            "slurm_account": "honoured",
            "worker_init": "honoured",
        }

        def open(self, run):
            raise NotImplementedError
"""
"""A plugin with the backend `Hpc`; a file tells that it was imported."""


def install(
    site: Path, distribution: str, entries: Mapping[str, str], version: str = "1.0", **modules: str
) -> None:
    """A distribution that offers backends (names and entry points), with the sources of its modules."""
    folder = _metadata(site, distribution, version)
    lines = ["[fractal_backends]", *(f"{name} = {value}" for name, value in entries.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, source in modules.items():
        (site / f"{name}.py").write_text(textwrap.dedent(source))


def install_tasks(site: Path, distribution: str, version: str, tasks: Sequence[Json]) -> Path:
    """A distribution with a manifest of tasks; its executable `task.py` does as it is told.

    Returns the package's folder.
    """
    package = site / distribution.replace("-", "_")
    manifest = {"manifest_version": "2", "args_schema_version": "pydantic_v2", "task_list": list(tasks)}
    path = write_json(package / "__FRACTAL_MANIFEST__.json", manifest)
    shutil.copy(TASK_PROGRAM, package / "task.py")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    info = _metadata(site, distribution, version)
    (info / "RECORD").write_text(f"{path.relative_to(site)},,\n")
    return package


def _metadata(site: Path, distribution: str, version: str) -> Path:
    folder = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return folder
