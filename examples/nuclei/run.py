"""Run a real Fractal workflow on the spot: make raw microscope images, find the nuclei, check and draw them.

The first start installs the tasks' Python packages into an environment of their own; every start makes a new
folder `run-1`, `run-2`, ... with all that belongs to it, and leaves the earlier ones alone.
What follows `--` goes to `fractal-backends run`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from arguments import add_data_arguments

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
COST = "about 270 MB to download, 970 MB on disk, usually 20-60 s; only the first time"
GRACE_SECONDS = 10
REFUSED = set("`#$&*()\\|[]{};<>?!")


class StepError(Exception):
    """A step's command ended with this status."""

    def __init__(self, step: Step, status: int) -> None:
        super().__init__(f"{step.name}: failed, exit status {status} ({step.seconds:.1f} s)")
        self.status = status


class Step:
    """One of the things to do, with a clock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output = ""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def done(self, result: str) -> None:
        """Say what came out, and how long it took."""
        say(f"{self.name}: {result} ({self.seconds:.1f} s)")

    def run(self, *command: str | Path, count: bool = False) -> None:
        """Run a command to its end, in this terminal."""
        process = subprocess.Popen(command)
        with _ending(process):
            if count and sys.stdout.isatty():
                self._count_seconds(process)
            process.wait()
        self._check(process.returncode)

    def script(self, name: str, python: Path, *arguments: str | Path) -> str:
        """Run a script of this folder with the tasks' Python; what it printed."""
        # Out of the terminal's reach: on a Ctrl-C it would show a traceback.
        process = subprocess.Popen(
            [python, HERE / name, *arguments], stdout=subprocess.PIPE, text=True, process_group=0
        )
        with _ending(process, at_once=True):
            self.output = process.communicate()[0].rstrip()
        self._check(process.returncode)
        return self.output

    def _check(self, status: int) -> None:
        if status:
            raise StepError(self, status if status > 0 else 128 - status)

    def _count_seconds(self, process: subprocess.Popen[bytes]) -> None:
        """A sign of life from a command that gives none."""
        while process.poll() is None:
            print(f"\r{self.name}: {self.seconds:.0f} s ", end="", flush=True)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        print("\r\033[K", end="", flush=True)


class Terminated(BaseException):
    """This process was told to end."""


@contextmanager
def _ending(process: subprocess.Popen[Any], at_once: bool = False) -> Iterator[None]:
    """Let no process outlive an interruption."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as interruption:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A Ctrl-C in the terminal has reached it as well, and it may need time to put things in order.
        if isinstance(interruption, KeyboardInterrupt) and not at_once:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        process.terminate()
        process.wait()
        raise


def say(line: str) -> None:
    """Print at once, so that the lines of the commands in between come in order."""
    print(line, flush=True)


def fail(message: str) -> NoReturn:
    """End with a message, and the status of a command that was called wrongly."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def shown(path: Path) -> str:
    """As short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def open_work_folder(work: Path) -> TextIO:
    """Make the folder, and keep others out until the file that this gives is closed."""
    mark = work / ".nuclei-example"
    if work.exists() and not work.is_dir():
        fail(f"{shown(work)} is not a folder")
    if work.is_dir() and any(work.iterdir()) and not mark.exists():
        fail(f"{shown(work)} has files that are not this example's: choose another folder with --work")
    if found := "".join(sorted(REFUSED & set(str(work)))):
        fail(f"a task's command must not contain {found}, {work} does: choose another folder with --work")
    work.mkdir(parents=True, exist_ok=True)
    lock = mark.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"this example is running in {shown(work)}: wait, or choose another folder with --work")
    except OSError:
        pass  # Not every file system has locks.
    return lock


def find_uv() -> list[str]:
    """The uv that started this, the one on PATH, or the one that is a package here."""
    for found in (os.environ.get("UV"), shutil.which("uv")):
        if found and os.access(found, os.X_OK):
            return [found]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    fail("uv is needed to install the tasks: pip install uv")


def make_environment(environment: Path, python: str | None) -> None:
    """Install the tasks, unless that was done and finished before."""
    finished = environment / "finished.json"
    recipe = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if (environment / "bin" / "python").exists() and finished.exists():
        made = json.loads(finished.read_text())
        if made["recipe"] == recipe and python in (None, made["python"]):
            say(f"Task environment: already in {shown(environment)}")
            return
    uv = find_uv()
    say(f"Task environment: {COST}")
    step = Step("Task environment")
    shutil.rmtree(environment, ignore_errors=True)
    step.run(*uv, "venv", "--quiet", "--no-project", "--python", python or sys.executable, environment)
    # All that is needed is pinned, so nothing is left to resolve. Without byte code every unit of every
    # run would take seconds longer to start.
    install: list[str | Path] = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--compile-bytecode",
        "--requirements",
        REQUIREMENTS,
    ]
    step.run(*uv, *install, "--python", environment / "bin" / "python", count=True)
    finished.write_text(json.dumps({"recipe": recipe, "python": python}))
    step.done(f"made in {shown(environment)}")


def new_run_folder(work: Path) -> Path:
    """`run-1`, or one more than the last."""
    numbers = [int(each.name[4:]) for each in work.glob("run-*") if each.name[4:].isdecimal()]
    folder = work / f"run-{max(numbers, default=0) + 1}"
    folder.mkdir()
    return folder


def make_data(python: Path, folder: Path, args: argparse.Namespace) -> None:
    """Raw images, the workflow for them, and the number of nuclei in them."""
    step = Step("Raw data")
    choices = ["--wells", ",".join(args.wells), "--fields", str(args.fields), "--size", str(args.size)]
    step.done(step.script("make_data.py", python, folder / "data", *choices))


def run_workflow(environment: Path, folder: Path, more: list[str]) -> None:
    """Call this project's own command line."""
    say(f"Workflow: five tasks, its files are in {shown(folder / 'run')}")
    step = Step("Workflow")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "fractal_backends.cli",
        "run",
        folder / "data" / "workflow.json",
    ]
    places: list[str | Path] = [
        "--zarr-dir",
        folder / "zarr",
        "--run-dir",
        folder / "run",
        "--task-env",
        environment,
    ]
    step.run(*command, *places, *more)
    step.done("done")


