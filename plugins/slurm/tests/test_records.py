"""What may have been forgotten by a controller, as far as can be known from when it was started."""

from __future__ import annotations

import time
from typing import cast

from fractal_backends_slurm.calls import SchedulerError
from fractal_backends_slurm.records import Records
from fractal_backends_slurm.scheduler import Scheduler


class Controller:
    """Runs since then; None: does not answer."""

    def __init__(self, since: float | None) -> None:
        self.since = since

    def started_at(self) -> float:
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
