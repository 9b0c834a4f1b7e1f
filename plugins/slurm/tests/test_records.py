"""What is on record of jobs, and what a controller that was started again may have forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Self, cast

import pytest
from fractal_backends_slurm.calls import SchedulerError
from fractal_backends_slurm.records import Records
from fractal_backends_slurm.scheduler import Scheduler

from conftest import eventually


class Controller:
    """Runs since then; None: does not answer."""

    def __init__(self, since: float | None) -> None:
        self.since = since

    def ask_config(self) -> Self:
        """As of a scheduler."""
        return self

    def has_ended(self, wait_s: float) -> bool:
        """It answers at once."""
        return True

    def close(self) -> None:
        """Nothing is under way."""

    def started_at(self, question: object, wait_s: float = 0) -> float:
        """As a scheduler tells it."""
        if self.since is None:
            raise SchedulerError("no answer", may_pass=True)
        return self.since


LONG_AGO, THIS_MORNING = 1_000.0, 5_000.0


def test_nothing_is_forgotten_by_one_that_runs_on() -> None:
    controller = Controller(LONG_AGO)
    records = Records(cast(Scheduler, controller))
    assert not records.may_be_forgotten(time.monotonic(), records.controller)


def test_what_was_accepted_after_a_restart_is_not_forgotten_by_that() -> None:
    controller = Controller(LONG_AGO)
    records = Records(cast(Scheduler, controller))
    before = records.controller
    controller.since = THIS_MORNING
    after = records.controller
    assert records.may_be_forgotten(time.monotonic())
    assert records.may_be_forgotten(time.monotonic(), before)
    assert not records.may_be_forgotten(time.monotonic(), after)


def test_one_that_has_just_been_started_may_not_be_the_one_that_accepted() -> None:
    controller = Controller(LONG_AGO)
    records = Records(cast(Scheduler, controller))
    controller.since = time.time() - 1
    assert records.may_be_forgotten(time.monotonic(), records.controller)


def test_no_answer_at_first_is_no_reason_to_doubt_for_ever() -> None:
    controller = Controller(None)
    records = Records(cast(Scheduler, controller))
    assert records.may_be_forgotten(time.monotonic(), records.controller)
    controller.since = LONG_AGO
    assert not records.may_be_forgotten(time.monotonic(), records.controller)


def test_only_one_that_says_so_was_started_again() -> None:
    controller = Controller(LONG_AGO)
    records = Records(cast(Scheduler, controller))
    before = records.controller
    answers = []
    for controller.since in (LONG_AGO, None, THIS_MORNING):
        answers.append(records.has_new_controller(time.monotonic(), before))
    assert answers == [False, False, True]


def test_of_one_that_did_not_answer_at_first_nobody_knows() -> None:
    controller = Controller(None)
    records = Records(cast(Scheduler, controller))
    before = records.controller
    controller.since = LONG_AGO
    assert not records.has_new_controller(time.monotonic(), before)


class Commands:
    """A scontrol that answers once it may, and no sacct."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        script = folder / "scontrol"
        script.write_text(
            f"""#!/bin/sh
case $2 in config) exit 1 ;; esac
echo >>'{folder}/asked'
until [ -e '{folder}/may' ]; do sleep 0.01; done
cat '{folder}/answer'
"""
        )
        script.chmod(0o755)
        (folder / "may").touch()
        self.say("RUNNING")

    def say(self, state: str) -> None:
        """What it answers from now on."""
        line = f"JobId=7 ArrayJobId=7 ArrayTaskId=4 JobName=name JobState={state}"
        (self._folder / "answer").write_text(line)

    def hold(self) -> None:
        """It does not answer for now."""
        (self._folder / "may").unlink()

    def let(self) -> None:
        """It does."""
        (self._folder / "may").touch()

    def asked(self) -> int:
        """How often it was."""
        return len((self._folder / "asked").read_text().splitlines())


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """In a folder of their own."""
    return Commands(tmp_path)


@pytest.fixture
def records(tmp_path: Path, commands: Commands) -> Iterator[Records]:
    """What they know of."""
    with closing(Records(Scheduler(tmp_path))) as records:
        yield records


def states(records: Records, at: float) -> dict[int, str] | None:
    """What is on record of job 7; None where that is not known yet."""
    try:
        return {index: state.state for index, state in records.of("7", "name", at).items()}
    except SchedulerError:
        return None


def test_an_answer_that_was_asked_for_before_is_not_good_enough(records: Records, commands: Commands) -> None:
    assert eventually(lambda: states(records, 0) == {4: "RUNNING"})
    commands.say("FAILED")
    now = time.monotonic()
    assert eventually(lambda: states(records, now) == {4: "FAILED"})
    asked = commands.asked()
    for _ in range(100):
        states(records, now)
    assert commands.asked() < asked + 50


def test_a_slow_answer_is_not_waited_for(records: Records, commands: Commands) -> None:
    """One question is for all who noticed an end before it was asked; the next one for the others."""
    commands.hold()
    before, begin = 0.0, time.monotonic()
    assert states(records, before) is None
    after = time.monotonic()
    for _ in range(20):
        assert (states(records, after), states(records, before)) == (None, None)
    assert time.monotonic() - begin < 5
    assert commands.asked() == 1
    commands.let()
    assert eventually(lambda: states(records, before) == {4: "RUNNING"})
    assert commands.asked() == 1
    commands.say("FAILED")
    assert eventually(lambda: states(records, after) == {4: "FAILED"})


def test_an_answer_that_nobody_came_for_is_forgotten(
    records: Records, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.hold()
    assert states(records, 0) is None
    commands.let()
    monkeypatch.setattr("fractal_backends_slurm.records._UNWANTED_S", 0.0)
    commands.say("FAILED")
    assert eventually(lambda: states(records, 0) == {4: "FAILED"})
    assert commands.asked() > 1


def test_one_that_fails_is_not_asked_all_the_time(records: Records, tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text(
        f"#!/bin/sh\necho >>'{tmp_path}/asked'\necho 'Socket timed out' >&2; exit 1\n"
    )
    assert [states(records, time.monotonic()) for _ in range(50)] == [None] * 50
    assert eventually(lambda: len((tmp_path / "asked").read_text()) > 0)
    assert len((tmp_path / "asked").read_text()) < 25
