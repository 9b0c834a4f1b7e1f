"""The backend `slurm`."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from typing import ClassVar

from fractal_backends import Backend, InvalidInputError, RunInfo, Support, UnitExecutor

from .executor import SlurmExecutor
from .options import SlurmOptions
from .places import OtherPlace, Place, SharedPlace
from .scheduler import Scheduler

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

    def open(self, run: RunInfo) -> UnitExecutor:
        """See `Backend.open`."""
        user = other_user(run.slurm_user)
        check_account(run.slurm_account)
        scheduler = self.scheduler(run)
        scheduler.check()
        return SlurmExecutor(run, scheduler, _place(run, user), user)

    def scheduler(self, run: RunInfo) -> Scheduler:
        """The scheduler that the units of a run go to."""
        return Scheduler()


def _place(run: RunInfo, user: str | None) -> Place:
    local, remote = run.workflow_dir_local, run.workflow_dir_remote
    if local == remote and user is None:
        return SharedPlace(local)
    if local == remote:
        raise InvalidInputError(
            f"slurm_user={user!r} needs a workflow_dir_remote, where that user may write:"
            f" the run's folder {local} is private to the user who runs the workflow"
        )
    return OtherPlace(local, remote, user)


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


def check_account(account: str | None) -> None:
    """Raises InvalidInputError where that is no name of an account."""
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise InvalidInputError(f"slurm_account: {account!r} is not the name of an account")
