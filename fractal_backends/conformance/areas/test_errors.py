"""Errors: what a caller learns of a unit that failed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ..expectations import Ended, Subject, must, must_begin, must_contain, must_equal, requirement
from ..traces import must_not_have_run
from ..workflows import COMMAND, PARTS, compound, in_part, non_parallel, parallel


def _told(ended: Ended) -> str:
    """The message without the run's folder, which may hold any number."""
    return ended.failure.message.replace(str(ended.folder), "…")


def _must_name_number(ended: Ended, number: int, what: str) -> None:
    text = _told(ended)
    must(re.search(rf"\b{number}\b", text) is not None, f"the message to name {what}, {number}", text)


def _must_be_task_error(ended: Ended, order: int, task_id: int, name: str) -> None:
    """It has to say which task it was."""
    failure = ended.failure.must_be("TaskExecutionError")
    expected = {"workflow_task_order": order, "workflow_task_id": task_id, "task_name": name}
    found = {key: failure.fields.get(key) for key in expected}
    must_equal(found, expected, "the attributes of the TaskExecutionError")


@requirement("ERR-001")
@pytest.mark.parametrize(("part", "code"), [*zip(PARTS, (1, 2, 93, 255), strict=True)])
def test_exit_codes(subject: Subject, part: str, code: int) -> None:
    """Runs two tasks of which the second one ends with an exit code above 0, in one of its parts."""
    failing = in_part(part, [["exit_with", code]], id=71, task={"name": "The second"})
    ended = subject.run([non_parallel(id=70), failing], ["a"], what=f"{part}, exit code {code}")
    _must_be_task_error(ended, 1, 71, "The second")
    _must_name_number(ended, code, "the exit code")


_TALK = [["print_out", "first words\n"], ["print_err", "said on stderr: é\n"]]


@requirement("ERR-002")
@pytest.mark.parametrize("end", [["exit_with", 3], ["kill_self", 9]], ids=["exit code", "signal"])
def test_short_logs(subject: Subject, end: list[Any]) -> None:
    """Runs a unit that writes two lines, one of them to stderr, and fails."""
    failure = subject.run([parallel([*_TALK, end])], ["a"]).failure
    for line in ("first words", "said on stderr: é"):
        must_contain(failure.message, line, "the error's message")


@requirement("ERR-002")
def test_long_logs(subject: Subject) -> None:
    """Runs a unit that writes half a megabyte, then two lines, and fails."""
    ended = subject.run([parallel([["fill_log", 500], *_TALK, ["exit_with", 3]])], ["a"])
    for line in ("first words", "said on stderr: é"):
        must_contain(ended.failure.message, line, "the error's message")
    logs = [str(path) for path in ended.folder.rglob("0_par_0000000.log")]
    must(len(logs) == 1, "the unit's log to be in the run's folder", "there is none")
    must_contain(ended.failure.message, logs[0], "the error's message")


_SIGNALS = [(9, "SIGKILL"), (15, "SIGTERM"), (11, "SIGSEGV"), (6, "SIGABRT")]


@requirement("ERR-003")
@pytest.mark.parametrize(("part", "signal"), [*zip(PARTS, _SIGNALS, strict=True)])
def test_signals(subject: Subject, part: str, signal: tuple[int, str]) -> None:
    """Runs a task of which a part is ended by a signal."""
    number, name = signal
    ended = subject.run([in_part(part, [["kill_self", number]])], ["a"], what=f"{part}, {name}")
    ended.failure.must_be("JobExecutionError", f"Task failed with returncode=-{number}", name)


@requirement("ERR-004")
@pytest.mark.parametrize("code", [137, 143])
def test_large_exit_codes(subject: Subject, code: int) -> None:
    """Runs a unit that exits with a code that a shell uses for one that was ended by a signal."""
    ended = subject.run([parallel([["exit_with", code]], id=5)], ["a"], what=f"exit code {code}")
    _must_be_task_error(ended, 0, 5, "task")
    _must_name_number(ended, code, "the exit code")


