"""What makes the tests quick, and what several of them need."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.futures_lab import Lab
from tests.helpers.sites import NewSite, Site


def pytest_collection_finish() -> None:
    """What was imported stays: no test's search for what is left behind need go through it again."""
    gc.freeze()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[NewSite]:
    """Makes folders on the import path; the one made last comes first there."""

    def make(name: str) -> Site:
        path = tmp_path / name
        path.mkdir()
        sys.path.insert(0, str(path))
        return Site(path)

    path, modules = list(sys.path), set(sys.modules)
    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("registry_test_plugin_"):
            del sys.modules[name]


@pytest.fixture
def site(new_site: NewSite) -> Site:
    """A folder on the import path."""
    return new_site("site")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Runs on pools; units that stay go when the test is over."""
    (tmp_path / "lab").mkdir()
    yield Lab(tmp_path / "lab")
    (tmp_path / "lab" / "end").touch()
