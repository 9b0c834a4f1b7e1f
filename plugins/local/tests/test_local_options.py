"""What the local backend is given: options, a configuration file, arguments of the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_local import LocalBackend, LocalBackendConfig

from fractal_backends import InvalidInputError, UnsupportedArgumentError, get_backend
from tests.helpers.local_lab import OPTION, VARIABLE, ConfigFile, Lab

# Wrong values

WRONG = [0, -1, "two", True, 1.5, 2.0, [2]]


def _where(lab: Lab, source: str, value: Any, config_file: ConfigFile) -> tuple[dict[str, Any], str]:
    """Puts a value into one of the places it may come from; how `lab.run` is called, and the place's name."""
    touch = lab.command(f"open({str(lab.folder / 'ran')!r}, 'w')")
    task: dict[str, Any] = {"task": {"name": "My task", "type": "parallel", "command_parallel": touch}}
    given = {OPTION: value}
    place = "task 1 ('My task'), meta_parallel"
    options: dict[str, Any] = {}
    if source == "file":
        place = f"the configuration file {config_file(json.dumps(given))}"
    elif source == "options":
        place, options = "the backend's options", given
    elif source == "the task's own meta":
        task["task"]["meta_parallel"] = given
    else:
        task["meta_parallel"] = given
    return {"tasks": [lab.task("pass"), task], "images": 2, "options": options}, place


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("source", ["meta", "the task's own meta", "file", "options"])
def test_a_wrong_value_is_refused_with_the_place_it_came_from(
    lab: Lab, config_file: ConfigFile, source: str, value: Any
) -> None:
    call, place = _where(lab, source, value, config_file)
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(*call.pop("tasks"), folder=folder, **call)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{place}: {OPTION}: ")
    assert problem.endswith(f"(got {value!r})")
    assert not folder.exists()
    assert not (lab.folder / "ran").exists()
    assert lab.watcher.events == []


def test_all_wrong_values_are_told_at_once(lab: Lab, config_file: ConfigFile) -> None:
    path = config_file(json.dumps({"cpus_per_task": 0}))
    first = lab.task("pass", meta_non_parallel={"mem": "much", OPTION: 0})
    second = lab.task("pass", meta_non_parallel={OPTION: "two"})
    with pytest.raises(InvalidInputError) as caught:
        lab.run(first, second, options={"mem": -1})
    places = sorted({problem.partition(": ")[0] for problem in caught.value.problems})
    assert places == sorted(
        [
            f"the configuration file {path}",
            "task 0 ('Solo'), meta_non_parallel",
            "task 1 ('Solo'), meta_non_parallel",
            "the backend's options",
        ]
    )
    assert len(caught.value.problems) == 5


def test_tasks_outside_the_index_range_are_not_asked(lab: Lab) -> None:
    wrong = lab.task("pass", meta_non_parallel={OPTION: 0})
    lab.run(wrong, lab.task("pass"), wrong, first_task_index=1, last_task_index=1)
    assert len(lab.watcher.reports) == 1


@pytest.mark.parametrize("source", ["file", "options"])
def test_an_unknown_key_is_refused_with_the_valid_ones(
    lab: Lab, config_file: ConfigFile, source: str
) -> None:
    given = {"parallel_task_per_job": 2}
    options = given if source == "options" else {}
    place = "the backend's options"
    if source == "file":
        place = f"the configuration file {config_file(json.dumps(given))}"
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"), folder=folder, options=options)
    message = str(caught.value)
    assert f"{place}: parallel_task_per_job: unknown" in message
    for name in LocalBackendConfig.model_fields:
        assert name in message
    assert f"did you mean {OPTION}?" in message
    assert not folder.exists()


def test_unknown_keys_in_meta_are_somebody_elses(lab: Lab) -> None:
    meta = {"parallel_task_per_job": "?", "gres": "gpu:1", "cpus_per_task": 1, "time": {"h": 2}}
    lab.run(lab.task("pass", meta_non_parallel=meta))
    assert lab.watcher.reports[0].status == "done"


BAD_FILES = {
    "no JSON": "{parallel_tasks_per_job: 2}",
    "a list": '[{"parallel_tasks_per_job": 2}]',
    "a number": "3",
    "null": "null",
    "empty": "",
    "not UTF-8": "\udcff\udcfe",
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_configuration_file_must_hold_a_json_object(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(os.fsencode(text))
    monkeypatch.setenv(VARIABLE, str(path))
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"), folder=folder)
    assert str(path) in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_configuration_file_must_be_readable(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / kind if kind == "missing" else tmp_path
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"))
    assert str(path) in str(caught.value)


# Memory

MEMORY = {4000: 4000, "4000": 4000, "4G": 4096, "4g": 4096, "4GB": 4096, " 9M ": 9, "2T": 2 << 20, "1K": 1}


@pytest.mark.parametrize(("given", "expected"), MEMORY.items(), ids=repr)
def test_memory_may_have_a_unit(given: Any, expected: int) -> None:
    assert LocalBackendConfig(mem=given).mem == expected


@pytest.mark.parametrize("given", ["4X", "much", "", "-4G", "4 000", 0, "0G", 1.5, True], ids=repr)
def test_no_other_memory_is_taken(lab: Lab, given: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"task 0 \('Solo'\), meta_non_parallel: mem: "):
        lab.run(lab.task("pass", meta_non_parallel={"mem": given}))


def test_memory_with_a_unit_in_meta(lab: Lab) -> None:
    lab.run(lab.task("pass", meta_non_parallel={"mem": "1G"}))
    assert lab.watcher.reports[0].status == "done"


# Arguments of the run


@pytest.mark.parametrize("given", [True, False])
def test_the_remote_folder_may_be_the_local_one(lab: Lab, given: bool) -> None:
    folder = lab.new_folder()
    lab.run(lab.task("pass"), folder=folder, workflow_dir_remote=folder if given else None)
    assert lab.watcher.reports[0].status == "done"


def test_another_remote_folder_is_refused(lab: Lab) -> None:
    folder, remote = lab.new_folder(), lab.folder / "remote"
    refusal = "^Local backend does not support different directories"
    with pytest.raises(NotImplementedError, match=refusal) as caught:
        lab.run(lab.task("pass"), folder=folder, workflow_dir_remote=remote)
    assert isinstance(caught.value, UnsupportedArgumentError)
    assert str(folder) in str(caught.value)
    assert str(remote) in str(caught.value)
    assert not folder.exists()
    assert not remote.exists()


@pytest.mark.parametrize("argument", ["slurm_user", "slurm_account", "worker_init"])
def test_arguments_of_other_backends_are_ignored(lab: Lab, argument: str) -> None:
    arguments: dict[str, Any] = {argument: "exit 1"}
    lab.run(lab.task("pass"), **arguments)
    assert lab.watcher.reports[0].status == "done"


def test_the_plugin_is_found_by_name(lab: Lab) -> None:
    backend = get_backend("local", options={OPTION: 2}, observers=[lab.watcher])
    assert type(backend) is LocalBackend
    assert backend.options == {OPTION: 2}
