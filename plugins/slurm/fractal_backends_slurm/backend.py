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
from .options import SlurmOptions, account_problem
from .packing import SiteLimits, pack
from .places import OtherPlace, Place, SharedPlace
from .scheduler import Scheduler
from .site_file import option_sources
from .submitting import Submitter

_USER = re.compile(r"[A-Za-z_][\w.-]*\$?")
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
        return option_sources(file, meta, given)

    def problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.problems`."""
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
        if run.slurm_account is not None and not _ACCOUNT.fullmatch(run.slurm_account):
            yield f"slurm_account: {run.slurm_account!r} is not the name of an account"
        for part in parts:
            if problem := account_problem(cast(SlurmOptions, part.options), run.slurm_account):
                yield f"{part.name}: {problem}"
        yield from self.site_problems(run, parts)

    def site_problems(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """What the cluster cannot do that parts ask for; nothing where it does not say now what it can."""
        scheduler = self.scheduler(run)
        limits: dict[str | None, SiteLimits] = {}
        for part in parts:
            options = cast(SlurmOptions, part.options)
            try:
                if options.partition not in limits:
                    limits[options.partition] = scheduler.limits(options.partition)
                pack(part.units or 1, options, limits[options.partition])
            except InvalidInputError as error:
                yield from (f"{part.name}: {problem}" for problem in error.problems or [error.what])
            except SchedulerError as error:
                if error.may_pass:
                    return
                yield f"{part.name}: {error}"

    def explain(self, run: RunInfo, parts: Sequence[TaskPart]) -> Iterable[str]:
        """See `Backend.explain`."""
        return explain(Submitter(run, self.scheduler(run), _place(run)), parts)

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        scheduler = self.scheduler(run)
        scheduler.check()
        return SlurmExecutor(run, scheduler, _place(run))

    def scheduler(self, run: RunInfo) -> Scheduler:
        """The scheduler that the units of a run go to."""
        return Scheduler()


def _place(run: RunInfo) -> Place:
    user = other_user(run.slurm_user)
    if run.workflow_dir_local == run.workflow_dir_remote and user is None:
        return SharedPlace(run.workflow_dir_local)
    return OtherPlace(run.workflow_dir_local, run.workflow_dir_remote, user)


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
