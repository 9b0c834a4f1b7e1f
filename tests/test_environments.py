"""Finding Fractal tasks, in real environments with real distributions on disk."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from fractal_backends.cli import _probe_environment
from fractal_backends.cli.environments import Environment, FoundTask, find_tasks
from fractal_backends.errors import InvalidInputError
from fractal_backends.models import TaskType

MANIFEST = "__FRACTAL_MANIFEST__.json"
SCHEMA = {"type": "object", "properties": {"zarr_url": {"type": "string"}}}
SMOOTH = {"name": "Smooth", "executable_parallel": "smooth.py"}


def make_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=False, symlinks=True)
    return folder


def site_packages(environment: Path) -> Path:
    return next((environment / "lib").glob("python*/site-packages"))


def manifest(*tasks: Any, **more: Any) -> str:
    return json.dumps({"manifest_version": "2", "task_list": tasks, **more})


def write_package(folder: Path, text: str) -> Path:
    """A package that must not be imported, with the programs that its manifest names."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / MANIFEST).write_text(text)
    for program in ("init.py", "smooth.py", "convert.py"):
        (folder / program).write_text("")
    return folder


def write_metadata(site: Path, name: str, version: str, *files: str, **more: str) -> Path:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, text in more.items():
        (folder / file.replace("__", ".")).write_text(text)
    return folder


def install(site: Path, name: str, version: str, text: str) -> Path:
    package = name.replace("-", "_")
    write_metadata(site, name, version, f"{package}/__init__.py", f"{package}/{MANIFEST}")
    return write_package(site / package, text)


def inspect(environment: Path | str) -> Environment:
    (found,) = find_tasks([str(environment)])
    return found


def names(environment: Environment) -> list[tuple[str, str | None, str]]:
    return [(task.pkg_name, task.version, task.task.name) for task in environment.tasks]


def only(environment: Environment) -> FoundTask:
    (task,) = environment.tasks
    return task


def test_everything_a_manifest_says_is_found(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "my env")
    convert = {
        "name": "Convert",
        "type": "converter_compound",
        "executable_non_parallel": "convert.py",
        "executable_parallel": "smooth.py",
        "input_types": {"is_3D": True},
        "output_types": {"is_3D": False},
        "meta_non_parallel": {"mem": 1},
        "meta_parallel": {"mem": 2},
        "args_schema_non_parallel": {**SCHEMA, "title": "init"},
        "args_schema_parallel": SCHEMA,
        "tags": ["a key that is not known"],
    }
    text = manifest(convert, args_schema_version="pydantic_v2", authors="somebody")
    package = install(site_packages(environment), "fractal-convert", "1.2", text)

    found = inspect(environment)

    task = only(found)
    assert (found.name, found.problems) == (str(environment), [])
    assert (task.pkg_name, task.version, task.interpreter) == ("fractal-convert", "1.2", found.interpreter)
    assert task.task.type is TaskType.CONVERTER_COMPOUND
    assert (task.task.input_types, task.task.output_types) == ({"is_3D": True}, {"is_3D": False})
    assert (task.task.meta_non_parallel, task.task.meta_parallel) == ({"mem": 1}, {"mem": 2})
    assert task.schemas.version == "pydantic_v2"
    assert task.schemas.non_parallel == {**SCHEMA, "title": "init"}
    assert task.schemas.parallel == SCHEMA
    interpreter = str(environment / "bin" / "python")
    assert shlex.split(task.task.command_non_parallel or "") == [interpreter, str(package / "convert.py")]
    assert shlex.split(task.task.command_parallel or "") == [interpreter, str(package / "smooth.py")]


@pytest.mark.parametrize(
    ("executables", "expected"),
    [
        (["non_parallel"], TaskType.NON_PARALLEL),
        (["parallel"], TaskType.PARALLEL),
        (["non_parallel", "parallel"], TaskType.COMPOUND),
    ],
)
def test_a_type_that_is_not_given_follows_from_the_executables(
    tmp_path: Path, executables: list[str], expected: TaskType
) -> None:
    environment = make_environment(tmp_path / "env")
    task = {"name": "Smooth", **{f"executable_{part}": "smooth.py" for part in executables}}
    install(site_packages(environment), "fractal-a", "1", manifest(task))
    assert only(inspect(environment)).task.type is expected


