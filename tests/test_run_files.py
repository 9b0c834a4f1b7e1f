"""The files of a run: where they are, what is in them, and whose they are."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import JobExecutionError, RunFolderError
from fractal_backends.engine.folder import RunFolder
from tests.helpers.processes import run_apart
from tests.helpers.workflows import (
    ZARR,
    Json,
    arguments_of,
    compound,
    image,
    non_parallel,
    parallel,
    process,
    run,
    saved,
    statuses,
    step,
    tree,
    updates,
    url,
)

STATE = {"history.json", "filters.json", "images.json"}
OUTPUT = ["output", {}]


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Cellpose", "cellpose"),
        ("Convert Cellvoyager to OME-Zarr", "convert_cellvoyager_to_ome_zarr"),
        ("a.b/c\\d:e", "a_b_c_d_e"),
        ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "_" * 32),
        (" a\tb\nc\rd\x0be\x0cf ", "_a_b_c_d_e_f_"),
        ("ÜNÏ Code 日本", "ünï_code_日本"),
        ("already_fine_2", "already_fine_2"),
    ],
)
def test_a_tasks_folder_is_its_order_and_its_name_in_lower_case_without_punctuation(
    tmp_path: Path, name: str, slug: str
) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    run(folder, [parallel(), parallel(task={"name": name})])
    assert _files(folder) == STATE | {"workflow.log", "0_task", f"1_{slug}"}


def test_files_of_non_parallel_parallel_and_compound_units(tmp_path: Path) -> None:
    tasks = [non_parallel([OUTPUT]), parallel([OUTPUT]), compound(["a", "b"], [OUTPUT])]
    run(tmp_path / "run", tasks, ["a", "b", "c"])

    def of(*stems: str) -> set[str]:
        return {f"{stem}.{kind}" for stem in stems for kind in ("args.json", "log", "metadiff.json")}

    assert _files(tmp_path / "run" / "0_task") == of("0")
    assert _files(tmp_path / "run" / "1_task") == of(*(f"1_par_000000{index}" for index in range(3)))
    assert _files(tmp_path / "run" / "2_task") == of("2", "2_par_0000000", "2_par_0000001")


def test_stdout_and_stderr_both_go_to_the_log_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    do = [["print_out", "1\n"], ["print_err", "2\n"], ["print_out", "3\n"]]
    run(tmp_path / "run", [parallel(do), non_parallel(do)], ["a"])
    for stem in ("0_task/0_par_0000000", "1_task/1"):
        assert (tmp_path / "run" / f"{stem}.log").read_text() == "1\n2\n3\n"


OWN: Json = {"text": "ü", "number": 1.5, "nothing": None, "deep": {"list": [1, [True]]}, "do": []}
ALL = [url("a"), url("b")]


@pytest.mark.parametrize(
    ("kind", "unit", "expected"),
    [
        ("non_parallel", "0", {"zarr_urls": ALL, "zarr_dir": ZARR, **OWN}),
        ("converter_non_parallel", "0", {"zarr_dir": ZARR, **OWN}),
        ("parallel", "0_par_0000001", {"zarr_url": url("b"), **OWN}),
        ("compound", "0", {"zarr_urls": ALL, "zarr_dir": ZARR, **OWN}),
        ("converter_compound", "0", {"zarr_dir": ZARR, **OWN}),
    ],
)
def test_arguments_of_a_unit(tmp_path: Path, kind: str, unit: str, expected: Json) -> None:
    part = "args_parallel" if kind == "parallel" else "args_non_parallel"
    run(tmp_path / "run", [step(kind, **{part: OWN})], ["a", "b"])
    assert arguments_of(tmp_path / "run", f"0_task/{unit}") == expected


@pytest.mark.parametrize("kind", ["compound", "converter_compound"])
def test_arguments_of_a_compound_tasks_compute_units(tmp_path: Path, kind: str) -> None:
    items: list[Json] = [
        {"zarr_url": url("new"), "init_args": {"deep": {"x": [1, None]}}},
        {"zarr_url": "/elsewhere"},
    ]
    run(
        tmp_path / "run",
        [step(kind, [["output", {"parallelization_list": items}]], args_parallel=OWN)],
        ["a"],
    )
    assert arguments_of(tmp_path / "run", "0_task/0_par_0000000") == {**items[0], **OWN}
    assert arguments_of(tmp_path / "run", "0_task/0_par_0000001") == {**items[1], "init_args": {}, **OWN}


def test_an_image_filter_decides_which_images_are_in_the_arguments(tmp_path: Path) -> None:
    images = [image("a"), image("b", {"x": True}), image("c", {"x": True})]
    tasks = [parallel(type_filters={"x": True}), non_parallel(type_filters={"x": True})]
    run(tmp_path / "run", tasks, images)
    assert arguments_of(tmp_path / "run", "0_task/0_par_0000000")["zarr_url"] == url("b")
    assert arguments_of(tmp_path / "run", "1_task/1")["zarr_urls"] == [url("b"), url("c")]


@pytest.mark.parametrize("kind", ["non_parallel", "compound", "parallel"])
def test_the_output_file_is_never_made_in_advance_and_a_stale_one_is_removed(
    tmp_path: Path, kind: str
) -> None:
    stale = tmp_path / "run" / "0_task"
    stale.mkdir(parents=True)
    for name in ("0", "0_par_0000000", "0_par_0000001"):
        (stale / f"{name}.metadiff.json").write_text(json.dumps({"image_list_removals": [url("a")]}))
    check = [["no_output_file"]]
    result = run(tmp_path / "run", [step(kind, check, check)], ["a", "b"])
    assert result["images"] == [image("a"), image("b")]
    assert not list((tmp_path / "run").rglob("*.metadiff.json"))


def test_after_every_task_the_state_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    copies = [["copy", str(folder / name), str(tmp_path / name)] for name in sorted(STATE)]
    make = [updates({"zarr_url": "b"}, filters={"attributes": {"x": 1}})]
    tasks = [non_parallel(make, task={"output_types": {"t": True}}), step("converter_non_parallel", copies)]
    result = run(folder, tasks, ["a"])
    then = saved(tmp_path)
    assert then["images"] == [image("a"), image("b", {"t": True})]
    assert then["filters"] == {"types": {"t": True}, "attributes": {"x": 1}}
    assert then["history"] == result["history"][:1]
    assert statuses(result) == ["done", "done"]
    assert saved(folder) == result


def test_state_files_are_whole_at_any_time(tmp_path: Path) -> None:
    """A reader reads them over and over while tasks change them."""
    folder, ended, seen = tmp_path / "run", threading.Event(), set[int]()
    counts = [500 * number for number in range(1, 9)]

    def read() -> None:
        while not ended.is_set():
            try:
                seen.add(len(saved(folder)["images"]))
            except FileNotFoundError:
                continue
            except ValueError:
                seen.add(-1)

    tasks = [
        step("converter_non_parallel", [updates(*({"zarr_url": f"{n}"} for n in range(count - 500, count)))])
        for count in counts
    ]
    reader = threading.Thread(target=read)
    reader.start()
    try:
        run(folder, tasks)
    finally:
        ended.set()
        reader.join()
    assert seen <= {0, *counts}
    assert len(seen) > 2
    assert not list(folder.glob("*.tmp*"))


def test_the_first_history_is_whole_as_soon_as_it_is_there(tmp_path: Path) -> None:
    folders, ended, seen = [tmp_path / f"{number}" for number in range(300)], threading.Event(), set[bytes]()

    def read() -> None:
        for folder in folders:
            while not (ended.is_set() or (folder / "history.json").exists()):
                pass
            seen.add((folder / "history.json").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for folder in folders:
            RunFolder(folder).claim()
    finally:
        ended.set()
        reader.join()
    assert seen == {b"[]\n"}


def test_a_folder_with_other_files_is_taken_and_they_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "0_notes").mkdir(parents=True)
    (folder / "0_task").mkdir()
    others = {"workflow.log": b"a server's\n", "job.json": b"{}", "0_notes/0.txt": b"x", "args.json": b""}
    for name, content in others.items():
        (folder / name).write_bytes(content)
    assert statuses(run(folder, [non_parallel()])) == ["done"]
    found = tree(folder)
    assert found["workflow.log"].startswith(others.pop("workflow.log"))
    assert {name: found[name] for name in others} == others


def _an_earlier_run(folder: Path) -> str:
    run(folder, [parallel([OUTPUT])], ["a"])
    return "0_task"


def _one_file(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
        return name

    return make


@pytest.mark.parametrize(
    "make",
    [
        _an_earlier_run,
        *map(_one_file, sorted(STATE)),
        _one_file("3_other/3.args.json"),
        _one_file("3_other/3.log"),
        _one_file("12_other/12_par_0000003.args.json"),
    ],
)
def test_a_folder_with_an_earlier_run_is_refused_and_left_untouched(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    found = make(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        run(tmp_path / "run", [non_parallel()], ["a"])
    assert tree(tmp_path) == before
    assert str(tmp_path / "run") in str(caught.value)
    assert found in str(caught.value)


def test_of_two_runs_that_start_in_one_folder_one_gets_it(tmp_path: Path) -> None:
    async def both() -> list[Any]:
        runs = [process(tmp_path / "run", [non_parallel()], [name]) for name in "ab"]
        return list(await asyncio.gather(*runs, return_exceptions=True))

    results = asyncio.run(both())
    assert [type(result) for result in results if isinstance(result, Exception)] == [RunFolderError]
    assert saved(tmp_path / "run") in results


def test_of_many_that_claim_one_folder_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    threads = 8
    start = threading.Barrier(threads)

    def claim(folder: RunFolder) -> bool:
        start.wait()
        try:
            folder.claim()
        except RunFolderError:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        for number in range(50):
            folder = RunFolder(tmp_path / f"{number}")
            assert sum(pool.map(claim, [folder] * threads)) == 1


def test_a_relative_folder_is_meant_from_where_the_runner_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("run"), [non_parallel([["argv", str(tmp_path / "argv")]])])
    assert json.loads((tmp_path / "argv").read_text())[1] == str(tmp_path / "run" / "0_task" / "0.args.json")


@pytest.mark.parametrize("place", ["run", "run/deeper", "dangling link"])
def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "run").write_text("precious")
    (tmp_path / "dangling link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=str(tmp_path)):
        run(tmp_path / place, [non_parallel()])
    assert (tmp_path / "run").read_text() == "precious"


def test_a_file_in_place_of_a_tasks_folder_fails_the_task(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "1_task").write_text("precious")
    with pytest.raises(JobExecutionError, match="1_task"):
        run(tmp_path / "run", [non_parallel([updates({"zarr_url": "a"})]), non_parallel()])
    assert statuses(saved(tmp_path / "run")) == ["done", "failed"]
    assert saved(tmp_path / "run")["images"] == [image("a")]


DISK_KB = 400


@contextmanager
def _small_disk(folder: Path) -> Iterator[Json]:
    """A folder that holds little; where none can be mounted, limits under which no file can be large."""
    folder.mkdir()
    mount = ["env", "mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        yield {"RLIMIT_FSIZE": DISK_KB << 10}
        return
    try:
        yield {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


FILLS: dict[str, tuple[Json, str]] = {
    "a log": (non_parallel([["fill_log", DISK_KB * 2]]), "TaskExecutionError: "),
    "logs": (parallel([["fill_log", DISK_KB * 2]], type_filters={"t": False}), "TaskExecutionError: "),
    "an output": (non_parallel([["fill_output", "{", 1]]), "TaskExecutionError: "),
    "arguments": (
        non_parallel(args_non_parallel={"x": "x" * (DISK_KB << 10)}),
        "JobExecutionError: Cannot write ",
    ),
}


@pytest.mark.parametrize("what", FILLS)
def test_a_disk_that_fills_up_costs_nothing_of_what_was_saved(tmp_path: Path, what: str) -> None:
    task, error = FILLS[what]
    images = [str(number) for number in range(50)]
    before = non_parallel([updates({"zarr_url": "saved"})], task={"output_types": {"t": True}})
    with _small_disk(tmp_path / "disk") as limits:
        folder = tmp_path / "disk" / "run"
        request = {"folder": str(folder), "tasks": [before, task], "images": images, "limits": limits}
        _, stderr = run_apart(request)
        assert stderr.startswith(error)
        state = saved(folder)
        assert not list(folder.glob("*.tmp"))
    assert state["images"] == [*map(image, images), image("saved", {"t": True})]
    assert state["filters"]["types"] == {"t": True}
    assert statuses(state) in (["done"], ["done", "failed"])


def test_a_folder_that_could_not_be_claimed_for_lack_of_space_is_left_as_it_was(tmp_path: Path) -> None:
    request = {"folder": str(tmp_path / "run"), "tasks": [non_parallel()], "images": []}
    _, stderr = run_apart({**request, "limits": {"RLIMIT_FSIZE": 1}})
    assert stderr.startswith("RunFolderError: Cannot use the run folder")
    assert tree(tmp_path) == {}
    assert statuses(run(tmp_path / "run", [non_parallel()])) == ["done"]


def test_a_disk_too_small_for_the_image_list_is_a_job_error_before_anything_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    images = [f"{number}/{'x' * 100}" for number in range(5_000)]
    with _small_disk(tmp_path / "disk") as limits:
        folder = tmp_path / "disk" / "run"
        tasks = [step("converter_non_parallel", [["touch", str(ran)]])]
        _, stderr = run_apart({"folder": str(folder), "tasks": tasks, "images": images, "limits": limits})
        left = _files(folder)
    assert stderr.startswith("JobExecutionError: Cannot write ")
    assert not ran.exists()
    assert left <= {"workflow.log", "history.json"}
