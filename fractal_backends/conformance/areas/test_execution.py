"""Execution: the five types of task, what their units get, and what follows from their outputs."""

from __future__ import annotations

import shlex
import sys

from ..expectations import Subject, must_equal, requirement
from ..subject import read_json
from ..traces import must_have_run, recorded
from ..workflows import (
    COMMAND,
    TASK_PROGRAM,
    ZARR,
    Json,
    Steps,
    compound,
    image,
    names,
    non_parallel,
    parallel,
    step,
    updates,
    url,
)

_EXTRA: Json = {"size": 3, "share": 0.5, "none": None, "deep": {"list": [1, True, "two words"], "empty": {}}}
"""Arguments that have to reach the units as they are."""
_PRIME, _SMALLER_PRIME = 13, 11
"""Numbers of units of which batches of any size leave a rest."""


@requirement("EXEC-001")
def test_non_parallel(subject: Subject) -> None:
    """Runs a non-parallel task with arguments, whose input types leave two of three images."""
    trace = subject.folder / "trace"
    arguments = {"do": [["record", str(trace)]], **_EXTRA}
    task = non_parallel(args_non_parallel=arguments, task={"input_types": {"raw": True}})
    images = [image("z", {"raw": True}), image("b"), image("a", {"raw": True})]
    subject.run([task], images).must_succeed()
    must_have_run(trace, {"zarr_urls": [url("z"), url("a")], "zarr_dir": ZARR, **_EXTRA})


@requirement("EXEC-002")
def test_parallel(subject: Subject) -> None:
    """Runs a parallel task with arguments, whose input types leave three of four images."""
    trace = subject.folder / "trace"
    arguments = {"do": [["record", str(trace)]], **_EXTRA}
    task = parallel(args_parallel=arguments, task={"input_types": {"raw": True}})
    images = [image("z", {"raw": True}), image("c"), image("b", {"raw": True}), image("a", {"raw": True})]
    subject.run([task], images).must_succeed()
    must_have_run(trace, *({"zarr_url": url(name), **_EXTRA} for name in "zba"))


@requirement("EXEC-003")
def test_compound(subject: Subject) -> None:
    """Runs a compound task on two images, one of them twice in the list of the init, with other init_args."""
    init_trace, trace = subject.folder / "init", subject.folder / "compute"
    items = [
        {"zarr_url": url("z"), "init_args": {"part": 1, "deep": {"x": [None]}}},
        {"zarr_url": url("a"), "init_args": {}},
        {"zarr_url": url("z"), "init_args": {"part": 2}},
    ]
    init = {"do": [["output", {"parallelization_list": items}], ["record", str(init_trace)]], "of": "init"}
    compute = {"do": [["record", str(trace)]], **_EXTRA}
    task = step("compound", args_non_parallel=init, args_parallel=compute)
    subject.run([task], ["a", "z"]).must_succeed()
    must_have_run(init_trace, {"zarr_urls": [url("a"), url("z")], "zarr_dir": ZARR, "of": "init"})
    must_have_run(trace, *({**item, **_EXTRA} for item in items))


@requirement("EXEC-003")
def test_items_without_repetitions(subject: Subject) -> None:
    """Runs a compound task whose init asks for some units twice, once spelled in another way."""
    trace = subject.folder / "trace"
    wanted: list[Json] = [
        {"zarr_url": url("a"), "init_args": {"n": 1, "m": 2}},
        {"zarr_url": f"{ZARR}//a/", "init_args": {"m": 2, "n": 1}},
        {"zarr_url": url("b")},
        {"zarr_url": url("a"), "init_args": {"n": True, "m": 2}},
        {"zarr_url": url("b"), "init_args": {}},
    ]
    compute = {"do": [["record", str(trace)]]}
    init = {"do": [["output", {"parallelization_list": wanted}]]}
    subject.run([step("compound", args_non_parallel=init, args_parallel=compute)], ["a"]).must_succeed()
    must_have_run(trace, wanted[0], {**wanted[2], "init_args": {}}, wanted[3])


