"""What it takes to begin: importing the package, and the command line with slow and broken plugins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import Row, Settings

PLUGINS = 10
ROUNDS = 5
IMPORTING = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"
PLUGIN = """\
from fractal_backends import Backend


class Plugin(Backend):
    name = "{name}"
    interface_version = 1

    def open(self, run):
        raise NotImplementedError
"""


def measure(settings: Settings) -> Iterator[Row]:
    """The best of a few starts of each, in fresh interpreters."""
    rounds = settings.rounds or ROUNDS
    install_plugins(settings.folder)
    path = {**os.environ, "PYTHONPATH": str(settings.folder)}
    for what, statement, target in (
        ("import fractal_backends", "import fractal_backends", 0.2),
        ("... and all of its names", "from fractal_backends import *", None),
    ):
        command = [sys.executable, "-c", IMPORTING.format(statement)]
        times = [float(subprocess.check_output(command, env=path)) for _ in range(rounds)]
        yield Row(what, min(times), "s", target)
    for argument in ("--help", "list"):
        command = [sys.executable, "-m", "fractal_backends.cli", argument]
        times = [_duration(command, path) for _ in range(rounds)]
        yield Row(f"fractal-backends {argument}, {PLUGINS} plugins", min(times), "s", 0.5)


def _duration(command: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def install_plugins(folder: Path) -> None:
    """Distributions as an installer leaves them; one is slow to import, one cannot be imported."""
    for number in range(PLUGINS):
        name = f"benchmark_plugin_{number}"
        head = {0: "import time\ntime.sleep(3)\n", 1: "raise ImportError('broken')\n"}.get(number, "")
        (folder / f"{name}.py").write_text(head + PLUGIN.format(name=name))
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[fractal_backends]\n{name} = {name}:Plugin\n")
