"""What reaches executors of the arguments that not every backend can serve, and of handles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pytest

from fractal_backends import (
    Backend,
    Cause,
    FuturesBackend,
    InvalidInputError,
    Options,
    Outcome,
    RunInfo,
    Support,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
    UnsupportedArgumentError,
)
from tests.helpers.workflows import dataset, parallel

GIVEN: dict[str, Any] = {
    "workflow_dir_remote": Path("/remote"),
    "user_cache_dir": "cache",
    "slurm_user": "someone",
    "slurm_account": "lab",
    "worker_init": "export A=1",
}


class Seen(UnitExecutor):
    """Keeps what it is told."""

    def __init__(self, run: RunInfo) -> None:
        self.info = run
        self.units: list[Unit] = []

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for unit in units:
            self.units.append(unit)
            yield UnitEvent(unit, UnitState.ENDED, Outcome(Cause.DONE, exit_code=0))

    def cancel(self) -> None:
        pass


class SeenBackend(Backend):
    name = "seen"
    interface_version = 1
    arguments: ClassVar[Mapping[str, Support]]

    def open(self, run: RunInfo) -> UnitExecutor:
        self.executor = Seen(run)
        return self.executor


def seen(support: Any, folder: Path, **arguments: Any) -> Seen:
    """What an executor sees of arguments that are declared like this."""

    class Declaring(SeenBackend):
        arguments: ClassVar = dict.fromkeys(GIVEN, support)

    backend = Declaring()
    asyncio.run(
        backend.process_workflow(
            workflow={"task_list": [parallel()]},
            dataset=dataset(["a"]),
            workflow_dir_local=folder,
            logger_name="arguments",
            **arguments,
        )
    )
    return backend.executor


@pytest.mark.parametrize("support", [Support.IGNORED, "ignored"])
def test_ignored_arguments_do_not_reach_executors(tmp_path: Path, support: str) -> None:
    executor = seen(support, tmp_path / "run", **GIVEN)
    info = executor.info
    assert info.workflow_dir_remote == info.workflow_dir_local == tmp_path / "run"
    assert {getattr(info, name) for name in GIVEN if name != "workflow_dir_remote"} == {None}
    assert executor.units[0].env == {}


def test_honoured_arguments_reach_executors(tmp_path: Path) -> None:
    given = {**GIVEN, "user_cache_dir": "/cache"}
    executor = seen(Support.HONOURED, tmp_path / "run", **given)
    assert {name: getattr(executor.info, name) for name in given} == given
    assert executor.units[0].env == {"FRACTAL_CACHE_DIR": "/cache"}


@pytest.mark.parametrize("folder", [Path("/cache"), PurePosixPath("/cache")])
def test_a_cache_folder_may_be_a_path(tmp_path: Path, folder: PurePosixPath) -> None:
    executor = seen(Support.HONOURED, tmp_path / "run", user_cache_dir=folder)
    assert executor.info.user_cache_dir == "/cache"
    assert executor.units[0].env == {"FRACTAL_CACHE_DIR": "/cache"}


@pytest.mark.parametrize("support", [Support.REFUSED, "refused"])
@pytest.mark.parametrize("argument", GIVEN)
def test_refused_arguments(tmp_path: Path, argument: str, support: str) -> None:
    with pytest.raises(UnsupportedArgumentError, match="does not support"):
        seen(support, tmp_path / "run", **{argument: GIVEN[argument]})
    assert not (tmp_path / "run").exists()


WRONG: list[tuple[str, Any, str]] = [
    ("worker_init", b"x", "worker_init must be a text, not b'x'"),
    ("worker_init", ["x"], "worker_init must be a text, not ['x']"),
    ("worker_init", "a\n\0b", "worker_init must not hold a NUL character, as it does at index 2"),
    ("worker_init", "a\ud800", "worker_init must be text that can be encoded, which it cannot at index 1"),
    ("slurm_user", 1000, "slurm_user must be a text, not 1000"),
    ("slurm_account", True, "slurm_account must be a text, not True"),
    ("user_cache_dir", 3, "user_cache_dir must be a text or a Path, not 3"),
    ("user_cache_dir", b"/cache", "user_cache_dir must be a text or a Path, not b'/cache'"),
    ("user_cache_dir", "/ca\0che", "user_cache_dir must not hold a NUL character, as it does at index 3"),
    ("user_cache_dir", "cache", "user_cache_dir must be an absolute path, not 'cache'"),
    ("workflow_dir_remote", 3, "workflow_dir_remote must be a text or a Path, not 3"),
    ("workflow_dir_remote", Path("/\0"), "workflow_dir_remote must not hold a NUL character, as it does at"),
]


@pytest.mark.parametrize(("argument", "value", "told"), WRONG)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, argument: str, value: Any, told: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        seen(Support.HONOURED, tmp_path / "run", **{argument: value})
    assert str(caught.value).startswith(told)
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_arguments_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        seen(Support.HONOURED, tmp_path / "run", worker_init=b"x", user_cache_dir=3)
    assert sorted(caught.value.problems) == [
        "user_cache_dir must be a text or a Path, not 3",
        "worker_init must be a text, not b'x'",
    ]


@pytest.mark.parametrize("argument", GIVEN)
def test_wrong_values_of_ignored_arguments_change_nothing(tmp_path: Path, argument: str) -> None:
    info = seen(Support.IGNORED, tmp_path / "run", **{argument: 3}).info
    assert info.workflow_dir_remote == info.workflow_dir_local
    assert {getattr(info, name) for name in GIVEN if name != "workflow_dir_remote"} == {None}


@pytest.mark.parametrize(
    "wrong", [{"workflow_dir_local": 3}, {"workflow_dir_local": "a\0"}, {"logger_name": 3}]
)
def test_the_other_arguments_are_checked_too(wrong: Mapping[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"workflow_dir_local": tmp_path / "run", "logger_name": "arguments", **wrong}
    with pytest.raises(InvalidInputError, match=f"^{next(iter(wrong))} must "):
        asyncio.run(
            ThreadsBackend().process_workflow(
                workflow={"task_list": [parallel()]}, dataset=dataset(["a"]), **arguments
            )
        )
    assert list(tmp_path.iterdir()) == []


class ThreadsBackend(FuturesBackend):
    name = "threads"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> Executor:
        return ThreadPoolExecutor(1)


def test_a_pool_does_not_start_a_unit_again(tmp_path: Path) -> None:
    info = RunInfo("1", tmp_path, tmp_path, "handles")
    unit = Unit(0, 0, str(tmp_path / "0_par_0000000"), ("touch", str(tmp_path / "started")), handle="17")
    Path(unit.args_file).write_text(json.dumps({}))
    with ThreadsBackend().open(info) as executor:
        (event,) = executor.run([unit], Options())
    assert event.state is UnitState.ENDED
    assert event.outcome and event.outcome.cause is Cause.LAUNCH_FAILED
    assert event.outcome.info == (
        "It was started before, as '17'; this backend cannot adopt it, and does not start it again."
    )
    assert not (tmp_path / "started").exists()