@requirement("EXEC-004")
def test_converter(subject: Subject) -> None:
    """Runs a non-parallel converter on a dataset whose filters leave none of its images."""
    trace = subject.folder / "trace"
    do = [["record", str(trace)], updates({"zarr_url": "new"})]
    task = step("converter_non_parallel", args_non_parallel={"do": do, **_EXTRA})
    ended = subject.run([task], ["a"], filters={"types": {"nothing has": True}})
    ended.must_succeed()
    must_have_run(trace, {"zarr_dir": ZARR, **_EXTRA})
    must_equal(ended.images, [image("a"), image("new")], "the images")


@requirement("EXEC-004")
def test_converter_without_output(subject: Subject) -> None:
    """Runs a converter that writes no output, on a dataset with an image."""
    task = step("converter_non_parallel", task={"output_types": {"new": True}})
    ended = subject.run([task], ["a"])
    ended.must_succeed()
    must_equal(ended.images, [image("a")], "the images, none of which the converter was given,")


@requirement("EXEC-005")
def test_compound_converter(subject: Subject) -> None:
    """Runs a compound converter, on a dataset with an image, whose two compute units make an image each."""
    init_trace, trace = subject.folder / "init", subject.folder / "compute"
    items = [{"zarr_url": url(name), "init_args": {"raw": f"{name}.tif"}} for name in ("y", "x")]
    init = {"do": [["output", {"parallelization_list": items}], ["record", str(init_trace)]], **_EXTRA}
    do = {name: [updates({"zarr_url": name}), ["record", str(trace)]] for name in ("y", "x")}
    output_types = {"fresh": True}
    task = step(
        "converter_compound",
        args_non_parallel=init,
        args_parallel={"do": do},
        task={"output_types": output_types},
    )
    ended = subject.run([task], ["a"])
    ended.must_succeed()
    must_have_run(init_trace, {"zarr_dir": ZARR, **_EXTRA})
    must_have_run(trace, *items)
    must_equal(ended.images, [image("a"), image("y", output_types), image("x", output_types)], "the images")


@requirement("EXEC-009")
def test_once(subject: Subject) -> None:
    """Runs tasks of all parts whose units leave a trace each time that they run; all succeed."""
    traces = [subject.folder / name for name in ("non-parallel", "parallel", "init", "compute")]
    note = [[["record", str(trace)]] for trace in traces]
    images = [f"image-{i:02}" for i in range(_PRIME)]
    tasks = [non_parallel(note[0]), parallel(note[1]), compound(images[:_SMALLER_PRIME], note[3], note[2])]
    subject.run(tasks, images).must_succeed()
    for trace, units in zip(traces, (1, _PRIME, 1, _SMALLER_PRIME), strict=True):
        must_equal(len(recorded(trace)), units, f"the number of times that a {trace.name} unit ran")


@requirement("EXEC-009")
def test_failures_once(subject: Subject) -> None:
    """Runs thirteen units: one exits with code 1, one is ended by SIGKILL, the others succeed."""
    note = ["record", str(subject.folder / "trace")]
    images = [f"image-{i:02}" for i in range(_PRIME)]
    do: dict[str, Steps] = {
        images[1]: [note, ["exit_with", 1]],
        images[-1]: [note, ["kill_self", 9]],
        "*": [note],
    }
    subject.run([parallel(do)], images).failure.must_be("TaskExecutionError")
    must_equal(names(recorded(subject.folder / "trace")), images, "the images whose units ran")


@requirement("EXEC-013")
def test_no_outputs(subject: Subject) -> None:
    """Runs units that write no output file, `{}`, `null` and empty lists, of a task with output types."""
    nothing = '{"image_list_updates": [], "image_list_removals": [], "filters": null}'
    do: dict[str, Steps] = {"b": [["raw", "{}"]], "c": [["raw", " null\n"]], "d": [["raw", nothing]], "*": []}
    task = parallel(do, task={"output_types": {"done": True, "raw": False}})
    ended = subject.run([task], [image("a", {"raw": True}), "b", "c", image("d", size=1)])
    ended.must_succeed()
    types = {"done": True, "raw": False}
    expected = [*(image(name, types) for name in "abc"), image("d", types, size=1)]
    must_equal(ended.images, expected, "the images")


