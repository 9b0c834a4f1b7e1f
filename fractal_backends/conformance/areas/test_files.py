"""Files: where a run's files are, and what can be relied upon."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..expectations import Ended, Subject, must, must_equal, not_judged, requirement, violation
from ..file_events import FileEvents
from ..subject import read_json
from ..workflows import ZARR, Json, compound, image, non_parallel, parallel, updates, url

_STATE_FILES = {"images.json", "filters.json", "history.json"}
_TEXT: Json = {
    "words": "naïve 漢字 𝄞 😀 'single' \"double\" back\\slash",
    "white space": "tab\t line\n return\r end\u2028",
    "numbers": [0, -1, 2**60, 0.1, 1e300, True, None],
    "nested": {"": {"a.b": [[], {}, ""]}, "null": None},
}


def _unit_files(stem: str) -> list[str]:
    return [f"{stem}.{ending}" for ending in ("args.json", "log", "metadiff.json")]


@requirement("FILE-001")
def test_names_and_places(subject: Subject) -> None:
    """Runs tasks of three types; each unit writes down how it was called."""
    calls = subject.folder / "calls"
    calls.mkdir()
    stems = {
        "np": "0_convert__data_v1_0__é_/0",
        **{"a": "1_two_words/1_par_0000000", "b": "1_two_words/1_par_0000001"},
        **{"init": "2_third_task/2", "compute": "2_third_task/2_par_0000000"},
    }
    steps: dict[str, list[Any]] = {name: [["argv", f"{calls}/{name}"]] for name in stems}
    for name in set(steps) - {"init"}:
        steps[name].append(["output", {}])
    tasks = [
        non_parallel(steps["np"], task={"name": "Convert: Data v1.0 (É)"}),
        parallel({"a": steps["a"], "b": steps["b"]}, task={"name": "Two\tWORDS"}),
        compound(["a"], steps["compute"], steps["init"], task={"name": "third-task"}),
    ]
    ended = subject.run(tasks, ["a", "b"])
    ended.must_succeed()
    for name, stem in stems.items():
        args_file, _, output_file = (str(ended.folder / file) for file in _unit_files(stem))
        expected = ["--args-json", args_file, "--out-json", output_file]
        must_equal(read_json(calls / name), expected, f"the end of the command of the unit {stem!r}")
        missing = [file for file in _unit_files(stem) if not (ended.folder / file).is_file()]
        must(not missing, f"the unit's three files to be in {ended.folder}", f"there is no {missing}")


@requirement("FILE-001")
def test_a_relative_folder(subject: Subject) -> None:
    """Gives a `workflow_dir_local` that is relative to the folder in which the runner works."""
    relative = "some/run"
    runner = subject.new_runner(cwd=subject.folder)
    ended = subject.run([non_parallel()], runner=runner, folder=relative, workflow_dir_local=relative)
    ended.must_succeed()
    log = ended.folder / "0_task/0.log"
    must(log.is_file(), f"a log at {log}", "there is none")


@requirement("FILE-002")
def test_arguments(subject: Subject) -> None:
    """Gives tasks of three types arguments of many kinds; units keep a copy of their file as they start."""
    folders = ["0_task/0", "1_task/1_par_0000000", "2_task/2", "2_task/2_par_0000000"]
    run = subject.folder / "run"
    copies = [subject.folder / f"copy-{i}" for i in range(4)]
    steps = [
        [["copy", f"{run}/{stem}.args.json", str(copy)]] for stem, copy in zip(folders, copies, strict=True)
    ]
    tasks = [non_parallel(steps[0]), parallel(steps[1]), compound(["a"], steps[3], steps[2])]
    for task in tasks:
        for part in ("args_non_parallel", "args_parallel"):
            if part in task:
                task[part].update(_TEXT)
    subject.run(tasks, ["a"], folder="run").must_succeed()
    given = [tasks[0]["args_non_parallel"], tasks[1]["args_parallel"]]
    given += [tasks[2]["args_non_parallel"], tasks[2]["args_parallel"]]
    of_all: Json = {"zarr_urls": [url("a")], "zarr_dir": ZARR}
    own: list[Json] = [of_all, {"zarr_url": url("a")}, of_all, {"zarr_url": url("a"), "init_args": {}}]
    for stem, copy, mine, arguments in zip(folders, copies, own, given, strict=True):
        must_equal(read_json(copy), {**mine, **arguments}, f"{stem}.args.json, when its unit starts,")


@requirement("FILE-003")
def test_both_streams(subject: Subject) -> None:
    """A unit writes to stdout and stderr by turns: text, half lines, bytes that are no text."""
    odd_bytes = [0, 27, 127, 128, 0xC3, 0xFF]
    writes: list[tuple[str, Any, bytes]] = [
        ("print_out", "out 1\n", b"out 1\n"),
        ("print_err", "err 1\n", b"err 1\n"),
        ("print_out", "half of a ", b"half of a "),
        ("print_err", "line é\r\n", "line é\r\n".encode()),
        ("print_bytes", odd_bytes, bytes(odd_bytes)),
        ("print_err", "the end, with no line break", b"the end, with no line break"),
    ]
    steps = [[name, value] for name, value, _ in writes]
    ended = subject.run([non_parallel(steps)])
    ended.must_succeed()
    log = ended.folder / "0_task/0.log"
    must(log.is_file(), f"a log at {log}", "there is none")
    expected = b"".join(data for _, _, data in writes)
    must(expected in log.read_bytes(), f"the log to hold {expected!r}", f"it holds {log.read_bytes()!r}")


@requirement("FILE-003")
def test_blanks_and_escapes(subject: Subject) -> None:
    """A unit writes colours, a progress bar, and blanks at both ends."""
    text = "\n \t\x1b[1;31mred\x1b[0m 50 %\r\x1b[K100 %\n\n  \t\n"
    ended = subject.run([non_parallel([["print_out", text]])])
    ended.must_succeed()
    log = (ended.folder / "0_task/0.log").read_bytes()
    must(text.encode() in log, f"the log to hold {text.encode()!r}", f"it holds {log!r}")


@requirement("FILE-004")
def test_the_state_after_each_task(subject: Subject) -> None:
    """Runs three tasks that change images and filters, and reads the state files while the later ones run."""
    here, go = subject.folder / "here", subject.folder / "go"
    hold = {i: [["touch", f"{here}-{i}"], ["wait", f"{go}-{i}"]] for i in (1, 2)}
    tasks = [
        parallel({"b": [updates({"zarr_url": "c", "origin": "b"})]}, task={"output_types": {"first": True}}),
        non_parallel([*hold[1], ["output", {"filters": {"attributes": {"size": 1}}}]]),
        non_parallel([*hold[2], updates({"zarr_url": "d"})], task={"input_types": {"first": True}}),
    ]
    b = image("b", {"first": False}, size=1)
    after_first = [image("a", size=1), b, image("c", {"first": True}, origin="b", size=1)]
    expected: dict[int, tuple[Any, Json]] = {
        1: (after_first, {"types": {"first": True}, "attributes": {}}),
        2: (after_first, {"types": {"first": True}, "attributes": {"size": 1}}),
    }
    run = subject.start(tasks, [image("a", size=1), b])
    histories = []
    for i, (images, filters) in expected.items():
        subject.wait_for(Path(f"{here}-{i}"))
        for name, content in (("images.json", images), ("filters.json", filters)):
            must_equal(read_json(run.folder / name), content, f"{name} after {i} of 3 tasks")
        histories.append(read_json(run.folder / "history.json"))
        Path(f"{go}-{i}").touch()
    ended = run.wait()
    for name in sorted(_STATE_FILES):
        must_equal(
            read_json(ended.folder / name), ended.result.get(name[:-5]), f"{name} at the end of the run"
        )
    for i, history in enumerate(histories, 1):
        must_equal(history, ended.result["history"][:i], f"history.json after {i} of 3 tasks")


@requirement("FILE-005")
def test_readers_of_state_files(subject: Subject) -> None:
    """Opens the state files while a task runs, and reads them when the run has replaced them."""
    here, go = subject.folder / "here", subject.folder / "go"
    tasks = [
        non_parallel([updates({"zarr_url": "b"})]),
        non_parallel([["touch", str(here)], ["wait", str(go)]], task={"output_types": {"new": True}}),
    ]
    run = subject.start(tasks, ["a"])
    subject.wait_for(here)
    with ExitStack() as stack:
        before = {name: read_json(run.folder / name) for name in sorted(_STATE_FILES)}
        files = {name: stack.enter_context((run.folder / name).open("rb")) for name in before}
        go.touch()
        after = {name: read_json(run.wait().folder / name) for name in before}
        for name, file in files.items():
            must(before[name] != after[name], f"{name} to be another one after the second task", after[name])
            must_equal(
                _json_or_text(file.read()), before[name], f"{name}, for who had opened it before it changed,"
            )


def _json_or_text(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


@requirement("FILE-005")
def test_changes_of_state_files(subject: Subject) -> None:
    """Runs two tasks, and lets the system tell of every change in the run's folder."""
    folder = subject.folder / "run"
    folder.mkdir()
    try:
        with FileEvents(folder) as events:
            subject.run(
                [non_parallel([updates({"zarr_url": "b"})]), parallel()], ["a"], folder=folder
            ).must_succeed()
            found = events.of(_STATE_FILES)
    except OSError as error:
        not_judged(f"the system does not tell of changes in a folder: {error}")
    bad = [f"{name} was {what}" for name, what in found if what not in ("moved here", "created")]
    must(not bad, "a state file to be replaced by a file that is whole, and nothing else", "; ".join(bad))


