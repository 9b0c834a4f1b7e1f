"""The backends in the documentation work as they stand there."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from fractal_backends.conformance.requirements import capabilities, requirements
from tests.conformance.broken import defects
from tests.helpers.plugins import install

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "write-a-backend.md"
BLOCKS = re.findall(r'```python title="\w+\.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)

RUN = """
import asyncio, json, sys
from pathlib import Path
import my_backend

def main():
    (backend_class,) = [
        value
        for value in vars(my_backend).values()
        if isinstance(value, type) and value.__module__ == "my_backend" and hasattr(value, "process_workflow")
    ]
    backend = backend_class()
    task = {"name": "x", "type": "parallel", "command_parallel": "true", "output_types": {"seen": True}}
    result = asyncio.run(
        backend.process_workflow(
            workflow={"task_list": [{"task": task}]},
            dataset={"zarr_dir": "/z", "images": [{"zarr_url": f"/z/{i}"} for i in range(5)]},
            workflow_dir_local=Path("run"),
            logger_name="documentation",
        )
    )
    print(json.dumps([image["types"] for image in result["images"]]))

if __name__ == "__main__":
    main()
"""


def test_the_page_has_three_backends() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("code", BLOCKS)
def test_a_backend_of_the_page_runs_a_workflow(code: str, tmp_path: Path) -> None:
    (tmp_path / "my_backend.py").write_text(code)
    (tmp_path / "run.py").write_text(RUN)
    result = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[" + ", ".join(['{"seen": true}'] * 5) + "]", result.stderr


@pytest.mark.parametrize("code", BLOCKS)
def test_a_backend_of_the_page_passes_the_suite(code: str, tmp_path: Path) -> None:
    """Its quick part, and what it may forget to declare or to refuse."""
    (tmp_path / "my_backend.py").write_text(code)
    (class_name,) = re.findall(r"class (\w+Backend)\(", code)
    (name,) = re.findall(r'    name = "(\w+)"', code)
    env = install(tmp_path / "installed", {name: f"my_backend:{class_name}"})
    env["PYTHONPATH"] += os.pathsep + str(tmp_path)
    command = [sys.executable, "-m", "fractal_backends.cli", "check", name, "--only=smoke,capabilities"]
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_pages_that_are_made_from_data_have_all_of_it() -> None:
    fill_in = runpy.run_path(str(DOCS / "generated_pages.py"))["on_page_markdown"]
    expected: dict[str, Iterable[str]] = {
        "specification": requirements(),
        "capabilities": capabilities(),
        "broken-backends": [defect.name for defect in defects()],
    }
    for page, names in expected.items():
        text = fill_in((DOCS / f"{page}.md").read_text())
        assert "<!--" not in text
        assert [name for name in names if name not in text] == []
