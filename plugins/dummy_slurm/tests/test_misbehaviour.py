"""Whatever the cluster does, each unit ends with a true verdict, and none is run twice."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.helpers.dummy_runs import FAULTS
from tests.helpers.plugins import open_folder
from tests.helpers.processes import ROOT

_SEEDS = range(1, 201)
_AT_ONCE = 4
"""They wait more than they work."""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> dict[int, dict[str, Any]]:
    """Of all seeds that are asked for."""
    params = [getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items]
    seeds = [str(found["seed"]) for found in params if "seed" in found]
    with open_folder() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
        command = [sys.executable, "-m", "tests.helpers.dummy_runs", str(folder)]

        def some(first: int) -> str:
            words = [*command, *seeds[first::_AT_ONCE]]
            return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout

        lines = "".join(pool.map(some, range(_AT_ONCE))).splitlines()
    return {found["seed"]: found for found in map(json.loads, lines)}


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.timeout(1800)  # the first one waits for all runs
@pytest.mark.parametrize("seed", _SEEDS)
def test_every_verdict_is_true(runs: dict[int, dict[str, Any]], seed: int) -> None:
    found = runs[seed]
    assert not found["wrong"], "\n".join(map(str, found["wrong"]))
    assert len({*found["faults"]}) == FAULTS, found