def test_an_environment_is_a_folder_or_an_interpreter_whose_link_is_kept(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    install(site_packages(environment), "fractal-a", "1", manifest(SMOOTH))
    interpreter = environment / "bin" / "python3"
    assert interpreter.is_symlink()
    found = inspect(interpreter)
    assert found.interpreter == str(interpreter)
    assert names(found) == names(inspect(environment)) == [("fractal-a", "1", "Smooth")]


def test_the_default_is_the_running_interpreter(tmp_path: Path) -> None:
    (found,) = find_tasks([])
    assert found.interpreter == sys.executable

    environment = make_environment(tmp_path / "env")
    install(site_packages(environment), "fractal-a", "1", manifest(SMOOTH))
    code = (
        f"import sys; sys.path += {[path for path in sys.path if path]!r}\n"
        "from fractal_backends.cli.environments import find_tasks\n"
        "print(find_tasks()[0].tasks[0].task.name)"
    )
    interpreter = environment / "bin" / "python"
    assert subprocess.check_output([interpreter, "-c", code], text=True, cwd=tmp_path) == "Smooth\n"


def test_an_environment_given_twice_is_looked_into_once(tmp_path: Path) -> None:
    environment = str(make_environment(tmp_path / "env"))
    assert [each.name for each in find_tasks([environment, environment])] == [environment]


def test_editable_install_through_a_path_file(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    site = site_packages(environment)
    package = write_package(tmp_path / "project" / "src" / "other_name", manifest(SMOOTH))
    (site / "_fractal_a.pth").write_text(f"\nimport os\n{package.parent}\n")
    write_metadata(site, "fractal-a", "1", "_fractal_a.pth")
    write_metadata(site, "bystander", "1", "bystander.py")
    write_package(site / "nobodys", manifest(SMOOTH))
    task = only(inspect(environment))
    assert task.pkg_name == "fractal-a"
    assert str(package / "smooth.py") in (task.task.command_parallel or "")


def test_packages_side_by_side_in_one_source_folder_keep_their_manifests(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    site = site_packages(environment)
    for letter in "dbac":
        task = {**SMOOTH, "name": letter}
        write_package(tmp_path / "src" / f"fractal_{letter}", manifest(task))
        (site / f"_{letter}.pth").write_text(f"{tmp_path / 'src'}\n")
        write_metadata(site, f"fractal-{letter}", "1", f"_{letter}.pth")
    found = inspect(environment)
    assert names(found) == [(f"fractal-{letter}", "1", letter) for letter in "abcd"]


FINDER = """
import sys
from importlib.machinery import PathFinder

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, [{folder!r}]) if name == {name!r} else None

sys.meta_path.append(Finder)
"""


def test_editable_install_through_an_import_hook(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    site = site_packages(environment)
    package = write_package(tmp_path / "deep" / "in" / "source" / "other_name", manifest(SMOOTH))
    (site / "_hook.py").write_text(FINDER.format(folder=str(package.parent), name=package.name))
    (site / "_hook.pth").write_text("import _hook\n")
    write_metadata(site, "fractal-a", "1", "_hook.pth", "_hook.py", top_level__txt="other_name\n")
    assert names(inspect(environment)) == [("fractal-a", "1", "Smooth")]


def test_editable_install_that_names_only_its_project(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    write_package(tmp_path / "my project" / "src" / "other_name", manifest(SMOOTH))
    url = json.dumps({"url": (tmp_path / "my project").as_uri(), "dir_info": {"editable": True}})
    write_metadata(site_packages(environment), "fractal-a", "1", direct_url__json=url)
    assert names(inspect(environment)) == [("fractal-a", "1", "Smooth")]


def test_of_two_installations_of_a_package_the_importable_one_counts(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    site = site_packages(environment)
    install(tmp_path / "second", "fractal-a", "2", manifest(SMOOTH))
    (site / "second.pth").write_text(f"{tmp_path / 'second'}\n")
    install(site, "Fractal_A", "1", manifest(SMOOTH))
    assert names(inspect(environment)) == [("Fractal_A", "1", "Smooth")]


def test_what_is_broken_or_noisy_in_an_environment_harms_nobody_else(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    site = site_packages(environment)
    for number, (file, content) in enumerate(
        [
            ("METADATA", None),
            ("METADATA", b"\xff\xfe"),
            ("RECORD", b"\xff,,\n"),
            ("RECORD", b'"'),
            ("direct_url.json", b"{"),
        ]
    ):
        broken = write_metadata(site, f"a-broken-{number}", "1")
        (broken / file).unlink(missing_ok=True)
        if content is not None:
            (broken / file).write_bytes(content)
    (site / "empty-1.dist-info").mkdir()
    (site / "file-1.dist-info").write_text("")
    install(site, "fractal-a", "1", manifest(SMOOTH))
    leftover = write_metadata(site, "fractal-gone", "1", f"fractal_gone/{MANIFEST}")
    leftover.rename(site / "~ractal_gone-1.dist-info")
    write_package(site / "fractal_gone", manifest(SMOOTH))
    (site / "sitecustomize.py").write_text(
        "import atexit, io, os, sys\nprint('noise before')\nos.write(1, b'no new line at the end')\n"
        "atexit.register(os.write, 1, b'[noise after]')\nsys.stdout = io.StringIO()\n"
    )
    assert names(inspect(environment)) == [("fractal-a", "1", "Smooth")]


def test_modules_in_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = make_environment(tmp_path / "env")
    install(site_packages(environment), "fractal-a", "1", manifest(SMOOTH))
    odd = tmp_path / "odd"
    odd.mkdir()
    for module in ("json", "re", "email", "csv", "urllib"):
        (odd / f"{module}.py").write_text("raise RuntimeError('imported')\n")
    write_metadata(odd, "fractal-odd", "1", f"fractal_odd/{MANIFEST}")
    write_package(odd / "fractal_odd", manifest(SMOOTH))
    monkeypatch.chdir(odd)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    assert names(inspect("../env")) == [("fractal-a", "1", "Smooth")]


def test_the_probe_reads_on_python_3_8() -> None:
    source = Path(_probe_environment.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 8))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "is no manifest"),
        ("{}", "task_list: is missing"),
        (manifest(SMOOTH, manifest_version="1"), "manifest_version '1'"),
        (manifest("Smooth"), "task_list[0]"),
        (manifest({"name": "Smooth"}), "needs a command_non_parallel"),
        (manifest({**SMOOTH, "type": "serial"}), "type: Input should be 'non_parallel'"),
        (manifest({**SMOOTH, "input_types": {"is_3D": "yes"}}), "input_types.is_3D"),
        (manifest({**SMOOTH, "executable_parallel": "gone.py"}), "gone.py is not there"),
    ],
)
def test_a_bad_manifest_is_a_problem_next_to_the_other_packages_tasks(
    tmp_path: Path, text: str, expected: str
) -> None:
    environment = make_environment(tmp_path / "env")
    install(site_packages(environment), "fractal-bad", "1", text)
    install(site_packages(environment), "fractal-good", "1", manifest(SMOOTH))
    found = inspect(environment)
    assert names(found) == [("fractal-good", "1", "Smooth")]
    (problem,) = found.problems
    assert problem.pkg_name == "fractal-bad"
    assert expected in problem.text and MANIFEST in problem.text
    assert "\n" not in problem.text


def test_a_bad_task_leaves_its_neighbours(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    text = manifest({"name": 3}, SMOOTH, {**SMOOTH, "name": "Other", "type": "compound"})
    install(site_packages(environment), "fractal-a", "1", text)
    found = inspect(environment)
    assert names(found) == [("fractal-a", "1", "Smooth")]
    assert [problem.text.split(": ")[1] for problem in found.problems] == ["task_list[0]", "task_list[2]"]


def test_all_environments_that_cannot_be_used_are_told_of_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    dangling = tmp_path / "dangling" / "bin"
    dangling.mkdir(parents=True)
    (dangling / "python").symlink_to(tmp_path / "gone")
    (tmp_path / "text").write_text("not executable")
    (tmp_path / "unreadable").write_bytes(b"\x7fELF no program")
    (tmp_path / "unreadable").chmod(0o755)
    failing = make_environment(tmp_path / "failing")
    (site_packages(failing) / "sitecustomize.py").write_text(
        "import os; os.write(2, b'no luck'); os._exit(3)"
    )
    good = make_environment(tmp_path / "good")
    bad = [str(tmp_path / "nowhere"), *map(str, (empty, dangling.parent, tmp_path / "text"))]
    bad += ["/bin/true", str(tmp_path / "unreadable"), str(failing)]

    with pytest.raises(InvalidInputError) as caught:
        find_tasks([bad[0], str(good), *bad[1:]])

    expected = [
        f"no such folder or interpreter; looked for {bad[0]}",
        f"no interpreter that can be run; looked for {empty}/bin/python and {empty}/bin/python3",
        f"no interpreter that can be run; looked for {dangling}/python",
        f"no interpreter that can be run; looked for {bad[3]}",
        "/bin/true is no working Python",
        "cannot run",
        "(exit code 3): no luck",
    ]
    for environment, text, line in zip(bad, expected, caught.value.problems, strict=True):
        assert line.startswith(f"{environment}: ")
        assert text in line


def test_an_interpreter_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "env")
    pid_file = tmp_path / "pid"
    (site_packages(environment) / "sitecustomize.py").write_text(
        f"import os, threading\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )
    with pytest.raises(InvalidInputError, match="did not answer within"):
        find_tasks([str(environment)], deadline_seconds=1.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
