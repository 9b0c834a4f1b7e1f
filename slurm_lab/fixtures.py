"""For pytest: labs that are started when they are first asked for, and shared by all tests of the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .lab import LabError, SlurmLab, stop_abandoned
from .machine import why_not
from .settings import MemoryKill, Settings, cgroups_work

REQUIRED = "SLURM_LAB_REQUIRED"
"""Set where tests on SLURM must not be skipped."""

SETTLE_S = 5.0
"""What a test may leave for so long: SLURM tidies up jobs that ended, and nodes that were away do so late."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a lab can be chosen, and left out, by the marker, with settings or without."""
    for item in items:
        if "slurm_labs" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slurm"):
            item.add_marker("slurm")


class Labs:
    """One lab for each kind of settings."""

    def __init__(self) -> None:
        self._labs: dict[str, SlurmLab] = {}

    def __call__(self, settings: Settings | None = None) -> SlurmLab:
        """A lab with these settings, as good as new; the test is skipped where there can be none."""
        settings = settings or Settings()
        reason = why_not(settings.accounting)
        if reason is None and settings.memory_kill is MemoryKill.CGROUP and not cgroups_work():
            reason = "SLURM cannot use the control groups of this machine"
        if reason is not None:
            (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(f"no SLURM: {reason}")
        key = repr(settings)
        if key not in self._labs:
            if not self._labs:
                stop_abandoned()
            lab = self._labs[key] = SlurmLab(settings)
            lab.start()
        else:
            self._labs[key].heal()
        return self._labs[key]

    def stop(self) -> None:
        """Stop all, also where one cannot be stopped."""
        with ExitStack() as stack:
            for lab in self._labs.values():
                stack.callback(lab.stop)


@pytest.fixture(scope="session")
def slurm_labs() -> Iterator[Labs]:
    """Gives labs by their settings."""
    labs = Labs()
    yield labs
    labs.stop()


@pytest.fixture
def slurm_lab(
    slurm_labs: Labs, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmLab]:
    """A lab that this process talks to, without jobs; `@pytest.mark.slurm(settings)` says which one."""
    marker = request.node.get_closest_marker("slurm")
    lab = slurm_labs(marker.args[0] if marker and marker.args else None)
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    lab.forget_calls()
    yield lab
    lab.heal()
    lab.end_ghosts()
    left = lab.leftovers_after(SETTLE_S)
    if left:
        lab.clear()
        raise LabError(f"the test left behind: {left}")