def check(python: Path, folder: Path) -> int:
    """Compare what was measured with what was placed; 0 if it is right."""
    step = Step("Check")
    inputs = [folder / "data" / "expected.json", folder / "zarr", folder / "run" / "images.json"]
    try:
        say(step.script("check.py", python, *inputs, "--table", folder / "nuclei.csv"))
    except StepError as failure:
        say(step.output)
        step.done("the result is WRONG")
        return failure.status
    step.done("as many nuclei were measured as were placed")
    return 0


def draw(python: Path, folder: Path) -> None:
    """The picture of the plate."""
    step = Step("Picture")
    inputs = [folder / "data" / "expected.json", folder / "zarr", folder / "nuclei.csv"]
    step.done(step.script("overview.py", python, *inputs, folder / "overview.png"))


def say_where(folder: Path) -> None:
    """The results' places."""
    say("")
    for what, name in (
        ("Picture", "overview.png"),
        ("Table of nuclei", "nuclei.csv"),
        ("OME-Zarr plates", "zarr"),
        ("Logs and records", "run"),
    ):
        say(f"{what:<18}{shown(folder / name)}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    summary, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(description=summary, epilog=" ".join(details.split()))
    parser.add_argument(
        "--work", type=Path, default=HERE / "work", help="folder to write to (default: work, here)"
    )
    parser.add_argument(
        "--python", help="Python for the tasks, a path or a version (default: the one that runs this)"
    )
    add_data_arguments(parser)
    args = parser.parse_args(own)
    args.more, args.work = more, args.work.resolve()
    return args


def run_example(args: argparse.Namespace) -> int:
    """All steps."""
    if importlib.util.find_spec("fractal_backends") is None:
        command = shlex.join(["uv", "run", shown(HERE / "run.py")])
        fail(f"fractal_backends is not installed in {sys.executable}; start this with: {command}")
    with open_work_folder(args.work):
        started = time.monotonic()
        environment = args.work / "env"
        make_environment(environment, args.python)
        folder = new_run_folder(args.work)
        python = environment / "bin" / "python"
        make_data(python, folder, args)
        run_workflow(environment, folder, args.more)
        status = check(python, folder)
        try:
            draw(python, folder)
        except StepError:
            if not status:
                raise
        say_where(folder)
        say(f"All in {time.monotonic() - started:.0f} s")
        return status


def main() -> int:
    """Turn failures and signals into exit codes."""

    def end(*_: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        return run_example(parse_arguments())
    except StepError as failure:
        print(failure, file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print("\nTerminated", file=sys.stderr)
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
