"""Folders on the import path, with distributions that offer backends."""

from __future__ import annotations

import importlib
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path

from fractal_backends import INTERFACE_VERSION, available_backends

GOOD = """
    from fractal_backends import Backend

    class Good(Backend):
        name = "good"
        interface_version = {version}

        def open(self, run):
            raise NotImplementedError
"""

_modules = itertools.count()


class Site:
    """A folder on the import path, and what is installed there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, source: str) -> str:
        """A new module's name; no test sees another one's modules."""
        name = f"registry_test_plugin_{next(_modules)}"
        text = textwrap.dedent(source).replace("{version}", str(INTERFACE_VERSION))
        (self.path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    def metadata(self, distribution: str, *entries: str, version: str = "1.0") -> Path:
        """The metadata folder of a distribution that offers backends, `name = module:attribute` each."""
        folder = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lines = ["[console_scripts]", "some-tool = nowhere:main", "[fractal_backends]", *entries]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    def install(self, distribution: str, name: str, source: str = GOOD, attribute: str = "Good") -> str:
        """A distribution with one backend; returns its entry point."""
        entry_point = f"{self.module(source)}:{attribute}"
        self.metadata(distribution, f"{name} = {entry_point}")
        return entry_point


NewSite = Callable[[str], Site]


def states(name: str) -> dict[str, str]:
    """How the backends of this name are listed, by distribution."""
    return {info.distribution: str(info.state) for info in available_backends() if info.name == name}
