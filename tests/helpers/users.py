"""Other users of this machine: their folders, and a Python that they can start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_NOBODY_ELSE = 0o700


def home_of(user: str, place: Path) -> Path:
    """A folder that only this user may enter."""
    folder = place / user
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, user)
    folder.chmod(_NOBODY_ELSE)
    return folder


def owners(folder: Path) -> set[str]:
    """Of all that is in a folder."""
    return {path.owner() for path in folder.rglob("*")}


def python_for(user: str) -> list[str]:
    """How this user can start a Python that has all that this one has; the test is skipped if not at all."""
    paths = os.pathsep.join(path for path in sys.path if path and not path.startswith(sys.base_prefix))
    names = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    for name in names:
        command = [shutil.which("runuser") or "runuser", "-u", user, "--", "env", f"PYTHONPATH={paths}", name]
        tried = subprocess.run(
            [*command, "-c", "import fractal_backends_slurm"], check=False, capture_output=True
        )
        if tried.returncode == 0:
            return command
    pytest.skip(f"no Python that the user {user} can execute: tried {', '.join(names)}")