@requirement("EXEC-013")
def test_no_outputs_of_other_types(subject: Subject) -> None:
    """Runs a non-parallel task, and a compound one whose unit is for another image; neither has an output."""
    tasks = [
        non_parallel(task={"output_types": {"seen": True}, "input_types": {"raw": True}}),
        compound(["b"], task={"output_types": {"done": True}}),
    ]
    ended = subject.run(tasks, [image("a", {"raw": True}), image("b"), image("c", {"raw": True})])
    ended.must_succeed()
    done = {"raw": True, "seen": True, "done": True}
    must_equal(ended.images, [image("a", done), image("b"), image("c", done)], "the images")


@requirement("EXEC-013")
def test_one_output(subject: Subject) -> None:
    """Runs three units of which one names its image as updated."""
    do: dict[str, Steps] = {"b": [updates({"zarr_url": "b"})], "*": []}
    ended = subject.run([parallel(do, task={"output_types": {"done": True}})], ["a", "b", "c"])
    ended.must_succeed()
    must_equal(ended.images, [image("a"), image("b", {"done": True}), image("c")], "the images")


@requirement("EXEC-014")
def test_no_images(subject: Subject) -> None:
    """Runs a parallel, a non-parallel and a compound task on a dataset without images."""
    trace, init_trace = subject.folder / "trace", subject.folder / "init"
    tasks = [
        parallel([["exit_with", 1]], task={"input_types": {"raw": True}}),
        non_parallel([["record", str(trace)]]),
        compound([], [["exit_with", 1]], [["record", str(init_trace)]]),
    ]
    ended = subject.run(tasks, [])
    ended.must_succeed()
    for folder in (trace, init_trace):
        must_equal([found.get("zarr_urls") for found in recorded(folder)], [[]], "the zarr_urls of each unit")
    must_equal(ended.statuses, ["done"] * 3, "the statuses in the history")


@requirement("EXEC-014")
def test_no_items(subject: Subject) -> None:
    """Runs compound tasks whose init writes an empty list, `{}`, and no output at all."""
    inits: list[Steps] = [[["raw", '{"parallelization_list": []}']], [["raw", "{}"]], []]
    tasks = [step("compound", init, [["exit_with", 1]]) for init in inits]
    tasks[0]["task"]["output_types"] = {"done": True}
    ended = subject.run(tasks, ["a"])
    ended.must_succeed()
    must_equal(ended.images, [image("a", {"done": True})], "the images")


@requirement("EXEC-017")
def test_commands_are_split(subject: Subject) -> None:
    """Gives a command with quotes, a tilde, a line break and a program in a folder whose name has spaces."""
    place = subject.folder / "it's a folder"
    place.mkdir()
    program = place / "task program.py"
    program.write_bytes(TASK_PROGRAM.read_bytes())
    words = ["two words", "it's", "", "abc", "~", "%d", "--last"]
    given = """'two words' "it's" '' a"b"c ~\n%d --last"""
    command = f"{shlex.join([sys.executable, '-I', '-S', str(program)])} {given}"
    seen = subject.folder / "argv"
    task = non_parallel([["argv", str(seen)]], task={"command_non_parallel": command})
    ended = subject.run([task], folder="run of the command", what=f"a command that ends in {given!r}")
    ended.must_succeed()
    stem = str(ended.folder / "0_task" / "0")
    own = ["--args-json", f"{stem}.args.json", "--out-json", f"{stem}.metadiff.json"]
    must_equal(read_json(seen), [*words, *own], "the words of the command")


@requirement("EXEC-017")
def test_no_shell(subject: Subject) -> None:
    """Gives a command that a shell would read as two: the second line would make a file."""
    marker = subject.folder / "made by a shell"
    second = shlex.join([sys.executable, "-I", "-S", "-c", "pass"])
    task = non_parallel(task={"command_non_parallel": f"{COMMAND}\ntouch '{marker}'\n{second}"})
    subject.run([task]).must_succeed()
    must_equal([path.name for path in subject.folder.glob("made*")], [], "the files made")
