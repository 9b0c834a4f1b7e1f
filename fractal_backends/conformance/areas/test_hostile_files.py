"""Hostile input: logs and outputs that no well-behaved task would write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from ..expectations import Ended, Subject, must, must_contain, must_equal, requirement, violation
from ..violations import Violation
from ..workflows import image, names, non_parallel, parallel, updates, url

_ERROR_CHARACTERS = 1_000_000
_LOG_MB = 8


def _must_be_short(ended: Ended) -> None:
    for what in ("message", "assembled"):
        text = ended.failure.fields.get(what) or ""
        must(len(text) < _ERROR_CHARACTERS, "an error of less than 1 MB", f"{what}: {len(text):,} characters")


_HOSTILE_LOG: list[list[Any]] = [
    ["fill_log", _LOG_MB * 1024],
    ["print_out", "\n"],
    ["fill_log", 100],
    ["print_bytes", [10, 0, 27, 91, 255, 254, 128, 0xC3, 0xED, 0xA0, 0x80, 13, 10], 50],
    ["print_err", "last words\n"],
]


@requirement("HOST-002")
def test_logs(subject: Subject) -> None:
    """A unit prints megabytes, a line of 100,000 characters and bytes that are no text, and succeeds."""
    ended = subject.run([non_parallel([*_HOSTILE_LOG, updates({"zarr_url": "new"})])], ["a"])
    must_equal(names(ended.result["images"]), ["a", "new"], "the images")
    size = (ended.folder / "0_task/0.log").stat().st_size
    must(size >= _LOG_MB << 20, f"all of the {_LOG_MB} MB in the log", f"{size:,} bytes")


@requirement("HOST-002")
def test_errors_of_logs(subject: Subject) -> None:
    """Units print megabytes and bytes that are no text; one then fails, another is killed."""
    for last, kind, part in (
        (["exit_with", 3], "TaskExecutionError", "exit code 3"),
        (["kill_self", 9], "JobExecutionError", "returncode=-9"),
    ):
        ended = subject.run([non_parallel([*_HOSTILE_LOG, last])], ["a"])
        failure = ended.failure.must_be(kind, part)
        told = failure.message + (failure.fields.get("assembled") or "")
        must_contain(told, "last words", "the error, which has to show the end of the log,")
        _must_be_short(ended)


_START = json.dumps({"image_list_updates": [{"zarr_url": url("a"), "attributes": {"x": 0}}]})
_NUMBER = 10**1000 + 1


def _with_x(text: str) -> str:
    """An output, as JSON, that sets the attribute x."""
    return _START.replace(": 0}", f": {text}}}")


def _bytes(data: bytes) -> list[Any]:
    return ["raw_bytes", list(data)]


_BEFORE, _AFTER = _with_x('"|"').split("|")
_ONLY_REFUSED: dict[str, list[Any]] = {
    "16 MB that are not JSON": ["fill_output", _BEFORE, 16],
    "100,000 lists in each other": ["raw", _with_x("[" * 100_000 + "]" * 100_000)],
    "100,000 brackets that are open": ["raw", "[" * 100_000],
    "NaN": ["raw", _with_x("NaN")],
    "Infinity": ["raw", _with_x("-Infinity")],
    "bytes that are no text": _bytes(_with_x('"|"').encode().replace(b"|", b"\xff\xfe\x80")),
    "NUL bytes": _bytes(b"\0" * 1000),
}
_USED_OR_REFUSED: dict[str, tuple[list[Any], list[Any]]] = {
    "an attribute of 4 MB": (["fill_output", _BEFORE, 4, _AFTER], ["x" * (4 << 20)]),
    "a number of 1,001 digits": (["raw", _with_x(str(_NUMBER))], [_NUMBER]),
    "a number beyond all floats": (["raw", _with_x("1e999")], []),
    "half a surrogate pair": (["raw", _with_x('"\\ud800"')], []),
    "UTF-16": (_bytes(_with_x("1").encode("utf-16")), [1]),
    "a byte order mark": (_bytes(_with_x("1").encode("utf-8-sig")), [1]),
    "repeated keys": (["raw", _with_x('1, "x": 2')], [1, 2]),
}


def _strictly(path: Path) -> Any:
    """What a state file holds, as a strict reader of JSON takes it."""

    def refuse(constant: str) -> NoReturn:
        violation(f"{path.name} to be JSON", f"it holds {constant}")

    def number(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse(text)

    return json.loads(path.read_bytes(), parse_constant=refuse, parse_float=number)


def _run_with_output(subject: Subject, what: str, step: list[Any]) -> Ended:
    ended = subject.run([non_parallel([step])], ["a"], what=f"output: {what}")
    if not ended.succeeded:
        try:
            ended.failure.must_be(
                "JobExecutionError", "Validation of task output failed.", "Original error: "
            )
        except Violation as error:
            violation(f"{error.expected} (the output is {what})", error.got)
        _must_be_short(ended)
    for name in ("images", "filters", "history"):
        _strictly(ended.folder / f"{name}.json")
    return ended


@requirement("HOST-003")
def test_outputs_to_refuse(subject: Subject) -> None:
    """Runs a unit for each of several outputs that are not JSON, or not a unit's, each in a hard way."""
    for what, step in _ONLY_REFUSED.items():
        ended = _run_with_output(subject, what, step)
        must(not ended.succeeded, f"the output to be refused: {what}", "the run succeeded")
        must_equal(ended.images, [image("a")], f"images.json after {what}")


