"""`tasks`, as a user sees it: what is in one environment, or in several."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.cli_helpers import Result, cli, install_tasks

SEGMENT = {
    "name": "Segment Cells",
    "executable_non_parallel": "task.py",
    "executable_parallel": "task.py",
    "input_types": {"is_3D": True},
    "output_types": {"segmented": True, "raw": False},
}


@pytest.fixture(scope="module")
def task_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a long name, as an environment's may be, that has task packages."""
    folder = tmp_path_factory.mktemp("a_site_whose_path_is_far_longer_than_what_a_line_of_a_terminal_holds")
    convert = {"name": "Convert", "type": "converter_non_parallel", "executable_non_parallel": "task.py"}
    broken = {"name": "Broken", "executable_parallel": "absent.py"}
    install_tasks(folder, "fractal-cells", "2.1", [convert, SEGMENT, broken])
    return folder


@pytest.fixture(scope="module")
def found(task_site: Path) -> Result:
    return cli("tasks", cwd=task_site, PYTHONPATH=task_site)


def test_tasks_shows_what_is_in_this_environment(found: Result) -> None:
    assert (found.code, found.err) == (0, "")
    rows = found.rows()
    assert ["Package", "Version", "Task", "Type", "Input types", "Output types"] in rows
    assert ["fractal-cells", "2.1", "Convert", "converter_non_parallel"] in rows
    assert [
        "fractal-cells",
        "2.1",
        "Segment Cells",
        "compound",
        "is_3D=true",
        "segmented=true, raw=false",
    ] in rows


def test_tasks_tells_what_is_wrong_with_a_package_in_words_that_can_be_copied(
    found: Result, task_site: Path
) -> None:
    assert f"executable {task_site}/fractal_cells/absent.py is not there" in found.out


def test_tasks_as_json_is_for_scripts(task_site: Path) -> None:
    result = cli("tasks", sys.executable, "--json", cwd=task_site, PYTHONPATH=task_site)
    assert (result.code, result.err) == (0, "")
    (found,) = json.loads(result.out)
    assert found["environment"] == found["interpreter"] == sys.executable
    segment = next(task for task in found["tasks"] if task["name"] == "Segment Cells")
    assert (segment["package"], segment["version"], segment["type"]) == ("fractal-cells", "2.1", "compound")
    assert segment["output_types"] == {"segmented": True, "raw": False}
    assert str(task_site / "fractal_cells" / "task.py") in segment["command_parallel"]
    assert [problem["pkg_name"] for problem in found["problems"]] == ["fractal-cells"]


def test_tasks_of_several_environments_are_kept_apart(task_site: Path, tmp_path: Path) -> None:
    """Their names are long, and must not be taken for markup."""
    environments = []
    for name, more in (("new", f"export PYTHONPATH={task_site}"), ("old", "unset PYTHONPATH")):
        python = tmp_path / f"the [{name}] one of the two, which is here for comparison" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\n{more}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        environments.append(python.parents[1])
    result = cli("tasks", *environments, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    new, old = (f"{environment}/bin/python" for environment in environments)
    assert new in result.out
    assert f"{old}: no Fractal tasks\n" in result.out
    assert result.out.index(new) < result.out.index("Segment Cells") < result.out.index(old)


def test_tasks_tells_of_every_environment_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho this is no python >&2\nexit 3\n")
    fails.chmod(0o755)
    result = cli("tasks", "nowhere", "folder", "./fails", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert "nowhere: no such folder or interpreter" in result.err
    assert "folder: no interpreter that can be run" in result.err
    assert re.search("fails.*exit code 3.*this is no python", result.err)
