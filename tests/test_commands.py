"""From a task's command string to a process, and from its end to an error."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import JobExecutionError, TaskExecutionError
from tests.helpers.processes import run_apart
from tests.helpers.workflows import COMMAND, Json, non_parallel, parallel, run, saved, statuses, step

FORBIDDEN = r"`#$&*()\|[]{};<>?!"
HINT = "is not valid. Hint: make sure that it is executable."


def _command(text: str, *do: list[Any]) -> Json:
    return non_parallel(do, task={"command_non_parallel": text})


def _error_of(folder: Path, command: str) -> TaskExecutionError:
    with pytest.raises(TaskExecutionError) as caught:
        run(folder, [_command(command)])
    assert statuses(saved(folder)) == ["failed"]
    return caught.value


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ("", []),
        ("plain  spaced\tout", ["plain", "spaced", "out"]),
        ("'two words' \"and two\"", ["two words", "and two"]),
        ("'' \"\"", ["", ""]),
        ("pre'fix'ed", ["prefixed"]),
        ('"it\'s" \'say "hi"\'', ["it's", 'say "hi"']),
        ("line\nbreak", ["line", "break"]),
        ("'line\nbreak'", ["line\nbreak"]),
        ("ünï '日本 語'", ["ünï", "日本 語"]),
    ],
)
def test_the_command_is_split_like_a_shell_would_and_gets_two_options(
    tmp_path: Path, given: str, received: list[str]
) -> None:
    seen, stem = tmp_path / "argv", tmp_path / "run" / "0_task" / "0"
    run(tmp_path / "run", [_command(f"{COMMAND} {given}", ["argv", str(seen)])])
    files = ["--args-json", f"{stem}.args.json", "--out-json", f"{stem}.metadiff.json"]
    assert json.loads(seen.read_text()) == [*received, *files]


def test_the_command_is_run_without_a_shell(tmp_path: Path) -> None:
    seen = tmp_path / "argv"
    run(tmp_path / "run", [_command(f"{COMMAND} ~ A=1 %HOME% ^ @ -", ["argv", str(seen)])])
    assert json.loads(seen.read_text())[:-4] == ["~", "A=1", "%HOME%", "^", "@", "-"]


def test_a_shells_metacharacters_in_a_command_are_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    expected = (
        f"Invalid command. Original error: Command must not contain any of this characters: {FORBIDDEN}"
    )
    for number, character in enumerate(FORBIDDEN):
        error = _error_of(tmp_path / f"run {number}", f"touch {made} '{character}'")
        assert str(error).startswith(expected), character
    assert not made.exists()


@pytest.mark.parametrize("part", ["command_non_parallel", "command_parallel"])
def test_both_commands_of_a_compound_task_are_checked_before_its_init_runs(tmp_path: Path, part: str) -> None:
    made = tmp_path / "made"
    task = step("compound", [["touch", str(made)]], task={part: f"{COMMAND} ; ls"}, id=7)
    with pytest.raises(TaskExecutionError, match=r"^Invalid command") as caught:
        run(tmp_path / "run", [task], ["a"])
    assert (caught.value.workflow_task_id, caught.value.workflow_task_order) == (7, 0)
    assert not made.exists()


def test_a_command_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    assert str(_error_of(tmp_path / "run", "echo 'open")).startswith("Invalid command. Original error: ")


@pytest.mark.parametrize(
    "name", ["run (1)", "a b", "$(touch x)", 'it\'s; `ls` & "more" > [x]*?!{}|\\', "日本\n#"]
)
def test_the_check_is_for_the_command_and_not_for_the_runs_own_paths(tmp_path: Path, name: str) -> None:
    seen = tmp_path / "argv"
    run(tmp_path / name, [non_parallel([["argv", str(seen)]])])
    assert json.loads(seen.read_text())[1] == str(tmp_path / name / "0_task" / "0.args.json")


def _not_executable(folder: Path) -> Path:
    path = folder / "plain.sh"
    path.write_text("#!/bin/sh\n")
    return path


def _executable(folder: Path, text: str) -> Path:
    path = folder / "program"
    path.write_text(text)
    path.chmod(0o755)
    return path


def _loop(folder: Path) -> Path:
    path = folder / "loop"
    path.symlink_to(path)
    return path


NO_COMMANDS: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "missing",
    "not on the search path": lambda folder: Path("no-command-of-this-name"),
    "not executable": _not_executable,
    "a folder": lambda folder: folder,
    "below a file": lambda folder: _not_executable(folder) / "x",
    "no program": lambda folder: _executable(folder, "exit 0\n"),
    "empty file": lambda folder: _executable(folder, ""),
    "interpreter missing": lambda folder: _executable(folder, "#!/no/such/interpreter\n"),
    "endless links": _loop,
    "name too long": lambda folder: folder / ("x" * 300),
}


@pytest.mark.parametrize("what", NO_COMMANDS)
def test_a_command_that_is_not_there_or_not_executable_is_a_task_error(tmp_path: Path, what: str) -> None:
    command = NO_COMMANDS[what](tmp_path)
    error = _error_of(tmp_path / "run", str(command))
    assert str(error).startswith(f'Command "{command}" {HINT}')
    assert (error.workflow_task_order, error.task_name) == (0, "task")


def test_an_empty_program_name_is_a_task_error(tmp_path: Path) -> None:
    assert str(_error_of(tmp_path / "run", "'' x")).startswith(f'Command "" {HINT}')


@pytest.mark.parametrize("code", [1, 2, 77, 126, 127, 255])
def test_a_positive_exit_code_is_a_task_error_with_order_id_name_and_log(tmp_path: Path, code: int) -> None:
    do: list[list[Any]] = [["print_out", "first\n"], ["print_err", "last words\n"], ["exit_with", code]]
    tasks = [non_parallel(), non_parallel(do, id=42, task={"name": "Breaks Things"})]
    with pytest.raises(TaskExecutionError) as caught:
        run(tmp_path / "run", tasks)
    error, message = caught.value, str(caught.value)
    assert (error.workflow_task_id, error.workflow_task_order, error.task_name) == (42, 1, "Breaks Things")
    assert f"exit code {code}" in message
    assert "first\nlast words" in message
    assert str(tmp_path / "run" / "1_breaks_things" / "1.log") in message


@pytest.mark.parametrize("log", ["", "x" * 100_000 + "the end"])
def test_the_error_has_the_path_of_the_log_also_when_it_is_empty_or_long(tmp_path: Path, log: str) -> None:
    with pytest.raises(TaskExecutionError) as caught:
        run(tmp_path / "run", [non_parallel([["print_out", log], ["exit_with", 1]])])
    message = str(caught.value)
    assert str(tmp_path / "run" / "0_task" / "0.log") in message
    assert log[-1000:] in message
    assert len(message) < 20_000


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGABRT, signal.SIGHUP]
)
def test_an_end_by_a_signal_is_a_job_error_with_return_code_and_name(
    tmp_path: Path, number: signal.Signals
) -> None:
    do: list[list[Any]] = [["print_out", "last words\n"], ["kill_self", int(number)]]
    with pytest.raises(JobExecutionError) as caught:
        run(tmp_path / "run", [non_parallel(do)])
    error = caught.value
    assert error.info is not None and error.info.startswith(f"Task failed with returncode=-{int(number)}")
    assert number.name in error.info
    assert error.cmd_file == str(tmp_path / "run" / "0_task" / "0.args.json")
    assert error.stdout_file == error.stderr_file == str(tmp_path / "run" / "0_task" / "0.log")
    assert "last words" in error.assemble_error()
    assert error.info in error.assemble_error()


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_units_start_with_signals_at_their_defaults(tmp_path: Path, how: str) -> None:
    (tmp_path / "script").write_text("exec cat /proc/self/status")
    task = _command(f"/bin/sh {tmp_path / 'script'}")
    request = {"folder": str(tmp_path / "run"), "tasks": [task], "images": [], "signals": how}
    assert run_apart(request) == (0, "")
    status = (tmp_path / "run/0_task/0.log").read_text()
    masks = [int(mask, 16) for mask in re.findall(r"Sig(?:Blk|Ign):\s*(\w+)", status)]
    assert len(masks) == 2
    assert not [number for number in signal.Signals for mask in masks if mask >> (number - 1) & 1]


def test_a_signal_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    number = signal.SIGRTMIN + 5
    with pytest.raises(JobExecutionError, match=rf"^Task failed with returncode=-{number}\b"):
        run(tmp_path / "run", [non_parallel([["kill_self", number]])])


def test_a_long_argument_list_that_the_system_takes_is_run(tmp_path: Path) -> None:
    words = ["x" * 49] * 10_000
    subprocess.run([sys.executable, "-I", "-S", "-c", "", *words], check=True)
    assert statuses(run(tmp_path / "run", [_command(f"{COMMAND} {' '.join(words)}")])) == ["done"]


def test_an_argument_longer_than_the_system_takes_is_a_short_error(tmp_path: Path) -> None:
    with pytest.raises(JobExecutionError, match="submission failed") as caught:
        run(tmp_path / "run", [_command("true " + "x" * 200_000)])
    assert len(str(caught.value)) < 5_000
    assert statuses(saved(tmp_path / "run")) == ["failed"]


def test_argument_lists_longer_than_the_system_takes_use_up_nothing(tmp_path: Path) -> None:
    """Units that cannot be started leave the open files as many as before."""
    count = 60
    request = {
        "folder": str(tmp_path / "run"),
        "tasks": [parallel(task={"command_parallel": "true " + f"{'x' * 100_000} " * 4})],
        "images": [str(number) for number in range(count)],
        "limits": {"RLIMIT_NOFILE": 40, "RLIMIT_STACK": 1 << 20},  # a quarter of the stack is for arguments
    }
    _, stderr = run_apart(request)
    assert f"{count} of {count} units failed" in stderr
    assert len(stderr) < 10_000
    assert "Too many open files" not in stderr + (tmp_path / "run" / "workflow.log").read_text()
    assert statuses(saved(tmp_path / "run")) == ["failed"]


def test_any_number_of_images_travels_in_the_arguments_file(tmp_path: Path) -> None:
    images = [f"plate.zarr/{number:07d}/{'x' * 50}" for number in range(20_000)]
    copied = tmp_path / "copied"
    args_file = tmp_path / "run" / "0_task" / "0.args.json"
    run(tmp_path / "run", [non_parallel([["copy", str(args_file), str(copied)]])], images)
    assert len(json.loads(copied.read_text())["zarr_urls"]) == len(images)
