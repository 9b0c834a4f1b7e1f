"""Wrong input to `run`: an error in clear words, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli_helpers import cli, install_tasks, named, snapshot, words, write_json
from tests.helpers.workflows import Json, dataset, image, non_parallel, parallel

ITEM = named("Measure", parallel([]))
"""A workflow task with which nothing is wrong."""


def exported(name: str, pkg_name: str = "fractal-cells", version: str | None = "1.0") -> Json:
    return {"task": {"pkg_name": pkg_name, "version": version, "name": name}}


WORKFLOWS: dict[str, Any] = {
    "bad-commands": {
        "task_list": [
            parallel(),
            named("Measure", non_parallel(task={"command_non_parallel": "sh measure.sh > list; rm x"})),
            named("Report", non_parallel(task={"command_non_parallel": "sh 'report.sh"})),
        ]
    },
    "good": {"task_list": [named("Make", non_parallel()), ITEM]},
    "unknown-keys": {"taks_list": [], "task_list": [{**ITEM, "args": {}}]},
    "no-tasks": {"task_list": []},
    "no-command": {"task_list": [ITEM, {"task": {"name": "Measure", "type": "parallel"}}]},
    "both-filters": {"task_list": [{**ITEM, "type_filters": {}, "input_filters": {}}]},
    "several": {
        "task_list": [
            {**ITEM, "task": {**ITEM["task"], "type": "sequential"}},
            {**ITEM, "type_filters": {"is_3D": "yes"}},
            "task",
        ],
        "nmae": "x",
    },
    "meta": {"task_list": [{**ITEM, "meta_parallel": {"parallel_tasks_per_job": 0, "mem": "lots"}}]},
    "unresolved": {
        "task_list": [
            exported("Treshold"),
            exported("Threshold", version="0.9"),
            exported("Threshold", "fractal-cell"),
            exported("Threshold"),
        ]
    },
}
DATASETS: dict[str, Any] = {
    "good": dataset(["a", "b"]),
    "repeats": dataset([image("/data/zarr/a", well="A"), image("b"), image("//data/zarr//a/", well="B")]),
    "relative": {"zarr_dir": "images/zarr"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that the commands below speak of."""
    folder = tmp_path_factory.mktemp("place")
    for name, workflow in WORKFLOWS.items():
        write_json(folder / f"w-{name}.json", workflow)
    for name, value in DATASETS.items():
        write_json(folder / f"d-{name}.json", value)
    (folder / "w-cut.json").write_text('{"task_list": [\n  {"task": ')
    (folder / "w-deep.json").write_text("[" * 100_000)
    (folder / "w-digits.json").write_text('{"id": ' + "9" * 5_000 + "}")
    (folder / "w-latin1.json").write_bytes('{"name": "Zähler", "task_list": []}'.encode("latin-1"))
    (folder / "folder").mkdir()
    write_json(folder / "earlier" / "history.json", [])
    write_json(folder / "killed" / "0_make" / "0.args.json", {})
    tasks = [{"name": name, "executable_parallel": "task.py"} for name in ("Threshold", "Label")]
    install_tasks(folder / "site", "fractal-cells", "1.0", tasks)
    return folder


def check_error(place: Path, args: list[str], reasons: list[str], config: str | Path = "") -> None:
    before = snapshot(place)
    result = cli("run", *args, cwd=place, PYTHONPATH=place / "site", FRACTAL_LOCAL_CONFIG_FILE=config)
    assert (result.code, result.out) == (2, ""), result
    assert "Traceback" not in result.err
    text = words(result.err)
    assert [reason for reason in reasons if reason not in text] == [], result.err
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("w-absent.json", ["Cannot read w-absent.json: No such file or directory"]),
        ("folder", ["Cannot read folder: Is a directory"]),
        ("w-cut.json", ["w-cut.json is not JSON: line 2, column 12"]),
        ("w-deep.json", ["w-deep.json is nested too deeply"]),
        ("w-digits.json", ["w-digits.json"]),
        ("w-latin1.json", ["w-latin1.json is not a text file in UTF-8", "position 11"]),
        (
            "w-unknown-keys.json",
            [
                "taks_list: unknown key; the keys here are task_list, name, ",
                "task_list[0].args: unknown key; the keys here are task, args_non_parallel, args_parallel, ",
            ],
        ),
        ("w-no-tasks.json", ["the workflow has no tasks"]),
        ("w-no-command.json", ["task_list[1].task: a parallel task needs a command_parallel"]),
        (
            "w-bad-commands.json",
            [
                "task_list[1] 'Measure': Invalid command. Original error: Command must not contain any of",
                "sh measure.sh > list; rm x",
                "task_list[2] 'Report': Invalid command. Original error: No closing quotation",
            ],
        ),
        ("w-both-filters.json", ["task_list[0]: type_filters and input_filters: give one of them"]),
        (
            "w-several.json",
            [
                "task_list[0].task.type: Input should be 'non_parallel', 'parallel', ",
                "(got 'sequential')",
                "task_list[1].type_filters.is_3D: must be true or false",
                "task_list[2]: ",
                "nmae: unknown key",
            ],
        ),
    ],
)
def test_a_workflow_that_is_no_good(place: Path, name: str, reasons: list[str]) -> None:
    check_error(place, [name], reasons)


