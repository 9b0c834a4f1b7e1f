"""Faults: a folder that becomes read-only, a full disk, and workers that are killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..expectations import Ended, Subject, must, must_equal, requirement
from ..subject import read_json
from ..traces import Gate
from ..workflows import Json, image, non_parallel, parallel, updates

_STATE = ("images", "filters", "history")
_NOT_WRITABLE = ("permission denied", "read-only", "not permitted", "not writable", "cannot write")
_NO_ROOM = ("too large", "no space", "disk full", "disk is full", "cannot write", "could not write")
_LIMIT = 100_000
_TEXT = "x" * 10_000
_NEW_IMAGES = 40


def _good(name: str) -> list[object]:
    return updates({"zarr_url": name, "attributes": {"by": name}})


def _must_say(ended: Ended, words: Sequence[str], what: str) -> None:
    message = ended.failure.must_be("JobExecutionError").message
    must(
        any(word in message.lower() for word in words), f"a JobExecutionError that says that {what}", message
    )


def _must_be_as_before(folder: Path, before: Json) -> None:
    """The state files have to hold what they held, but for a last entry in the history."""
    for name in ("images", "filters"):
        must_equal(read_json(folder / f"{name}.json"), before[name], f"{name}.json, as before,")
    history = read_json(folder / "history.json")
    must_equal(
        history[: len(before["history"])], before["history"], "the beginning of history.json, as before,"
    )


@requirement("FAULT-005")
def test_a_read_only_folder(subject: Subject) -> None:
    """Takes away the right to write in the run's folder (mode 0500) while a unit of its second task runs."""
    runner, gate = subject.new_runner(unprivileged=True), Gate(subject)
    tasks = [parallel([_good("a")]), parallel([*gate.steps("a"), _good("a")])]
    run = subject.start(tasks, ["a"], runner=runner)
    gate.must_come("a")
    before = {name: read_json(run.folder / f"{name}.json") for name in _STATE}
    mode = run.folder.stat().st_mode
    run.folder.chmod(0o500)
    try:
        gate.let("a")
        ended = run.wait()
        _must_say(ended, _NOT_WRITABLE, "the folder cannot be written to")
        _must_be_as_before(run.folder, before)
    finally:
        run.folder.chmod(mode)


@requirement("FAULT-006")
def test_a_full_disk(subject: Subject) -> None:
    """Runs two tasks; the images of the second take more room than a file may have (RLIMIT_FSIZE)."""
    runner, gate = subject.new_runner(limits={"RLIMIT_FSIZE": _LIMIT}), Gate(subject)
    copies = updates(*({"zarr_url": f"{number}", "origin": "a"} for number in range(_NEW_IMAGES)))
    tasks = [parallel([_good("a")]), non_parallel([*gate.steps("a"), copies])]
    run = subject.start(tasks, [image("a", text=_TEXT)], runner=runner)
    gate.must_come("a")
    before = {name: read_json(run.folder / f"{name}.json") for name in _STATE}
    gate.let("a")
    ended = run.wait()
    _must_say(ended, _NO_ROOM, "a file could not be written")
    _must_be_as_before(run.folder, before)
