"""For pytest: runs of the local backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.local_lab import VARIABLE, ConfigFile, Crew, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Runs in a folder of the test's."""
    return Lab(tmp_path)


@pytest.fixture
def crew(lab: Lab) -> Iterator[Crew]:
    """Units of the lab, which go when the test is over."""
    crew = Crew(lab)
    yield crew
    crew.close()


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigFile:
    """Writes the configuration file of the backend; without that there is none."""

    def write(text: str) -> Path:
        path = tmp_path / "local-config.json"
        path.write_text(text)
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    monkeypatch.delenv(VARIABLE, raising=False)
    return write
