"""The backend `slurm`."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

from fractal_backends import Backend, InvalidInputError, RunInfo, Source, Support, TaskPart, UnitExecutor

from .calls import SchedulerError
from .dry_run import explain
from .executor import SlurmExecutor
from .options import SlurmOptions, account_problem, charged_account
from .places import OtherPlace, Place, SharedPlace
from .preflight import Preflight
from .scheduler import Scheduler
from .site_file import option_sources
from .submitting import Submitter

_USER = re.compile(r"\w[\w.@\\+-]*\$?")
_ACCOUNT = re.compile(r"\w[\w.@+:/-]*")


class SlurmBackend(Backend):
    """Runs units as job arrays of a SLURM cluster."""

    name = "slurm"
    interface_version = 1
    description = "A SLURM cluster: units as job arrays, as yourself or as another user"
    options_model = SlurmOptions
    config_file_variable = "FRACTAL_SLURM_CONFIG_FILE"
    capabilities = frozenset({"memory_limit", "time_limit", "readopt"})
    capability_options: ClassVar[Mapping[str, str]] = {"memory_limit": "mem", "time_limit": "time"}
    arguments: ClassVar[Mapping[str, Support]] = dict.fromkeys(Backend.arguments, Support.HONOURED)

    @classmethod
    def option_sources(cls, file: Source | None, meta: Source, given: Source) -> list[Source]:
        """See `Backend.option_sources`."""
        return option_sources(cls.options_model, file, meta, given)

    def problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.problems`."""
        of_arguments = list(_problems_of_arguments(run))
        yield from of_arguments
        of_accounts = {part.name: _account_problem(part, run) for part in parts}
        yield from (f"{name}: {problem}" for name, problem in of_accounts.items() if problem)
        if not of_arguments:
            if obstacle := self._place(run).obstacle:
                yield f"workflow_dir_remote: {obstacle}; give a folder that is new or empty"
            yield from self.site_problems(run, [part for part in parts if not of_accounts[part.name]])

    def site_problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """What the cluster would refuse of parts; nothing where it does not answer now."""
        scheduler = self.scheduler(run)
        try:
            scheduler.check()
        except SchedulerError as error:
            yield str(error)
            return
        preflight = Preflight(scheduler, other_user(run.slurm_user))
        for part in parts:
            options = cast(SlurmOptions, part.options)
            account = charged_account(options, run.slurm_account)
            try:
                units = part.units or options.parallel_tasks_per_job or 1
                problems = preflight.problems(units, options, account)
                yield from (f"{part.name}: {problem}" for problem in problems)
            except SchedulerError as error:
                if error.may_pass:
                    run.logger.warning("SLURM does not say now whether it takes the options: %s", error)
                else:
                    yield str(error)
                return

    def explain(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.explain`."""
        return explain(Submitter(run, self.scheduler(run), self._place(run)), parts)

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        scheduler = self.scheduler(run)
        scheduler.check()
        return SlurmExecutor(run, scheduler, self._place(run))

    def scheduler(self, run: RunInfo) -> Scheduler:
        """The scheduler that the units of a run go to."""
        return Scheduler()

    def _place(self, run: RunInfo) -> Place:
        user = other_user(run.slurm_user)
        if run.workflow_dir_local == run.workflow_dir_remote and user is None:
            return SharedPlace(run.workflow_dir_local)
        as_user = self.scheduler(run).as_user
        return OtherPlace(run.workflow_dir_local, run.workflow_dir_remote, user, as_user)


def _problems_of_arguments(run: RunInfo) -> Iterable[str]:
    try:
        user = other_user(run.slurm_user)
    except InvalidInputError as error:
        yield str(error)
    else:
        if user is not None and run.workflow_dir_remote == run.workflow_dir_local:
            yield (
                f"slurm_user={user!r} needs a workflow_dir_remote, where that user may write: the run's"
                f" folder {run.workflow_dir_local} is private to the user who runs the workflow"
            )
    remote = run.workflow_dir_remote
    if remote != run.workflow_dir_local and (".." in remote.parts or remote == remote.parent):
        yield f"workflow_dir_remote: {remote} must be a folder of its own, and a path without `..`"
    if run.slurm_account is not None and not _ACCOUNT.fullmatch(run.slurm_account):
        yield f"slurm_account: {run.slurm_account!r} is not the name of an account"


def _account_problem(part: TaskPart, run: RunInfo) -> str | None:
    return account_problem(cast(SlurmOptions, part.options), run.slurm_account)


def other_user(name: str | None) -> str | None:
    """The user that units run as, if that is not the runner's own. Raises InvalidInputError."""
    if name is None:
        return None
    try:
        known = pwd.getpwnam(name) if _USER.fullmatch(name) else None
    except KeyError:
        known = None
    if known is None:
        raise InvalidInputError(f"slurm_user: this machine knows no user {name!r}")
    return None if known.pw_uid == os.getuid() else name
