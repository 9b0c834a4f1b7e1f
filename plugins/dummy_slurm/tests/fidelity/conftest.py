"""What takes SLURM a minute begins with the first of these tests, and the last ones look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from slurm_lab import Settings
from slurm_lab.fixtures import Labs
from tests.helpers.plugins import open_folder
from tests.helpers.slurm_fixtures import Begun
from tests.helpers.slurm_sites import PLAIN_LINES

_OVERDUE = Settings(accounting=True, lines={**PLAIN_LINES, "KillWait": "3"})
_FORGETFUL = Settings(min_job_age_s=2, lines=PLAIN_LINES)


@pytest.fixture(scope="package")
def begun(slurm_labs: Labs) -> Iterator[Begun]:
    """A job that exceeds its time, and one whose record is to vanish, each on both SLURMs."""
    with ExitStack() as stack:
        jobs = Begun(stack.enter_context(open_folder()), stack)
        jobs.begin("overdue", slurm_labs(_OVERDUE), "exec sleep 200", "--time=1", minute_s=3)
        jobs.begin("forgotten", slurm_labs(_FORGETFUL), "true", min_job_age_s=2)
        yield jobs


@pytest.fixture(scope="package", autouse=True)
def begin(request: pytest.FixtureRequest) -> None:
    """Early, if it is wanted at all."""
    if any("begun" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("begun")
