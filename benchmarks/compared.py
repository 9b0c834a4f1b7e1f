"""An environment of its own with the fractal-server release that is compared with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

VERSION = "2.9.1"
PYTHON = "3.11"


@cache
def python_with_fractal_server() -> str:
    """Its interpreter; made with uv when it is first asked for."""
    folder = Path(__file__).parent / ".envs" / f"fractal-server-{VERSION}"
    python = folder / "bin" / "python"
    finished = folder / "finished"
    if not finished.exists():
        print(f"Installing fractal-server {VERSION} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["uv", "venv", "--quiet", "--python", PYTHON, str(folder)], check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", str(python), f"fractal-server=={VERSION}"],
            check=True,
        )
        finished.touch()
    return str(python)