@requirement("FILE-006")
def test_no_output_file_at_the_start(subject: Subject) -> None:
    """Runs tasks of three types in a folder with stale output files; units look for theirs as they start."""
    folder = subject.folder / "run"
    stale = json.dumps({"image_list_updates": [{"zarr_url": url("stale")}]})
    for name in ("0", "1_par_0000000", "1_par_0000001", "2", "2_par_0000000"):
        path = folder / f"{name[0]}_task/{name}.metadiff.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stale)
    look = [["no_output_file"]]
    wanted = ["output", {"parallelization_list": [{"zarr_url": url("a")}]}]
    last = compound([], look)
    last["args_non_parallel"] = {"do": [*look, wanted]}
    ended = subject.run([non_parallel(look), parallel(look), last], ["a", "b"], folder=folder)
    must_equal(ended.result["images"], [image("a"), image("b")], "the images")


@requirement("FILE-007")
def test_modes(subject: Subject) -> None:
    """Runs tasks of three types in a process with umask 0 and looks at the modes of all that is made."""
    tasks = [non_parallel(), parallel([["print_out", "secret"]]), compound(["a"])]
    ended = subject.run(tasks, ["a"], runner=subject.new_runner(umask=0))
    ended.must_succeed()
    made = [ended.folder, *sorted(ended.folder.rglob("*"))]
    modes = {path: path.stat().st_mode & 0o777 for path in made if not path.name.endswith(".metadiff.json")}
    wrong = [
        f"{path.relative_to(ended.folder.parent)}: {mode:o}" for path, mode in modes.items() if mode & 0o066
    ]
    must(not wrong, "modes without access for group and others", "; ".join(wrong))


