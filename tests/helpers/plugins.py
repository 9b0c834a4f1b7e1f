"""Backends that are installed for a test: metadata in a folder, to be put on PYTHONPATH."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.processes import ROOT


def install(folder: Path, entry_points: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a distribution with these backends; the environment in which they can be found."""
    info = folder / "conformance_subjects-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: conformance-subjects\nVersion: 1.0\n")
    lines = [f"{name} = {entry_point}" for name, entry_point in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[fractal_backends]", *lines, ""]))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder for temporary files that other users may enter, as those of tests they may not."""
    path = Path(tempfile.mkdtemp(prefix="fractal-open-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