def test_tasks_that_cannot_be_found(place: Path) -> None:
    """Each is told of: what was looked for, where, and what is nearest."""
    reasons = [
        "w-unresolved.json: tasks that are in none of the Python environments",
        "`--task-env ENV` names another one",
        "task_list[0]: looked for task 'Treshold' of fractal-cells 1.0 in /",
        "it has no such task, the nearest task is 'Threshold'",
        "task_list[1]: looked for task 'Threshold' of fractal-cells 0.9 in /",
        "versions that are there: 1.0",
        "task_list[2]: looked for task 'Threshold' of fractal-cell 1.0 in /",
        "the package is not there, the nearest package with Fractal tasks is 'fractal-cells'",
    ]
    check_error(place, ["w-unresolved.json"], reasons)


def test_an_environment_that_is_none(place: Path) -> None:
    given = ["w-unresolved.json", "--task-env", "venv", "--task-env", "folder"]
    reasons = ["venv: no such folder or interpreter", "folder: no interpreter that can be run"]
    check_error(place, given, reasons)


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        ("--dataset d-absent.json", ["Cannot read d-absent.json: No such file or directory"]),
        (
            "--dataset d-repeats.json",
            [
                "The dataset in d-repeats.json is not valid",
                "images[0] and images[2] are the same image, '/data/zarr/a'",
                "{'well': 'A'}",
                "{'well': 'B'}",
            ],
        ),
        ("--dataset d-relative.json", ["zarr_dir: URLs must begin with '/' or 's3://'. Got: 'images/zarr'"]),
        ("--dataset d-good.json --zarr-dir zarr", ["--dataset and --zarr-dir: give one of them"]),
        ("--zarr-dir s3://", ["zarr_dir: URL 's3://' names no bucket"]),
    ],
)
def test_a_dataset_that_is_no_good(place: Path, given: str, reasons: list[str]) -> None:
    check_error(place, ["w-good.json", *given.split()], reasons)


@pytest.mark.parametrize(
    ("folder", "reasons"),
    [
        ("earlier", ["holds an earlier run (found history.json)", "Give another folder"]),
        ("killed", ["holds an earlier run (found 0_make/0.args.json)", "Give another folder"]),
        ("w-good.json", ["w-good.json is not a folder"]),
        ("w-good.json/run", ["Cannot use the run folder", "w-good.json/run: Not a directory"]),
    ],
)
def test_a_run_folder_that_cannot_be_used(place: Path, folder: str, reasons: list[str]) -> None:
    check_error(place, ["w-good.json", "--run-dir", folder], reasons)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("locl", ["There is no backend 'locl'. Installed: ", "Did you mean 'local'?"]),
        ("parsl", ["There is no backend 'parsl'. Installed: ", "local"]),
    ],
)
def test_a_backend_that_is_not_there(place: Path, name: str, reasons: list[str]) -> None:
    check_error(place, ["w-good.json", "--backend", name], reasons)


NAME = "parallel_tasks_per_job"


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (
            "parallel_task_per_job=2",
            [f"unknown option; did you mean {NAME}? The valid ones are "],
        ),
        (NAME, [f"--option '{NAME}' must have the form KEY=VALUE"]),
        (f"{NAME}=0", [f"{NAME}: Input should be greater than 0 (got 0)"]),
        (f"{NAME}=-1", [f"{NAME}: Input should be greater than 0 (got -1)"]),
        (f"{NAME}=two", [f"{NAME}: Input should be a valid integer (got 'two')"]),
        (f"{NAME}=1.5", [f"{NAME}: Input should be a valid integer", "(got 1.5)"]),
        (f"{NAME}=true", [f"{NAME}: Input should be a valid integer (got True)"]),
    ],
)
def test_an_option_that_is_no_good(place: Path, given: str, reasons: list[str]) -> None:
    check_error(place, ["w-good.json", "--option", given], reasons)


def test_several_options_that_are_no_good_are_shown_together(place: Path) -> None:
    """With the place where each comes from: the task, the configuration file, the command line."""
    config = write_json(place / "config.json", {"cores": 3})
    reasons = [
        f"task 0 ('Measure'), meta_parallel: {NAME}: Input should be greater than 0 (got 0)",
        "task 0 ('Measure'), meta_parallel: mem: must be a whole number of MB, or text with a unit such as ",
        f"the configuration file {config}: cores: unknown option; the valid ones are {NAME}, cpus_per_task, ",
        "--option: cpus_per_task: Input should be greater than 0 (got 0)",
    ]
    check_error(place, ["w-meta.json", "--option", "cpus_per_task=0"], reasons, config)


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (["0"], ["--set '0' must have the form PATH=VALUE"]),
        (
            ["7.x=1", "Measure.x=1", "0=1", "1.task.name.x=1"],
            [
                "--set 7.x=1: 7: there is a list with the indices 0 to 1 here, not '7'",
                "--set Measure.x=1: Measure: there is a list with the indices 0 to 1 here, not 'Measure'",
                "--set 0=1: the path must go on behind the task's index",
                '--set 1.task.name.x=1: 1.task.name is "Measure", nothing can be set inside it',
            ],
        ),
        (["1.args_paralel.x=1"], ["task_list[1].args_paralel: unknown key; the keys here are"]),
    ],
)
def test_a_change_that_does_not_fit(place: Path, given: list[str], reasons: list[str]) -> None:
    check_error(place, ["w-good.json", *(f"--set={change}" for change in given)], reasons)


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        ("--first-task=-1", ["first_task_index=-1 cannot be negative"]),
        ("--last-task=2", ["last_task_index=2 cannot be larger than (num_tasks-1)=1"]),
        ("--first-task 1 --last-task 0", ["first_task_index=1 cannot be larger than last_task_index=0"]),
        ("--first-task one", ["Invalid value for '--first-task'"]),
    ],
)
def test_arguments_that_are_no_good(place: Path, given: str, reasons: list[str]) -> None:
    check_error(place, ["w-good.json", *given.split()], reasons)
