"""Options of several sources, put together by a backend that has rules of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fractal_backends import Backend, InvalidInputError, Options, RunInfo, UnitExecutor
from tests.cli_helpers import write_json

VARIABLE = "FRACTAL_TEST_CONFIG_FILE"


class Range(Options):
    """Options with a rule for two of them."""

    low: int = 0
    high: int = 10
    step: int = 1

    def contradictions(self) -> Iterator[tuple[Sequence[str], str]]:
        """See `Options.contradictions`."""
        if self.low > self.high:
            yield ("low", "high"), f"low={self.low} is above high={self.high}"
        if self.step > 5:
            yield ("step", "low"), f"step={self.step} is too large"


class RangeBackend(Backend):
    """A backend that runs nothing."""

    name = "range"
    interface_version = 1
    options_model = Range
    config_file_variable = VARIABLE

    def open(self, run: RunInfo) -> UnitExecutor:
        raise AssertionError("nothing may start")


def problems(backend: Backend, *metas: Mapping[str, Any]) -> list[str]:
    """What the preparation of a run has to say."""
    tasks = [
        {
            "task": {"name": f"t{i}", "type": "parallel", "command_parallel": "true"},
            "meta_parallel": dict(meta),
        }
        for i, meta in enumerate(metas)
    ]
    try:
        backend.prepare({"task_list": tasks}, {"zarr_dir": "/z"})
    except InvalidInputError as error:
        return list(error.problems)
    return []


def test_values_that_contradict_each_other_are_told_with_their_sources() -> None:
    assert problems(RangeBackend({"high": 3}), {"low": 4}, {"low": 2}, {"step": 9}) == [
        "task 0 ('t0'), meta_parallel + the backend's options: low=4 is above high=3",
        "task 2 ('t2'), meta_parallel: step=9 is too large",
    ]


def test_a_contradiction_does_not_hide_behind_another_problem() -> None:
    found = problems(RangeBackend(), {"low": 40}, {"step": "x"})
    assert len(found) == 2
    assert found[0] == "task 0 ('t0'), meta_parallel: low=40 is above high=10"
    assert found[1].startswith("task 1 ('t1'), meta_parallel: step: ")


def test_what_one_source_lacks_another_may_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(write_json(tmp_path / "site.json", {"low": 20})))
    assert problems(RangeBackend({"high": 30}), {}) == []
