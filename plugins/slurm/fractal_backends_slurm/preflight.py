"""What the cluster cannot do, or would refuse, found out before anything is submitted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fractal_backends import InvalidInputError

from .calls import SchedulerError
from .options import SlurmOptions
from .packing import Packing, SiteLimits, pack
from .scheduler import Scheduler
from .site import Site
from .submitting import ONE_NODE

_OF_THE_MOMENT = re.compile(r"not available|busy|reserv", re.IGNORECASE)
"""What `sbatch --test-only` also says where nodes are drained or down. sbatch itself accepts such a job."""
_FOR_OTHERS = ("--partition=", "--account=", "--qos=")
"""What other options depend on."""

_SMALL = Packing(units=1, at_once=1, array_tasks=1, cpus=1, mem_mb=None, time=None)


class Preflight:
    """Asks the cluster about the options of task parts, once for all that are alike.

    `user`: who submits, if that is not the runner's own.
    """

    def __init__(self, scheduler: Scheduler, user: str | None) -> None:
        self._scheduler = scheduler
        self._user = user
        self._site = Site(scheduler)
        self._answers: dict[tuple[str, ...], str] = {}

    def problems(self, units: int, options: SlurmOptions, account: str | None) -> Iterator[str]:
        """All that is wrong for that many units.

        Raises SchedulerError where the cluster does not answer now (`may_pass`), or takes nothing whatever.
        """
        try:
            packing = pack(units, options, self._limits_of(options.partition))
        except InvalidInputError as error:
            yield from error.problems or [error.what]
            packing = _SMALL
        if options.pre_submission_commands:  # they may be what makes sbatch accept it
            return
        asked = [*options.sbatch_arguments(packing, account), *options.sbatch_lines]
        if refusal := self._refusal(asked):
            problems = self._refused_ones(asked, options)
            if not problems and self._is_lasting(refusal, options):
                if refusal == self._refusal([]):
                    raise SchedulerError(refusal, may_pass=False)
                problems = [f"{' '.join(_as_option(one) for one in asked)}: {refusal}"]
            yield from problems

    def _limits_of(self, partition: str | None) -> SiteLimits:
        try:
            return self._site.limits(partition)
        except SchedulerError as error:
            if error.may_pass:
                raise
            return SiteLimits()  # sbatch will say what is wrong with it

    def _refused_ones(self, asked: Sequence[str], options: SlurmOptions) -> list[str]:
        """Those that sbatch refuses next to what it does not refuse before them."""
        problems: list[str] = []
        accepted: list[str] = []
        before, is_elsewhere = self._refusal(accepted), False
        for one in sorted(asked, key=lambda one: not one.startswith(_FOR_OTHERS)):
            refusal = self._refusal([*accepted, one])
            is_its_fault = refusal not in ("", before) and self._is_lasting(refusal, options)
            # Of another partition than the one that was meant.
            says_nothing = is_elsewhere and _OF_THE_MOMENT.search(refusal)
            if is_its_fault and not says_nothing:
                is_elsewhere = is_elsewhere or one.startswith("--partition=")
                problems.append(f"{_as_option(one)}{_origin(one, options)}: {refusal}")
            else:
                accepted.append(one)
                before = refusal
        return problems

    def _is_lasting(self, refusal: str, options: SlurmOptions) -> bool:
        """Whether it is not, or cannot be, because of nodes that are away."""
        if not _OF_THE_MOMENT.search(refusal):
            return True
        here, away = self._site.kinds_of_nodes(options.partition)
        if not here | away:  # of a partition that is hidden
            return False
        return not away if options.nodelist or options.exclude else away <= here

    def _refusal(self, asked: Sequence[str]) -> str:
        """Why sbatch would not accept this, in its words; empty where it would.

        Raises SchedulerError that `may_pass`.
        """
        key = tuple(asked)
        if key not in self._answers:
            lines = [word for word in asked if not word.startswith("--")]
            arguments = [*ONE_NODE, *(word for word in asked if word.startswith("--"))]
            script = "\n".join(["#!/bin/sh", *lines, "exit 0", ""])
            try:
                self._scheduler.try_out(script.encode(), arguments, user=self._user)
            except SchedulerError as error:
                if error.may_pass:
                    raise
                self._answers[key] = "; ".join(str(error).splitlines())
            else:
                self._answers[key] = ""
        return self._answers[key]


def _as_option(asked: str) -> str:
    """An argument of sbatch, or a line for it, as the user knows it."""
    name, equals, value = asked.removeprefix("--").partition("=")
    return f"{name.replace('-', '_')}{equals}{value}" if asked.startswith("--") else f"extra_lines: {asked!r}"


def _origin(asked: str, options: SlurmOptions) -> str:
    """Where an option comes from, to be read behind it; empty for a line, which may be of any source."""
    option, _, value = _as_option(asked).partition("=")
    if option == "account":
        known = (name for name in ("account", "default_account") if getattr(options, name) == value)
        return next(map(options.told_origin, known), " (from slurm_account)")
    return options.told_origin("mem" if option == "mem_per_cpu" else option)
