"""Runs on the pretend cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import TaskExecutionError, get_backend


def _run(folder: Path, command: str, images: int) -> dict[str, Any]:
    task = {"name": "t", "type": "parallel", "command_parallel": command}
    backend = get_backend("dummy_slurm", options={"poll_interval": 0.3})
    result = asyncio.run(
        backend.process_workflow(
            workflow={"task_list": [{"task": task}]},
            dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/{n}"} for n in range(images)]},
            workflow_dir_local=folder,
            logger_name="test",
        )
    )
    return dict(result)


def test_units_run(tmp_path: Path) -> None:
    result = _run(tmp_path / "run", "/bin/true", 5)
    assert [entry["status"] for entry in result["history"]] == ["done"]
    assert not (tmp_path / "run" / ".slurm").exists()


def test_exit_codes_are_told(tmp_path: Path) -> None:
    with pytest.raises(TaskExecutionError, match="exit code 1"):
        _run(tmp_path / "run", "/bin/false", 2)
