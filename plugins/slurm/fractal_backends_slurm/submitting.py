"""Hands units over to SLURM, each once, also where its answer does not come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from fractal_backends import RunInfo, Unit

from .calls import SchedulerError
from .options import SlurmOptions, charged_account
from .packing import Packing, SiteLimits, pack
from .places import Place
from .scheduler import Scheduler
from .script import JobScript
from .site import Site
from .submission import SCRIPT_FILE, UNITS_FILE, Submission, lay_out, units_file

_OF_SUDO = ("SUDO_COMMAND", "SUDO_USER", "SUDO_UID", "SUDO_GID")
ONE_NODE = ("--nodes=1", "--ntasks=1")
"""Of every array task."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class Submitter:
    """Plans and makes the submissions of one run."""

    def __init__(self, run: RunInfo, scheduler: Scheduler, place: Place) -> None:
        self._run = run
        self._logger = run.logger
        self._scheduler = scheduler
        self._place = place
        self._site = Site(scheduler)
        self._has_warned = False

    def plan(self, units: Sequence[Unit], options: SlurmOptions, attempt: int = 1) -> list[Submission]:
        """Lay out units as job arrays.

        Raises InvalidInputError where they do not fit, SchedulerError where the site's limits are not known.
        """
        planned: list[Submission] = []
        for _, alike in groupby(units, lambda unit: (self._place.folder_of(unit), unit.task_command)):
            planned += self._plan_alike(list(alike), options, attempt)
        return planned

    def _plan_alike(self, units: Sequence[Unit], options: SlurmOptions, attempt: int) -> Iterator[Submission]:
        limits = self._limits_of(options.partition)
        packing = pack(len(units), options, limits)
        most = packing.units * limits.max_array_size
        for start in range(0, len(units), most):
            yield self._submission(units[start : start + most], packing, options, attempt)

    def _submission(
        self, units: Sequence[Unit], packing: Packing, options: SlurmOptions, attempt: int
    ) -> Submission:
        submission = lay_out(units, packing.units, self._place.remote, attempt)
        title = (
            f"fractal-backends run={self._run.id} task={units[0].order}"
            f" units={units[0].label}..{units[-1].label}"
        )
        submission.packing = packing
        submission.script = self._script(submission, units[0], packing, options, title)
        submission.arguments = self._arguments(submission, packing, options, title)
        submission.before = options.pre_submission_commands
        return submission

    def split(self, submission: Submission, options: SlurmOptions) -> list[Submission]:
        """Two in the place of one that was refused; itself where it is one array task already."""
        if submission.packing is None or len(submission.parts) == 1:
            return [submission]
        self._place.remove(submission.folder)
        half = submission.packing.units * ((len(submission.parts) + 1) // 2)
        return [
            self._submission(some, submission.packing, options, submission.attempt)
            for some in (submission.units[:half], submission.units[half:])
        ]

    def _script(
        self, submission: Submission, example: Unit, packing: Packing, options: SlurmOptions, title: str
    ) -> bytes:
        return JobScript(
            title=title,
            home=str(self._place.remote),
            folder=str(submission.folder),
            place=str(self._place.folder_of(example)),
            command=example.task_command,
            units_each=packing.units,
            at_once=packing.at_once,
            cpus=options.cpus_per_task,
            memory_mb=options.mem,
            of_steps=_of_steps(options),
            limit_s=options.time_s,
            env=self._environment(example, options),
            unset=_OF_SUDO if self._place.user else (),
            worker_init=self._run.worker_init,
            shebang=options.shebang,
            extra_lines=options.sbatch_lines,
        ).render()

    def _arguments(
        self, submission: Submission, packing: Packing, options: SlurmOptions, title: str
    ) -> list[str]:
        return [
            f"--job-name={submission.name}",
            f"--comment={title}",
            f"--array=0-{len(submission.parts) - 1}",
            f"--chdir={submission.folder}",
            f"--output={_words_file(submission.folder)}",
            "--open-mode=append",
            "--no-requeue",
            "--kill-on-invalid-dep=yes",
            *ONE_NODE,
            *options.sbatch_arguments(packing, charged_account(options, self._run.slurm_account)),
        ]

    def _limits_of(self, partition: str | None) -> SiteLimits:
        """What the site allows; where it does not say, what SLURM allows by itself.

        Raises SchedulerError where it does not answer now.
        """
        try:
            return self._site.limits(partition)
        except SchedulerError as error:
            if error.may_pass:
                raise
            self._logger.warning("The limits of the site are not known: %s", error)
            return SiteLimits()

    def submit(self, submission: Submission) -> None:
        """Submit it, or find that an earlier try had been accepted.

        Raises SchedulerError; one that may pass sets the time for the next try. Raises PlaceError.
        """
        if submission.tries == 0:
            files = {UNITS_FILE: units_file(submission.units), SCRIPT_FILE: submission.script}
            self._place.put(submission.folder, files, submission.units)
        pause = _FIRST_PAUSE_S
        try:
            self.find_lost([submission])
            if submission.job is None:
                pause = pause_after(submission.tries)
                submission.tries += 1
                submission.missing_since = None
                submission.job = self._scheduler.submit(
                    submission.script,
                    submission.arguments,
                    user=self._place.user,
                    before=submission.before,
                )
        except SchedulerError as error:
            if problem := self._problem_of(submission, error):
                submission.try_at = time.monotonic() + pause
                self._logger.warning("A submission failed (units: %d): %s", len(submission.units), problem)
                raise problem from error
        self._logger.info(
            "Submitted job %s; array tasks: %d, units: %d",
            *(submission.job, len(submission.parts), len(submission.units)),
        )

    def _problem_of(self, submission: Submission, error: SchedulerError) -> SchedulerError | None:
        """None where a submission was accepted all the same: sbatch may fail after that.

        It is refused for good only where the queue says that there is no job of it.
        """
        if not error.may_pass:
            try:
                self.find_lost([submission])
            except SchedulerError as unknown:
                return SchedulerError(f"{error}; {unknown}", may_pass=True)
        return None if submission.job is not None else error

    def try_out(self, submission: Submission) -> str:
        """What the scheduler says to it without taking it. Raises SchedulerError."""
        return self._scheduler.try_out(submission.script, submission.arguments, user=self._place.user)

    def find_lost(self, submissions: Iterable[Submission]) -> None:
        """Find the jobs of submissions whose answer did not come. Raises SchedulerError."""
        for submission in submissions:
            if submission.job is None and submission.tries:
                submission.became(self._scheduler.find(submission.name))
                submission.missing_since = submission.missing_since or time.monotonic()

    def find_others(self, submissions: Iterable[Submission]) -> None:
        """Find what else became of submissions that were tried again. Raises SchedulerError."""
        for submission in submissions:
            if submission.tries > 1 and not submission.adopted:
                submission.became(self._scheduler.find(submission.name))

    def _environment(self, unit: Unit, options: SlurmOptions) -> dict[str, str]:
        cache = self._run.user_cache_dir
        below = options.user_local_exports if cache else {}
        if options.user_local_exports and not cache and not self._has_warned:
            self._has_warned = True
            names = ", ".join(options.user_local_exports)
            self._logger.warning("user_local_exports are left out, as there is no user_cache_dir: %s", names)
        return {**options.exports, **{name: f"{cache}/{path}" for name, path in below.items()}, **unit.env}


def _of_steps(options: SlurmOptions) -> str:
    """A step takes all that the job has of each resource; the next one would wait for that."""
    if options.asks_for_gpus:
        return "--overlap"
    return "--gres=none" if options.asks_for_gres else ""


def pause_after(tries: int) -> float:
    """Seconds until the scheduler is asked once more for what it did not do."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**tries)


def _words_file(folder: Path) -> str:
    """Where SLURM's own words on an array task go, next to its receipts."""
    path = str(folder)
    if "\\" in path:  # has to be doubled, and keeps SLURM from seeing patterns: one file must do for all
        return path.replace("\\", "\\\\") + "/job.out"
    return path.replace("%", "%%") + "/%A_%a.out"