_FORBIDDEN = "`#$&*()\\|[]{};<>?!"
_REFUSED = "Invalid command. Original error: Command must not contain any of this characters:"


@requirement("ERR-011")
def test_shell_characters(subject: Subject) -> None:
    """Gives commands that would run but for one of the characters in an argument, some inside quotes."""
    ran = subject.folder / "ran"
    for place, character in enumerate(_FORBIDDEN):
        word = f"'a{character}b'" if place % 2 else f"a{character}b"
        task = non_parallel([["touch", str(ran)]], task={"command_non_parallel": f"{COMMAND} {word}"})
        subject.start([task], ["a"], what=f"a command that ends in {word}")
    for run in subject.runs:
        failure = run.wait().failure.must_be("TaskExecutionError")
        must_begin(failure.message, _REFUSED, f"the message about {run.what}")
    must_not_have_run(ran, "anything of such a command")


@requirement("ERR-011")
def test_shell_characters_in_one_part(subject: Subject) -> None:
    """Gives a compound task whose init has a good command, and whose compute units have not."""
    ran = subject.folder / "ran"
    task = compound(["a"], init=[["touch", str(ran)]], id=9)
    task["task"]["command_parallel"] = f"{COMMAND} > {subject.folder / 'ran'}"
    ended = subject.run([task], ["a"])
    _must_be_task_error(ended, 0, 9, "task")
    must_begin(ended.failure.message, _REFUSED, "the error's message")
    must_not_have_run(ran, "the init of a task that cannot go on")


_NO_PROGRAM = {
    "not there": "/nowhere/program",
    "not on the PATH": "no-such-program",
    "a variable": "FORTY=2",
    "not executable": "{folder}/script",
    "a folder": "{folder}",
}


@requirement("ERR-012")
@pytest.mark.parametrize("case", _NO_PROGRAM)
def test_no_program(subject: Subject, case: str) -> None:
    """Gives a command whose first word is not a program, and whose other words would be a good command."""
    ran = subject.folder / "ran"
    (subject.folder / "script").write_text(f"#!/bin/sh\ntouch '{ran}'\n")
    program = _NO_PROGRAM[case].format(folder=subject.folder)
    task = parallel([["touch", str(ran)]], id=4, task={"command_parallel": f"{program} {COMMAND}"})
    ended = subject.run([task], ["a"], what=f"a command that begins with {program} ({case})")
    _must_be_task_error(ended, 0, 4, "task")
    expected = f'Command "{program}" is not valid. Hint: make sure that it is executable.'
    must_contain(ended.failure.message, expected, "the error's message")
    must_not_have_run(ran, "anything of such a command")


@requirement("ERR-016")
@pytest.mark.parametrize(
    ("part", "end"),
    [
        ("non_parallel", ["raw", "[]"]),
        ("parallel", ["kill_self", 9]),
        ("init", ["raw", "[]"]),
        ("compute", ["kill_self", 15]),
    ],
)
def test_files_of_errors(subject: Subject, part: str, end: list[Any]) -> None:
    """Runs a task of which a part prints a line, and then is ended by SIGKILL or leaves an invalid output."""
    ended = subject.run([in_part(part, [*_TALK, end])], ["a"], what=f"{part}, {end}")
    failure = ended.failure.must_be("JobExecutionError")
    for name in ("cmd_file", "stdout_file", "stderr_file"):
        path = failure.fields.get(name)
        must(isinstance(path, str), f"the error to have the path {name}", path)
        must(Path(str(path)).is_file(), f"the error's {name} to be there", f"there is no {path}")
    assembled = failure.fields.get("assembled")
    must(isinstance(assembled, str), "assemble_error() to return a text", assembled)
    must_contain(str(assembled), "said on stderr: é", "what assemble_error() returns")