@requirement("HOST-003")
def test_outputs_to_use_or_refuse(subject: Subject) -> None:
    """Runs a unit for each of several outputs that are JSON to some and not to others."""
    for what, (step, valid) in _USED_OR_REFUSED.items():
        ended = _run_with_output(subject, what, step)
        if ended.succeeded:
            (got,) = (found["attributes"].get("x") for found in ended.result["images"])
            must(got in valid, f"an attribute that is as written, or the output to be refused: {what}", got)
        else:
            must_equal(ended.images, [image("a")], f"images.json after {what}")


@requirement("HOST-005")
def test_output_files_that_are_no_files(subject: Subject) -> None:
    """The output files of three units are a FIFO, a folder and a link to a device; a fourth is good."""
    steps = {what: [["output_file_is", what]] for what in ("fifo", "folder", "device")}
    steps["good"] = [updates({"zarr_url": "new"})]
    enough = subject.new_runner(
        limits={"RLIMIT_DATA": 2 << 30}
    )  # who reads from the device must not take all
    ended = subject.run([parallel(steps)], list(steps), runner=enough)
    ended.failure.must_be("JobExecutionError", "Validation of task output failed.")
    for component in range(3):
        must_contain(
            ended.failure.message, f"0_par_000000{component}", "the error, which has to name the unit,"
        )
    must_equal(names(ended.images), [*steps, "new"], "the images in images.json")


def _own(run: Path, component: int, ending: str) -> str:
    return str(run / f"0_task/0_par_000000{component}.{ending}")


@requirement("HOST-007")
def test_files_destroyed_by_good_units(subject: Subject) -> None:
    """Four units remove or replace their log or arguments, print something and succeed."""
    run = subject.folder / "run"
    steps = {
        "a": [["remove", _own(run, 0, "log")]],
        "b": [["remove", _own(run, 1, "args.json")]],
        "c": [["turn_into", _own(run, 2, "log"), "folder"]],
        "d": [["turn_into", _own(run, 3, "args.json"), "fifo"]],
    }
    for destroy in steps.values():
        destroy += [["print_out", "so much for that\n"], updates({"zarr_url": f"by {destroy[0][1][-12:]}"})]
    ended = subject.run([parallel(steps), non_parallel()], list(steps), folder=run)
    must_equal(ended.statuses, ["done", "done"], "the statuses in the history")
    must_equal(len(ended.result["images"]), 8, "the number of images")


@requirement("HOST-007")
def test_files_destroyed_by_bad_units(subject: Subject) -> None:
    """Units remove their log, or put a FIFO, a folder or a device in its place, and fail or are killed."""
    for i, (destroy, last) in enumerate(
        [
            (["remove"], ["exit_with", 3]),
            (["turn_into", "fifo"], ["exit_with", 4]),
            (["turn_into", "device"], ["kill_self", 9]),
            (["turn_into", "folder"], ["kill_self", 15]),
        ]
    ):
        run = subject.folder / f"run-of-{i}"
        name, *what = destroy
        steps: list[list[Any]] = [[name, _own(run, 0, ending), *what] for ending in ("log", "args.json")]
        ended = subject.run([parallel([*steps, last])], ["a"], folder=run, what=f"{destroy}, then {last}")
        if last[0] == "exit_with":
            ended.failure.must_be("TaskExecutionError", f"exit code {last[1]}")
        else:
            ended.failure.must_be("JobExecutionError", f"returncode=-{last[1]}")
        _must_be_short(ended)
