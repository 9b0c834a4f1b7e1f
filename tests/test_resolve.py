"""Resolving exported workflows in real environments."""

from __future__ import annotations

import copy
import json
import venv
from pathlib import Path
from typing import Any

import pytest

from fractal_backends.cli.environments import ArgumentSchemas
from fractal_backends.cli.resolve import resolve_workflow
from fractal_backends.errors import InvalidInputError
from fractal_backends.models import TaskType, Workflow, load

SCHEMA = {"type": "object"}
SMOOTH = {
    "name": "Smooth Image",
    "executable_parallel": "program.py",
    "input_types": {"is_3D": True},
    "output_types": {"smooth": True},
    "meta_parallel": {"mem": 1, "cpus": 2},
    "args_schema_parallel": SCHEMA,
}
CONVERT = {"name": "Convert", "type": "converter_non_parallel", "executable_non_parallel": "program.py"}


def environment(folder: Path, *packages: tuple[str, str, Any]) -> str:
    """A venv that holds these packages: name, version, and tasks or else the text of the manifest."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name, version, tasks in packages:
        package = site / f"{name.replace('-', '_')}_{version.replace('.', '_')}"
        package.mkdir()
        (package / "program.py").write_text("")
        whole = {"manifest_version": "2", "args_schema_version": "pydantic_v2", "task_list": tasks}
        text = tasks if isinstance(tasks, str) else json.dumps(whole)
        (package / "__FRACTAL_MANIFEST__.json").write_text(text)
        info = site / f"{package.name}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{package.name}/__FRACTAL_MANIFEST__.json,,\n")
    return str(folder)


def exported(*tasks: tuple[str, str | None, str], **more: Any) -> dict[str, Any]:
    """A workflow file as Fractal writes it."""
    return {
        "name": "workflow",
        "description": None,
        "task_list": [
            {
                "meta_non_parallel": None,
                "meta_parallel": None,
                "args_non_parallel": None,
                "args_parallel": None,
                "type_filters": {},
                "description": None,
                "alias": None,
                "task": {"pkg_name": pkg_name, "version": version, "name": name},
                **more,
            }
            for pkg_name, version, name in tasks
        ],
    }


def resolved(document: Any, *environments: str) -> Workflow:
    return load(Workflow, resolve_workflow(document, environments, "workflow.json").document)


def problems(document: Any, *environments: str) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        resolve_workflow(document, environments, "workflow.json")
    assert caught.value.what.startswith("workflow.json: ")
    assert "--task-env ENV" in caught.value.what
    return caught.value.problems


def test_an_exported_workflow_gets_what_the_manifests_say(tmp_path: Path) -> None:
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [CONVERT, SMOOTH]))
    document = exported(("fractal-a", "1.0", "Convert"), ("fractal-a", "1.0", "Smooth Image"))
    document["task_list"][1].update(meta_parallel={"mem": 5}, args_parallel={"sigma": 2}, alias="again")
    before = copy.deepcopy(document)

    result = resolve_workflow(document, [env], "workflow.json")

    assert document == before
    assert result.schemas == [ArgumentSchemas("pydantic_v2"), ArgumentSchemas("pydantic_v2", None, SCHEMA)]
    convert, smooth = load(Workflow, result.document).task_list
    assert convert.task.type is TaskType.CONVERTER_NON_PARALLEL
    assert smooth.task.type is TaskType.PARALLEL
    assert (smooth.task.input_types, smooth.task.output_types) == ({"is_3D": True}, {"smooth": True})
    assert smooth.part_meta(parallel=True) == {"mem": 5, "cpus": 2}
    assert (smooth.args_parallel, smooth.alias) == ({"sigma": 2}, "again")
    assert (smooth.task.pkg_name, smooth.task.version) == ("fractal-a", "1.0")
    assert (smooth.task.command_parallel or "").startswith(f"{env}/bin/python ")
    assert smooth.task.command_non_parallel is None


def test_older_filters_pass_through(tmp_path: Path) -> None:
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [SMOOTH]))
    filters = {"types": {"is_3D": True}, "attributes": {"well": "A1"}}
    document = exported(("fractal-a", "1.0", "Smooth Image"), input_filters=filters)
    del document["task_list"][0]["type_filters"]
    (task,) = resolved(document, env).task_list
    assert task.input_filters is not None and task.input_filters.model_dump() == filters


def test_the_workflow_has_the_last_word_on_a_task(tmp_path: Path) -> None:
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [SMOOTH]))
    document = exported(("fractal-a", "1.0", "Smooth Image"))
    document["task_list"][0]["task"].update(id=7, output_types={"done": True}, meta_parallel=None, type=None)
    (task,) = resolved(document, env).task_list
    assert (task.task.id, task.task.output_types) == (7, {"done": True})
    assert task.part_meta(parallel=True) == {"mem": 1, "cpus": 2}


@pytest.mark.parametrize("name", ["fractal-tasks-a", "Fractal_Tasks.A", "fractal--tasks__a"])
def test_package_names_compare_normalised(tmp_path: Path, name: str) -> None:
    env = environment(tmp_path / "env", ("fractal_tasks-A", "1.0", [SMOOTH]))
    (task,) = resolved(exported((name, "1.0", "Smooth Image")), env).task_list
    assert task.task.pkg_name == "fractal_tasks-A"


def test_no_version_means_the_newest(tmp_path: Path) -> None:
    order = ["1.9.0", "1.10.0", "2.0.0.dev3", "2.0.0a2", "2.0.0rc1", "2.0.0", "2.0.0.post1", "1!1.0"]
    envs = [environment(tmp_path / each, ("fractal-a", each, [SMOOTH])) for each in order]
    document = exported(("fractal-a", None, "Smooth Image"))
    for newer in range(1, len(order)):
        pair = envs[newer - 1 : newer + 1]
        for given in (pair, pair[::-1]):
            (task,) = resolved(document, *given).task_list
            assert task.task.version == order[newer]


def test_the_first_environment_that_has_the_task_wins(tmp_path: Path) -> None:
    one = environment(tmp_path / "one", ("fractal-a", "1.0", [CONVERT]), ("fractal-b", "2", [SMOOTH]))
    two = environment(tmp_path / "two", ("fractal-a", "1.0", [CONVERT, SMOOTH]))
    for version in ("1.0", None):
        document = exported(("fractal-a", version, "Convert"), ("fractal-a", version, "Smooth Image"))
        convert, smooth = resolved(document, one, two).task_list
        assert (convert.task.command_non_parallel or "").startswith(f"{one}/bin/python ")
        assert (smooth.task.command_parallel or "").startswith(f"{two}/bin/python ")


OWN = {"task": {"name": "mine", "command_parallel": "mine --fast", "pkg_name": "p", "version": "1"}}


def test_the_own_form_is_left_alone_and_no_environment_is_looked_into() -> None:
    document = {"task_list": [OWN]}
    result = resolve_workflow(document, ["/there/is/no/such/environment"], "workflow.json")
    assert (result.document, result.schemas) == (document, [None])


def test_a_file_may_mix_both_forms(tmp_path: Path) -> None:
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [SMOOTH]))
    document = exported(("fractal-a", "1.0", "Smooth Image"))
    document["task_list"].insert(0, OWN)
    result = resolve_workflow(document, [env], "workflow.json")
    assert result.document["task_list"][0] == OWN
    assert result.schemas == [None, ArgumentSchemas("pydantic_v2", None, SCHEMA)]
    assert load(Workflow, result.document).task_list[1].task.type is TaskType.PARALLEL


def test_an_environment_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    document = exported(("fractal-a", "1.0", "Smooth Image"))
    with pytest.raises(InvalidInputError, match="no such folder or interpreter"):
        resolve_workflow(document, [str(tmp_path / "nowhere")], "workflow.json")


def test_all_unresolved_tasks_are_told_of_with_the_nearest_there_is(tmp_path: Path) -> None:
    one = environment(tmp_path / "one", ("fractal-a", "1.0", [CONVERT, SMOOTH]), ("other", "3", [CONVERT]))
    two = environment(tmp_path / "two", ("fractal-a", "1.1", [SMOOTH]), ("fractal-bad", "1", "{"))
    document = exported(
        ("fractal-a", "1.0", "SMOOTH IMAGES"),
        ("fractal-a", "1.0", "Convert"),
        ("fractal-a", "0.9", "Smooth Image"),
        ("fractal-a", "0.9", "Smoth Image"),
        ("fractal_aa", None, "Convert"),
        ("zzz", "1.0", "Convert"),
        ("fractal-a", "1.1", "Xyz"),
        ("fractal-bad", "1", "Convert"),
    )
    lines = problems(document, one, two)
    expected: list[tuple[int, list[str]]] = [
        (0, ["'SMOOTH IMAGES' of fractal-a 1.0", "the nearest task is 'Smooth Image'"]),
        (2, ["fractal-a 0.9", f"1.0 (in {one}/bin/python)", f"1.1 (in {two}/bin/python)"]),
        (3, ["versions that are there", "without such a task, the nearest task is 'Smooth Image'"]),
        (4, ["fractal_aa in any version", "the nearest package with Fractal tasks is 'fractal-a'"]),
        (5, ["the package is not there", "what is there: 'fractal-a', 'other'"]),
        (6, ["it has no such task", "what is there: 'Smooth Image'"]),
        (7, ["the package is there, but no good", "__FRACTAL_MANIFEST__.json is not JSON"]),
    ]
    for line, (index, parts) in zip(lines, expected, strict=True):
        assert line.startswith(f"task_list[{index}]: looked for task ")
        assert f"{one}/bin/python, {two}/bin/python" in line
        for part in parts:
            assert part in line
    assert "without" not in lines[1]


def test_a_broken_task_is_given_as_the_reason(tmp_path: Path) -> None:
    gone = {**SMOOTH, "name": "Gone", "executable_parallel": "gone.py"}
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [SMOOTH, gone]))
    (line,) = problems(exported(("fractal-a", "1.0", "Gone")), env)
    assert "gone.py is not there" in line


def test_an_environment_without_any_fractal_package(tmp_path: Path) -> None:
    (line,) = problems(exported(("fractal-a", "1.0", "Gone")), environment(tmp_path / "env"))
    assert "the package is not there, nor any other package with Fractal tasks" in line


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {"task_list": 3},
        {"task_list": [1, None, {}, {"task": None}, {"task": "Smooth"}]},
        {"task_list": [{"task": {"pkg_name": "a"}}, {"task": {"pkg_name": ["a"], "version": 1, "name": {}}}]},
        {"task_list": [{"task": {"pkg_name": "a", "version": 1.0, "name": "b"}}]},
    ],
)
def test_wrong_shapes_are_left_to_the_models_validation(document: Any) -> None:
    result = resolve_workflow(document, ["/there/is/no/such/environment"], "workflow.json")
    assert result.document == document
    assert not any(result.schemas)
    with pytest.raises(InvalidInputError):
        load(Workflow, result.document)


def test_unknown_keys_are_left_for_the_models_validation(tmp_path: Path) -> None:
    env = environment(tmp_path / "env", ("fractal-a", "1.0", [SMOOTH]))
    document = exported(("fractal-a", "1.0", "Smooth Image"), arg_parallel={})
    document["task_list"][0]["task"]["sorce"] = "x"
    result = resolve_workflow({**document, "nam": 1}, [env], "workflow.json")
    with pytest.raises(InvalidInputError) as caught:
        load(Workflow, result.document)
    for key in ("nam", "task_list[0].arg_parallel", "task_list[0].task.sorce"):
        assert f"\n  {key}: unknown key" in str(caught.value)