@requirement("FILE-008")
def test_files_of_others(subject: Subject) -> None:
    """Runs a task in a folder that holds a server's files, among them a log."""
    folder = subject.folder / "run"
    texts = {
        "server.log": "the server's log\n",
        "workflow.log": "what the server has said before\n",
        ".hidden": "",
        "0_notes.txt": "not a task's folder",
        "inputs/0.args.json": '{"not": "a unit\'s"}',
        "images.json.bak": "[]",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = {name: (folder / name).stat() for name in texts}
    subject.run([parallel()], ["a"], folder=folder).must_succeed()
    for name, text in texts.items():
        path = folder / name
        must(path.exists(), f"the file {name} to be there as before", "it is gone")
        now = path.read_text()[: len(text)] if name == "workflow.log" else path.read_text()
        must(
            now == text, f"{name} to hold, or begin with, what it held before: {text!r}", f"it holds {now!r}"
        )
        same = (path.stat().st_ino, path.stat().st_mode) == (before[name].st_ino, before[name].st_mode)
        must(same, f"{name} to be the same file as before, with the same mode", "another one")


@requirement("FILE-009")
def test_folders(subject: Subject) -> None:
    """Runs tasks in a folder that is not there yet, nor the one above, with names that shells do not like."""
    name = 'new one/it\'s "quoted" $HOME `id` (1) & <a> *?[b] ~ #; back\\slash!/漢字 é 😀 -x'
    tasks = [parallel([updates({"zarr_url": "b"})]), compound(["a"], [["no_output_file"]])]
    ended = subject.run(tasks, ["a"], folder=name)
    must_equal(ended.result["images"], [image("a"), image("b")], "the images")
    must_equal(ended.images, [image("a"), image("b")], "images.json")
    log = ended.folder / "0_task/0_par_0000000.log"
    must(log.is_file(), f"the log {log.relative_to(ended.folder)} in the folder", "there is none")


_LISTED = [*_STATE_FILES, "0_task/", *_unit_files("0_task/0"), "0_task/mine", "1_task/"]


def _listed(folder: Path) -> set[str]:
    return {f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}" for path in folder.rglob("*")}


def _must_hold(ended: Ended, needed: Iterable[str], allowed: Iterable[str] = ()) -> None:
    found = _listed(ended.folder)
    must(
        not set(needed) - found,
        f"all of the run's files in {ended.folder}",
        f"no {sorted(set(needed) - found)}",
    )
    more = sorted(found - set(needed) - {"workflow.log", *allowed})
    must(not more, f"nothing else in {ended.folder}", f"there is also {more}")


def _first_task(subject: Subject, folder: str) -> Json:
    return non_parallel([["touch", str(subject.folder / folder / "0_task/mine")], ["output", {}]])


@requirement("FILE-010")
def test_what_is_left(subject: Subject) -> None:
    """Runs tasks of three types, and lists the folder."""
    tasks = [_first_task(subject, "run"), parallel([["output", {}]]), compound(["a"])]
    ended = subject.run(tasks, ["a"], folder="run")
    ended.must_succeed()
    third = [*_unit_files("2_task/2"), *_unit_files("2_task/2_par_0000000")[:2]]
    _must_hold(ended, [*_LISTED, *_unit_files("1_task/1_par_0000000"), "2_task/", *third])


@requirement("FILE-010")
def test_what_failures_leave(subject: Subject) -> None:
    """Runs a task of which one unit fails and one is killed, and lists the folder."""
    steps = {"a": [["exit_with", 1]], "b": [["kill_self", 9]]}
    ended = subject.run([_first_task(subject, "run"), parallel(steps)], ["a", "b"], folder="run")
    if ended.succeeded:
        violation("the run to fail", "it succeeded")
    files = [file for i in (0, 1) for file in _unit_files(f"1_task/1_par_000000{i}")[:2]]
    _must_hold(ended, [*_LISTED, *files])


@requirement("FILE-010")
def test_what_a_cancel_leaves(subject: Subject) -> None:
    """Cancels a run whose second task waits, and lists the folder."""
    here = subject.folder / "here"
    waiting = parallel([["touch", str(here)], ["hang"]])
    run = subject.start([_first_task(subject, "run"), waiting], ["a"], folder="run")
    subject.wait_for(here)
    run.cancel()
    _must_hold(run.wait(), [*_LISTED, *_unit_files("1_task/1_par_0000000")[:2]])
