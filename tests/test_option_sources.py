"""Options of several sources, put together by a backend that has rules of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from fractal_backends import Backend, InvalidInputError, Options, RunInfo, Source, UnitExecutor
from tests.cli_helpers import write_json

VARIABLE = "FRACTAL_TEST_CONFIG_FILE"
TASK = {"name": "t", "type": "parallel", "command_parallel": "true"}


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
    found = problems(RangeBackend(), {"low": 40, "step": "x"}, {"step": "x"})
    assert len(found) == 3
    assert found[0].startswith("task 0 ('t0'), meta_parallel: step: ")
    assert found[1] == "task 0 ('t0'), meta_parallel: low=40 is above high=10"
    assert found[2].startswith("task 1 ('t1'), meta_parallel: step: ")


def test_what_one_source_lacks_another_may_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(write_json(tmp_path / "site.json", {"low": 20})))
    assert problems(RangeBackend({"high": 30}), {}) == []


def test_a_file_says_each_thing_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "site.json"
    file.write_text('{"low": 2, "step": 1, "low": 3}')
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(InvalidInputError) as caught:
        RangeBackend().prepare({"task_list": [{"task": TASK}]}, {"zarr_dir": "/z"})
    told = f"{file} cannot be read: more than once in one object: 'low'"
    assert str(caught.value) == f"The configuration file that {VARIABLE} names: {told}"


class ProfileBackend(RangeBackend):
    """Its file has profiles, of which a task names one."""

    @classmethod
    def option_sources(cls, file: Source | None, meta: Source, given: Source) -> list[Source]:
        """See `BackendAttributes.option_sources`."""
        profiles = dict(file.values) if file else {}
        name = meta.values.get("profile", "usual")
        unknown = () if name in profiles else (f"profile {name!r}: the file has {', '.join(profiles)}",)
        meta = replace(meta, problems=unknown)
        others = [Source(f"profile {key}", values, used=key == name) for key, values in profiles.items()]
        return [*others, meta, given]


def test_a_backend_takes_its_file_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles: Mapping[str, Any] = {"usual": {"low": 1}, "long": {"high": 50}, "wrong": {"low": 2, "steps": 2}}
    monkeypatch.setenv(VARIABLE, str(write_json(tmp_path / "site.json", profiles)))
    backend = ProfileBackend()
    meta = {"profile": "none", "low": "x"}
    found = problems(backend, {}, {"profile": "long", "low": 60}, meta)
    beginnings = [
        "profile wrong: steps: unknown option; did you mean step? The valid ones are low, high, step.",
        "task 1 ('t1'), meta_parallel + profile long: low=60 is above high=50",
        "task 2 ('t2'), meta_parallel: profile 'none': the file has usual, long",
        "task 2 ('t2'), meta_parallel: low: ",
    ]
    assert [text.startswith(start) for text, start in zip(found, beginnings, strict=True)] == [True] * 4


def test_a_source_that_is_not_used_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        VARIABLE, str(write_json(tmp_path / "site.json", {"usual": {"low": 1}, "b": {"low": 2}}))
    )
    task = {"task": {"name": "t", "type": "parallel", "command_parallel": "true"}}
    prepared = ProfileBackend().prepare({"task_list": [task]}, {"zarr_dir": "/z"})
    options = prepared.tasks[0].parallel_options
    assert options == Range(low=1)
    assert (options.origin("low"), options.origin("high")) == ("profile usual", None)


class Lists(Options):
    """Options that take lists."""

    lines: tuple[str, ...] = ()
    names: list[str] = Field(default_factory=list)
    kinds: frozenset[str] | None = None


class ListsBackend(Backend):
    """Its options are lists."""

    name = "lists"
    interface_version = 1
    options_model = Lists

    def open(self, run: RunInfo) -> UnitExecutor:
        raise AssertionError("nothing may start")


@pytest.mark.parametrize("option", Lists.model_fields)
@pytest.mark.parametrize(
    ("value", "example"),
    [
        ("#SBATCH --exclusive", '["#SBATCH --exclusive"]'),
        ('say "é"', r'["say \"é\""]'),
        ("[#SBATCH --exclusive]", '["first", "second"]'),
        (3, '["first", "second"]'),
    ],
)
def test_where_a_list_is_wanted_the_message_shows_one(option: str, value: Any, example: str) -> None:
    (problem,) = problems(ListsBackend({option: value}), {})
    assert problem == f"the backend's options: {option}: must be a JSON list, as in {example} (got {value!r})"
    assert problems(ListsBackend({option: ["a"]}), {}) == []
