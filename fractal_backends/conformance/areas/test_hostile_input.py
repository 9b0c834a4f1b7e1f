"""Hostile input: names, arguments, URLs and commands that are data, whatever they look like."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..expectations import Subject, must, must_equal, requirement, violation
from ..subject import read_json
from ..violations import shown
from ..workflows import COMMAND, ZARR, Json, dataset, image, names, non_parallel, parallel, updates, url

_TASK_NAMES = {
    "../../../escape": "_________escape",
    "/etc/passwd": "_etc_passwd",
    "..": "__",
    "a\nb\tc\r": "a_b_c_",
    'it\'s "quoted" \\': "it_s__quoted___",
    "$HOME `id` %s {0} ; rm -rf *": "_home__id___s__0____rm__rf__",
    "Ñandú 漢字 😀": "ñandú_漢字_😀",
    "-n": "_n",
}


@requirement("HOST-001")
def test_task_names(subject: Subject) -> None:
    """Runs a task for each of some odd names, and looks where their files are."""
    before = _listed(subject.folder)
    ended = subject.run([non_parallel(task={"name": name}) for name in _TASK_NAMES])
    outside = sorted(_listed(subject.folder) - before - {ended.folder.name})
    must(not outside, "all files to be in workflow_dir_local", f"beside it there is {outside}")
    must_equal(ended.statuses, ["done"] * len(_TASK_NAMES), "the statuses in the history")
    for order, slug in enumerate(_TASK_NAMES.values()):
        log = ended.folder / f"{order}_{slug}" / f"{order}.log"
        folders = sorted(path.name for path in ended.folder.iterdir() if path.is_dir())
        must(log.is_file(), f"a log at {log.relative_to(ended.folder)}", f"the folders are {shown(folders)}")


def _listed(folder: Path) -> set[str]:
    """What is in a folder, and in the one above."""
    return {path.name for path in folder.iterdir()} | {f"../{path.name}" for path in folder.parent.iterdir()}


_HARD_TEXT = "".join(map(chr, [*range(1, 0x180), 0x2028, 0x2029, 0xFEFF, 0xFFFD, 0x6F22, 0x1F600, 0x10FFFF]))
_HARD_WORDS = ["", " ", "$HOME", "`id`", "$(id)", "a;b", "'", '"', "\\", "--out-json", "-", "%s", "{0}", "\0"]


@requirement("HOST-004")
def test_arguments(subject: Subject) -> None:
    """Gives a task arguments of a megabyte with all kinds of characters; the unit copies its file."""
    copy = subject.folder / "copy"
    stem = subject.folder / "run/0_task/0_par_0000000"
    task = parallel([["copy", f"{stem}.args.json", str(copy)]])
    task["args_parallel"].update({"long": "é\n" * (1 << 19), "words": _HARD_WORDS, _HARD_TEXT: [_HARD_TEXT]})
    subject.run([task], ["a"], folder="run").must_succeed()
    got, expected = read_json(copy), {"zarr_url": url("a"), **task["args_parallel"]}
    must_equal(sorted(got), sorted(expected), "the names of the arguments")
    for name, value in expected.items():
        must_equal(got[name], value, f"the argument {shown(name)}")


_ODD_NAMES = (
    *("with space", 'it\'s "quoted"', "$HOME `id` $(id)", "a;b&c|d<e>f*g?h[i]", "back\\slash"),
    *("100%41%2F#x?y=z", "é 漢字 😀", "...", "s3://bucket/a b%20"),
)
_NOT_NORMAL = {
    "/data//zarr/./n/": f"{ZARR}/n",
    "//data/zarr/m": f"{ZARR}/m",
    "s3://bucket/b//": "s3://bucket/b",
}


@requirement("HOST-006")
def test_urls(subject: Subject) -> None:
    """Runs a task on images with odd URLs; each unit names its image as the dataset does."""
    urls = {**{name: name for name in _ODD_NAMES}, **_NOT_NORMAL}
    steps = {
        url(normal).rpartition("/")[2]: [updates({"zarr_url": given, "attributes": {"seen": True}})]
        for given, normal in urls.items()
    }
    new = updates({"zarr_url": "new 'one' %20/b", "origin": "with space"})
    ended = subject.run([parallel(steps), non_parallel([new])], urls)
    expected = [image(normal, seen=True) for normal in urls.values()]
    expected.append(image("new 'one' %20/b", origin="with space", seen=True))
    must_equal(ended.result["images"], expected, "the images")


_BAD_URLS = (f"{ZARR}/../../etc", f"{ZARR}/a/..", "a", "./a", "http://host/a", "file:///a", "S3://b/a", "")


@requirement("HOST-006")
def test_bad_urls_of_a_dataset(subject: Subject) -> None:
    """Gives datasets with an image that has a bad URL, and one with a bad zarr_dir."""
    started = subject.folder / "started"
    tasks = [non_parallel([["touch", str(started)]])]
    given: list[Json] = [dataset([{**image("a"), "zarr_url": bad}]) for bad in _BAD_URLS]
    given += [dataset(["a"], zarr_dir=f"{ZARR}/../x"), dataset([{**image("a"), "origin": "a"}])]
    for data in given:
        subject.run(tasks, dataset=data, what=f"dataset {shown(data)}").failure.must_be("ValueError")
    must(not started.exists(), "no unit to start", "one did")


@requirement("HOST-006")
def test_bad_urls_of_units(subject: Subject) -> None:
    """Runs units of which all but the last put a bad URL in their output."""
    outputs: list[Json] = [{"image_list_updates": [{"zarr_url": bad}]} for bad in _BAD_URLS]
    outputs.append({"image_list_updates": [{"zarr_url": url("new"), "origin": f"{ZARR}/.."}]})
    outputs.append({"image_list_removals": [f"{ZARR}/x/../0"]})
    outputs.append({"image_list_updates": [{"zarr_url": url("good")}]})
    steps = {str(i): [["output", value]] for i, value in enumerate(outputs)}
    ended = subject.run([parallel(steps)], list(steps))
    ended.failure.must_be("JobExecutionError", "Validation of task output failed.", _BAD_URLS[0])
    must_equal(names(ended.images), [*steps, "good"], "the images in images.json")


@requirement("HOST-008")
def test_many_words(subject: Subject) -> None:
    """Runs a command of 1,000 words, some of them empty or quoted."""
    copy = subject.folder / "words"
    words = [("", "two words", "it's", f"word-{i}")[i % 4] for i in range(1000)]
    command = f"{COMMAND} {shlex.join(words)}"
    subject.run([parallel([["argv", str(copy)]], task={"command_parallel": command})], ["a"]).must_succeed()
    must_equal(read_json(copy)[:-4], words, "the words that the unit was called with, before --args-json,")


@requirement("HOST-008")
def test_a_command_that_is_too_long(subject: Subject) -> None:
    """Runs a task whose command has a word of 200,000 characters, more than Linux takes."""
    command = f"{COMMAND} {'x' * 200_000}"
    task = parallel(task={"command_parallel": command})
    ended = subject.run([parallel(), task, parallel()], ["a"], what="a word of 200,000 characters")
    if not {"JobExecutionError", "TaskExecutionError"} & set(ended.failure.types):
        violation(
            "a JobExecutionError or a TaskExecutionError",
            f"{ended.failure.types[0]}: {ended.failure.message}",
        )
    must_equal(ended.statuses, ["done", "failed"], "the statuses in the history")
    must(
        len(ended.failure.message) < 1_000_000,
        "a message below 1 MB",
        f"{len(ended.failure.message):,} characters",
    )
